"""`lms-tiers replay`: a real trace with real bytes through a device, timed, verified and restarted."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lms_tiers.cli.trace_options import AnyOrderOption, BlockTokensOption, FormatOption, TimeUnitOption, TraceArgument

if TYPE_CHECKING:
    from rich.console import Console

    from lms_tiers.replay.report import Report
    from lms_tiers.replay.trace import Trace


class Keys(enum.StrEnum):
    """Whose key and metadata types to put with."""

    native = "native"
    lmcache = "lmcache"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("replay")
    def replay(
        trace: TraceArgument,
        device: Annotated[
            str,
            typer.Option(
                help="What to replay through, such as 'cpu?capacity=1GiB > lmdb:DIR?capacity=10GiB'.",
                show_default=False,
            ),
        ],
        requests: Annotated[
            Optional[int], typer.Option(min=1, help="Replay so many requests only.", show_default="all")
        ] = None,
        block_bytes: Annotated[str, typer.Option(help="Bytes of one block, with a unit.")] = "256KiB",
        format: FormatOption = None,
        block_tokens: BlockTokensOption = None,
        time_unit: TimeUnitOption = None,
        any_order: AnyOrderOption = False,
        restart: Annotated[
            bool, typer.Option("--restart", help="Close, reopen in a new process, and read back what should be warm.")
        ] = False,
        json_file: Annotated[
            Optional[Path], typer.Option("--json", help="Write the figures as JSON; - is standard output.")
        ] = None,
        plot: Annotated[
            Optional[Path], typer.Option(help="Write a PNG of hit ratio and bytes per tier over time.")
        ] = None,
        keys: Annotated[
            Keys, typer.Option(help="Key and metadata types: this package's, or LMCache's own.")
        ] = Keys.native,
        keep_partial: Annotated[
            bool, typer.Option("--keep-partial/--skip-partial", help="Put the partly filled last block of an input.")
        ] = True,
    ) -> None:
        """Replay a trace with real bytes.

        Exit 1 if any byte was wrong or a tier went over its capacity.
        """
        from rich.console import Console

        from lms_tiers.cli.output import check_output, write_json
        from lms_tiers.cli.trace_options import document, load
        from lms_tiers.replay.plot import plot_replay, require_matplotlib
        from lms_tiers.sizes import parse_size

        check_output(json_file)
        check_output(plot)
        if plot is not None:
            require_matplotlib()
        size = parse_size(block_bytes)
        read, doubts = load(trace, format, block_tokens, time_unit, limit=requests, any_order=any_order)
        report = _run(trace, read, device, size, keys, keep_partial, restart, Console(stderr=True))
        if json_file is not None:
            figures = report.document()
            figures["run"] |= document(trace, read, doubts)
            write_json(json_file, figures)
        if plot is not None:
            plot_replay(report, plot)
        Console(stderr=str(json_file) == "-").print(report.table())
        if not report.passed:
            raise typer.Exit(1)


def _run(
    trace: Path, read: Trace, device: str, block_bytes: int, kind: Keys, keep_partial: bool, restart: bool,
    console: Console,
) -> Report:  # fmt: skip
    from contextlib import ExitStack

    from rich import progress

    from lms_tiers.device import parse_device
    from lms_tiers.factory import open_device
    from lms_tiers.replay.blocks import BlockBytes
    from lms_tiers.replay.keys import BlockKeys, key_types
    from lms_tiers.replay.replay import Replay, ReplayResult
    from lms_tiers.replay.report import Report
    from lms_tiers.replay.restart import ReadBack, read_back, warm_blocks
    from lms_tiers.replay.tiers import TierMeter
    from lms_tiers.secrets import mask

    requests = read.requests
    block_keys = BlockKeys(block_bytes, key_types(kind.value))
    blocks = BlockBytes(block_bytes)
    spec = parse_device(device)
    bar = progress.Progress(
        progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"), progress.TextColumn("ETA"), progress.TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
    with ExitStack() as shown:
        task = bar.add_task("replay", total=len(requests), rate="")

        def show(result: ReplayResult) -> None:
            elapsed = result.samples[-1].seconds
            moved = (result.get.blocks + result.put.blocks) * block_bytes
            hits = result.prefix_hits / result.blocks if result.blocks else 0.0
            rate = f"{result.requests / elapsed:,.0f}/s, {moved / elapsed / 1e6:,.0f} MB/s, {100 * hits:.1f} % hits"
            bar.update(task, completed=result.requests, rate=rate)

        with open_device(spec) as backend:
            if console.is_terminal:
                shown.enter_context(bar)
            persistent = backend.capabilities.persistent
            meter = TierMeter(backend, spec)
            result = Replay(backend, blocks, block_keys, meter, keep_partial).run(requests, show)
            tiers = meter.figures(result.verified)
            warm = warm_blocks(backend, block_keys, requests) if restart else []
        reread = None
        if restart:
            reading = bar.add_task("restart", total=len(warm), rate="")
            work = ReadBack(device, block_bytes, kind.value, tuple(warm))
            reread = read_back(work, lambda done: bar.update(reading, completed=done))
            bar.update(reading, completed=len(warm))
    return Report(str(trace), mask(device), kind.value, block_bytes, result, tiers, reread, persistent)
