"""`lms-tiers advise`: the device line to use for a workload and a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from lms_tiers.cli.trace_options import AnyOrderOption, BlockTokensOption, FormatOption, TimeUnitOption, TraceArgument


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("advise")
    def advise(
        trace: TraceArgument,
        block_bytes: Annotated[str, typer.Option(help="Bytes of one block, with a unit.", show_default=False)],
        budget: Annotated[
            str, typer.Option(help="Tiers, fastest first, such as gpu=8GiB,cpu=64GiB,disk=1TiB.", show_default=False)
        ],
        policies: Annotated[str, typer.Option(help="Policies to try, separated by commas.")] = "lru,leaf_lru,hazard",
        requests: Annotated[Optional[int], typer.Option(min=1, help="Look at so many requests only.")] = None,
        format: FormatOption = None,
        block_tokens: BlockTokensOption = None,
        time_unit: TimeUnitOption = None,
        any_order: AnyOrderOption = False,
        json_file: Annotated[
            Optional[Path], typer.Option("--json", help="Write all that was tried as JSON; - is standard output.")
        ] = None,
    ) -> None:
        """Simulate compositions and policies and print the device line to use."""
        from rich.console import Console
        from rich.table import Table

        from lms_tiers.cli.output import check_output, write_json
        from lms_tiers.cli.progress import progress_bar
        from lms_tiers.cli.trace_options import document, load, warn
        from lms_tiers.errors import ConfigError
        from lms_tiers.replay.advise import advise as find
        from lms_tiers.replay.advise import candidates, parse_budget
        from lms_tiers.replay.plausible import write_doubts
        from lms_tiers.replay.simulate import policy_names, prepare
        from lms_tiers.sizes import format_size, parse_size

        check_output(json_file)
        tiers, size = parse_budget(budget), parse_size(block_bytes)
        if size < 1:
            raise ConfigError("--block-bytes must be at least one byte.")
        names = policy_names(policies)
        read, doubts = load(trace, format, block_tokens, time_unit, limit=requests, any_order=any_order)
        stream = prepare(read.requests)
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
        output = Console(stderr=str(json_file) == "-")
        output.print(table)
        output.print(f"device: {found[0].device}", soft_wrap=True, markup=False)
        if json_file is not None:
            told = document(trace, read, doubts + beyond)
            write_json(json_file, {**told, "best": found[0].document(), "tried": [a.document() for a in found]})
