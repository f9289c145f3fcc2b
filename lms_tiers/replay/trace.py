"""Reads request traces: one JSON object a line, in a published format (formats.py) or as one is told.

A line holds `timestamp`, `input_length` and `output_length` (tokens) and `hash_ids`, one id per block of the input,
in order; equal ids are equal prefixes. What is done with the requests lives elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from lms_tiers.errors import TraceError
from lms_tiers.replay.formats import BLOCK_TOKENS, TimeUnit, TraceLayout, TraceReading, layout_of

#: The path that means standard input.
STANDARD_INPUT: Final = "-"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace.

    Attributes
    ----------
    timestamp : float
        Milliseconds since the start of the trace.
    input_length, output_length : int
        Tokens.
    hash_ids : tuple of int or str
        One id per block, in the order of the prefix chain.
    block_tokens : int
        Tokens in a full block.
    """

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int | str, ...]
    block_tokens: int = BLOCK_TOKENS

    def tail_is_partial(self) -> bool:
        """Whether the last block is not full.

        Examples
        --------
        >>> Request(0, 700, 1, (1, 2)).tail_is_partial()
        True
        >>> Request(0, 1024, 1, (1, 2)).tail_is_partial()
        False
        """
        return self.input_length < len(self.hash_ids) * self.block_tokens


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in memory, and how it was read."""

    requests: list[Request]
    layout: TraceLayout


def load_trace(
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    any_order: bool = False,
    reading: TraceReading = TraceReading(),  # noqa: B008 - it is frozen
) -> Trace:
    """All requests of a trace file; an empty trace is a `TraceError`. Parameters as in `iter_trace`."""
    reader = _Reader(path, reading)
    requests = list(reader.requests(limit, any_order))
    if not requests and limit != 0:
        raise TraceError(reader.name, 0, "holds no requests: one JSON object a line is expected.")
    return Trace(requests, reader.layout or layout_of((), reading))


def read_trace(
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    any_order: bool = False,
    reading: TraceReading = TraceReading(),  # noqa: B008 - it is frozen
) -> list[Request]:
    """The requests of `load_trace` alone."""
    return load_trace(path, limit=limit, any_order=any_order, reading=reading).requests


def iter_trace(
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    any_order: bool = False,
    reading: TraceReading = TraceReading(),  # noqa: B008 - it is frozen
) -> Iterator[Request]:
    """The requests of a trace file, one at a time.

    Parameters
    ----------
    path : path
        UTF-8 text; blank lines are skipped. ``-`` is standard input, which can be read once.
    limit : int, optional
        Stop after so many requests.
    any_order : bool
        Take timestamps that go back as they come instead of raising.
    reading : TraceReading
        What the trace is; the rest is told from the fields of its first line.

    Raises
    ------
    TraceError
        The file cannot be read, a line is not a request, or its timestamp lies before the line above; with the
        line's number.
    """
    return _Reader(path, reading).requests(limit, any_order)


class _Reader:
    """One pass over a trace; `layout` is known from its first line on."""

    def __init__(self, path: str | os.PathLike[str], reading: TraceReading) -> None:
        self._path = path
        self._reading = reading
        self.name = "standard input" if os.fspath(path) == STANDARD_INPUT else os.fspath(path)
        self.layout: TraceLayout | None = None

    def requests(self, limit: int | None, any_order: bool) -> Iterator[Request]:
        last = float("-inf")
        count = 0
        try:
            with self._open() as file:
                for number, line in enumerate(file, 1):
                    if limit is not None and count >= limit:
                        return
                    if not line.strip():
                        continue
                    record = _record(self.name, number, line)
                    if self.layout is None:
                        self.layout = layout_of(record, self._reading)
                    said = _timestamp(self.name, number, record, self.layout.time_unit)
                    if said < last and not any_order:
                        raise TraceError(
                            self.name,
                            number,
                            f"timestamp {said:g} lies before {last:g} above it: sort the trace by timestamp, "
                            "or allow any order.",
                        )
                    last = said
                    count += 1
                    yield _request(self.name, number, record, said * self.layout.time_unit.milliseconds, self.layout)
        except OSError as error:
            raise TraceError(self.name, 0, f"cannot be read: {error.strerror or error}.") from error

    def _open(self) -> AbstractContextManager[BinaryIO]:
        if os.fspath(self._path) != STANDARD_INPUT:
            return open(self._path, "rb")
        if sys.stdin is None:
            raise TraceError(self.name, 0, "is closed: pipe a trace into it, or name a file.")
        return nullcontext(sys.stdin.buffer)


def _record(name: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise TraceError(name, number, f"is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise TraceError(name, number, "is not a JSON object with timestamp, input_length, output_length, hash_ids.")
    for field in ("timestamp", "hash_ids", "input_length"):
        if field not in record:
            raise TraceError(name, number, f"has no {field!r}.")
    return record


def _timestamp(name: str, number: int, record: dict[str, Any], unit: TimeUnit) -> float:
    timestamp = record["timestamp"]
    if type(timestamp) not in (int, float) or not abs(timestamp) <= sys.float_info.max:
        raise TraceError(name, number, f"timestamp {timestamp!r} is not a number of {unit}.")
    return float(timestamp)


def _request(name: str, number: int, record: dict[str, Any], timestamp: float, layout: TraceLayout) -> Request:
    ids, input_length, output_length = record["hash_ids"], record["input_length"], record.get("output_length", 0)
    for field, value in (("input_length", input_length), ("output_length", output_length)):
        if type(value) is not int or value < 0:
            raise TraceError(name, number, f"{field} {value!r} is not a count of tokens.")
    if not isinstance(ids, list) or not all(type(i) is int or type(i) is str for i in ids):
        raise TraceError(name, number, "hash_ids must be a list of ids, each an integer or a text.")
    return Request(timestamp, input_length, output_length, tuple(ids), layout.block_tokens)
