"""What the commands that read a trace share: its argument, the options that say how to read it, and the reading."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from lms_tiers.replay.trace import Trace


class Format(enum.StrEnum):
    """Published formats, as of `lms_tiers.replay.formats`."""

    mooncake = "mooncake"
    qwen = "qwen"


class Unit(enum.StrEnum):
    """Units of timestamps, as of `lms_tiers.replay.formats`."""

    seconds = "s"
    milliseconds = "ms"
    microseconds = "us"
    nanoseconds = "ns"


TraceArgument = Annotated[
    Path,
    typer.Argument(help="A request trace, such as Mooncake's or Qwen's; - is standard input.", show_default=False),
]
FormatOption = Annotated[
    Optional[Format], typer.Option("--format", help="The trace's format.", show_default="told from its fields")
]
BlockTokensOption = Annotated[
    Optional[int], typer.Option("--block-tokens", min=1, help="Tokens in a block.", show_default="as of the format")
]
TimeUnitOption = Annotated[
    Optional[Unit], typer.Option("--time-unit", help="What timestamps count.", show_default="as of the format")
]
AnyOrderOption = Annotated[bool, typer.Option("--any-order", help="Take timestamps that go back as they are.")]


def load(
    trace: Path,
    format: Format | None,
    block_tokens: int | None,
    time_unit: Unit | None,
    *,
    limit: int | None = None,
    any_order: bool = False,
) -> tuple[Trace, list[str]]:
    """Read a trace; say on standard error how, where it is not the usual way, and what is doubtful about it."""
    from lms_tiers.replay.formats import FORMATS, TimeUnit, TraceReading
    from lms_tiers.replay.plausible import reading_doubts
    from lms_tiers.replay.trace import load_trace

    reading = TraceReading(
        format=None if format is None else format.value,
        block_tokens=block_tokens,
        time_unit=None if time_unit is None else TimeUnit(time_unit.value),
    )
    read = load_trace(trace, limit=limit, any_order=any_order, reading=reading)
    layout = read.layout
    if format is None and layout.format != list(FORMATS)[-1]:
        typer.echo(
            f"read as a trace of {layout.format}: {layout.block_tokens} tokens a block, timestamps in "
            f"{layout.time_unit} (--format, --block-tokens and --time-unit say otherwise)",
            err=True,
        )
    doubts = reading_doubts(read.requests, layout.time_unit)
    warn(doubts)
    return read, doubts


def warn(doubts: list[str]) -> None:
    """Say doubts on standard error, a line each."""
    for doubt in doubts:
        typer.echo(f"warning: {doubt}", err=True)


def document(trace: Path, read: Trace, doubts: list[str]) -> dict[str, Any]:
    """The keys that a JSON document has of its trace."""
    return {"trace": str(trace), "format": read.layout.document(), "warnings": doubts}
