"""`lms-tiers advise`: the device line to use for a workload and a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Optional

import typer

from lms_tiers.cli.trace_options import AnyOrderOption, BlockTokensOption, FormatOption, TimeUnitOption, TraceArgument

#: Options of a fleet.
_FLEET: Final = ("instances", "route", "shared", "shards", "step", "plot")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("advise")
    def advise(
        ctx: typer.Context,
        trace: TraceArgument,
        block_bytes: Annotated[str, typer.Option(help="Bytes of one block, with a unit.", show_default=False)],
        budget: Annotated[
            str, typer.Option(help="Tiers, fastest first, such as gpu=8GiB,cpu=64GiB,disk=1TiB.", show_default=False)
        ],
        policies: Annotated[str, typer.Option(help="Policies to try, separated by commas.")] = "lru,leaf_lru,hazard",
        fleet: Annotated[
            bool, typer.Option("--fleet", help="A fleet with this budget in each host over a tier that all share.")
        ] = False,
        instances: Annotated[str, typer.Option(help="With --fleet: how many hosts; several by commas.")] = "1,4,16,64",
        shared: Annotated[str, typer.Option(help="With --fleet: bytes of the tier that all share.")] = "8TiB",
        shards: Annotated[int, typer.Option(min=1, help="With --fleet: nodes of the shared tier.")] = 3,
        route: Annotated[str, typer.Option(help="With --fleet: round-robin, session or prefix.")] = "session",
        step: Annotated[str, typer.Option(help="With --fleet: bytes more of a tier to look at.")] = "1TiB",
        plot: Annotated[
            Optional[Path], typer.Option(help="With --fleet: write a PNG of hits by tier over instances.")
        ] = None,
        requests: Annotated[Optional[int], typer.Option(min=1, help="Look at so many requests only.")] = None,
        format: FormatOption = None,
        block_tokens: BlockTokensOption = None,
        time_unit: TimeUnitOption = None,
        any_order: AnyOrderOption = False,
        json_file: Annotated[
            Optional[Path], typer.Option("--json", help="Write all that was tried as JSON; - is standard output.")
        ] = None,
    ) -> None:
        """Find the device line to use for a trace.

        Simulates compositions and policies; or tells what a fleet of hosts would do.
        """
        from rich.console import Console
        from rich.table import Table

        from lms_tiers.cli.advise_fleet import advise_fleets
        from lms_tiers.cli.output import check_output, write_json
        from lms_tiers.cli.progress import progress_bar
        from lms_tiers.cli.trace_options import document, load, warn
        from lms_tiers.errors import ConfigError
        from lms_tiers.replay.advise import advise as find
        from lms_tiers.replay.advise import candidates, parse_budget
        from lms_tiers.replay.plausible import write_doubts
        from lms_tiers.replay.plot import require_matplotlib
        from lms_tiers.replay.simulate import policy_names, prepare
        from lms_tiers.sizes import format_size, parse_size

        if not fleet:
            _refuse_fleets(ctx)
        check_output(json_file)
        check_output(plot)
        if plot is not None:
            require_matplotlib()
        tiers, size = parse_budget(budget), parse_size(block_bytes)
        if size < 1:
            raise ConfigError("--block-bytes must be at least one byte.")
        names = policy_names(policies)
        read, doubts = load(trace, format, block_tokens, time_unit, limit=requests, any_order=any_order)
        stream = prepare(read.requests)
        output = Console(stderr=str(json_file) == "-")
        if fleet:
            fleets = advise_fleets(
                Console(stderr=True), output, stream, names, tiers, size, instances=instances, route=route,
                shared=shared, shards=shards, step=step, plot=plot,
            )  # fmt: skip
            if json_file is not None:
                write_json(json_file, {**document(trace, read, doubts), "fleets": fleets})
            return
        total = len(stream.keys) * len(candidates(len(tiers), names))
        with progress_bar(Console(stderr=True), "simulating", total) as done:
            found = find(stream, tiers, size, names, done)
        beyond = write_doubts(zip((tier.name for tier in tiers), found[0].writes_per_day, strict=True))
        warn(beyond)
        table = Table(title="Best first")
        table.add_column("hits", justify="right")
        for tier in tiers:
            table.add_column(f"in {tier.name}", justify="right")
        table.add_column("written to the lowest tier a day", justify="right")
        table.add_column("composition")
        table.add_column("policies")
        for advice in found[:8]:
            table.add_row(
                f"{100 * advice.hit_ratio:.2f} %",
                *(f"{100 * ratio:.2f} %" for ratio in advice.tier_hit_ratios),
                format_size(advice.writes_per_day[-1]),
                advice.composition,
                " > ".join(advice.policies),
            )
        output.print(table)
        output.print(f"device: {found[0].device}", soft_wrap=True, markup=False)
        if json_file is not None:
            told = document(trace, read, doubts + beyond)
            write_json(json_file, {**told, "best": found[0].document(), "tried": [a.document() for a in found]})


def _refuse_fleets(ctx: typer.Context) -> None:
    """An option that would change nothing is a mistake."""
    from lms_tiers.errors import ConfigError

    for name in _FLEET:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name} is for a fleet: give --fleet, or leave it out.")
