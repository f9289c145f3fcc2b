"""Reads request traces in the format of Mooncake's FAST '25 release: one JSON object a line.

A line holds `timestamp` (ms), `input_length` and `output_length` (tokens) and `hash_ids`, one id per block of the
input, in order; equal ids are equal prefixes. What is done with the requests lives elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from lms_tiers.errors import TraceError

#: Tokens in one block of a Mooncake trace.
BLOCK_TOKENS: Final = 512


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
    """

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int | str, ...]

    def tail_is_partial(self, block_tokens: int = BLOCK_TOKENS) -> bool:
        """Whether the last block is not full.

        Examples
        --------
        >>> Request(0, 700, 1, (1, 2)).tail_is_partial()
        True
        >>> Request(0, 1024, 1, (1, 2)).tail_is_partial()
        False
        """
        return self.input_length < len(self.hash_ids) * block_tokens


def iter_trace(path: str | os.PathLike[str], *, limit: int | None = None, any_order: bool = False) -> Iterator[Request]:
    """The requests of a trace file, one at a time.

    Parameters
    ----------
    path : path
        UTF-8 text; blank lines are skipped.
    limit : int, optional
        Stop after so many requests.
    any_order : bool
        Take timestamps that go back as they come instead of raising.

    Raises
    ------
    TraceError
        The file cannot be read, a line is not a request, or its timestamp lies before the line above; with the
        line's number.
    """
    name = os.fspath(path)
    last = float("-inf")
    count = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if limit is not None and count >= limit:
                    return
                if not line.strip():
                    continue
                request = _parse(name, number, line)
                if request.timestamp < last and not any_order:
                    raise TraceError(
                        name,
                        number,
                        f"timestamp {request.timestamp:g} lies before {last:g} above it: sort the trace by timestamp, "
                        "or allow any order.",
                    )
                last = request.timestamp
                count += 1
                yield request
    except OSError as error:
        raise TraceError(name, 0, f"cannot be read: {error.strerror or error}.") from error


def read_trace(path: str | os.PathLike[str], *, limit: int | None = None, any_order: bool = False) -> list[Request]:
    """All requests of a trace file; an empty trace is a `TraceError`. Parameters as in `iter_trace`."""
    requests = list(iter_trace(path, limit=limit, any_order=any_order))
    if not requests and limit != 0:
        raise TraceError(os.fspath(path), 0, "holds no requests: one JSON object a line is expected.")
    return requests


def _parse(name: str, number: int, line: bytes) -> Request:
    try:
        record: Any = json.loads(line)
    except ValueError as error:  # also bytes that are not UTF-8
        raise TraceError(name, number, f"is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise TraceError(name, number, "is not a JSON object with timestamp, input_length, output_length, hash_ids.")
    try:
        timestamp, ids = record["timestamp"], record["hash_ids"]
        input_length, output_length = record["input_length"], record.get("output_length", 0)
    except KeyError as error:
        raise TraceError(name, number, f"has no {error.args[0]!r}.") from None
    if type(timestamp) not in (int, float) or not abs(timestamp) < float("inf"):
        raise TraceError(name, number, f"timestamp {timestamp!r} is not a number of milliseconds.")
    for field, value in (("input_length", input_length), ("output_length", output_length)):
        if type(value) is not int or value < 0:
            raise TraceError(name, number, f"{field} {value!r} is not a count of tokens.")
    if not isinstance(ids, list) or not all(type(i) is int or type(i) is str for i in ids):
        raise TraceError(name, number, "hash_ids must be a list of ids, each an integer or a text.")
    return Request(timestamp, input_length, output_length, tuple(ids))
