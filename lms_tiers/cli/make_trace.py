"""`lms-tiers make-trace`: a generated request trace, for where no real one may be shipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from lms_tiers.replay.generate import TraceSummary


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("make-trace")
    def make_trace(
        trace: Annotated[
            Optional[Path], typer.Argument(help="The file to write; - is standard output.", show_default=False)
        ] = None,
        output: Annotated[
            Optional[Path], typer.Option("--output", "-o", help="The same, as an option.", show_default=False)
        ] = None,
        requests: Annotated[int, typer.Option(help="Requests in the trace.")] = 1000,
        conversations: Annotated[
            Optional[int], typer.Option(help="Conversations they belong to; one for each 1.63 requests if not given.")
        ] = None,
        system_prompts: Annotated[int, typer.Option(help="Prompts that conversations share, by Zipf's law.")] = 16,
        rate: Annotated[float, typer.Option(help="Requests a second.")] = 3.4,
        seed: Annotated[int, typer.Option(help="One seed gives one file, byte for byte.")] = 0,
        json_file: Annotated[
            Optional[Path], typer.Option("--json", help="Write the summary as JSON; - is standard output.")
        ] = None,
    ) -> None:
        """Generate a trace of conversations.

        Many turns each, in Mooncake's format.
        """
        from lms_tiers.cli.output import open_output, write_json
        from lms_tiers.errors import ConfigError
        from lms_tiers.replay.generate import TraceShape, generate_trace, summarize_trace, write_trace

        target = output if trace is None else trace
        if target is None or (trace is not None and output is not None):
            raise ConfigError("name one file to write: lms-tiers make-trace trace.jsonl (or - for standard output).")
        if str(target) == "-" == str(json_file):
            raise ConfigError("the trace and --json cannot both go to standard output.")
        shape = TraceShape(
            requests=requests, conversations=conversations, system_prompts=system_prompts, rate=rate, seed=seed
        )
        made = generate_trace(shape)
        summary = summarize_trace(made)
        with open_output(target) as file:
            write_trace(made, file)
        if json_file is not None:
            write_json(json_file, dataclasses.asdict(summary))
        if str(json_file) != "-":
            _print(summary, target)


def _print(summary: TraceSummary, output: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"Trace {output}"), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests", f"{summary.requests:,}")
    table.add_row("over", f"{summary.seconds:,.0f} s")
    table.add_row("block references", f"{summary.references:,}")
    table.add_row("unique blocks", f"{summary.unique:,}")
    table.add_row("infinite cache hits", f"{100 * summary.infinite_hit_ratio:.2f} %")
    chains = (summary.chain_p50, summary.chain_p90, summary.chain_p99, summary.chain_max)
    table.add_row("blocks a request, p50 / p90 / p99 / max", " / ".join(map(str, chains)))
    # The trace may be on standard output.
    Console(stderr=str(output) == "-").print(table)
