"""The trace formats that are published, by the fields of their lines, and how one trace is to be read.

All are one JSON object a line; they differ in the unit of `timestamp` and in the tokens of a block. Reading a file
with what is decided here is trace.py.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lms_tiers.errors import ConfigError

#: Tokens in one block of a Mooncake trace.
BLOCK_TOKENS: Final = 512


class TimeUnit(enum.StrEnum):
    """What a timestamp counts."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"

    @property
    def milliseconds(self) -> float:
        """Milliseconds in one."""
        return {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}[self.value]


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One published format.

    Attributes
    ----------
    name : str
    fields : frozenset of str
        What a line of it holds and lines of the formats below it in `FORMATS` do not.
    block_tokens : int
    time_unit : TimeUnit
    """

    name: str
    fields: frozenset[str]
    block_tokens: int
    time_unit: TimeUnit

    def matches(self, record: Container[str]) -> bool:
        """Whether a line is of this format, by its fields."""
        return all(field in record for field in self.fields)


#: Known formats by name, the more telling first; the last takes what no other does.
FORMATS: Final[Mapping[str, TraceFormat]] = {
    known.name: known
    for known in (
        # Alibaba's usage traces of Qwen in Bailian.
        TraceFormat("qwen", frozenset({"chat_id", "parent_chat_id"}), 16, TimeUnit.SECONDS),
        # Mooncake's FAST '25 release, what `lms-tiers make-trace` writes, and tools that write alike.
        TraceFormat("mooncake", frozenset(), BLOCK_TOKENS, TimeUnit.MILLISECONDS),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReading:
    """What is known of a trace beforehand; None is told from its first line.

    Attributes
    ----------
    format : str or None
        A name of `FORMATS`.
    block_tokens : int or None
        Tokens in a block, whatever the format says.
    time_unit : TimeUnit or None
        The unit of timestamps, whatever the format says.
    """

    format: str | None = None
    block_tokens: int | None = None
    time_unit: TimeUnit | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(f"there is no trace format {self.format!r}.", unknown=self.format, known=FORMATS)
        if self.block_tokens is not None and self.block_tokens < 1:
            raise ConfigError(f"a block of {self.block_tokens} tokens is none: give 1 or more.")


@dataclass(frozen=True, slots=True)
class TraceLayout:
    """How one trace is read."""

    format: str
    block_tokens: int
    time_unit: TimeUnit

    def document(self) -> dict[str, Any]:
        """As it goes into JSON."""
        return {"name": self.format, "block_tokens": self.block_tokens, "time_unit": self.time_unit.value}


def layout_of(record: Container[str], reading: TraceReading) -> TraceLayout:
    """The layout of a trace whose first line is `record`, as far as `reading` leaves it open.

    Examples
    --------
    >>> layout_of({"timestamp": 0, "hash_ids": []}, TraceReading(time_unit=TimeUnit.SECONDS)).document()
    {'name': 'mooncake', 'block_tokens': 512, 'time_unit': 's'}
    """
    if reading.format is not None:
        known = FORMATS[reading.format]
    else:
        known = next(known for known in FORMATS.values() if known.matches(record))
    return TraceLayout(known.name, reading.block_tokens or known.block_tokens, reading.time_unit or known.time_unit)
