"""The calls of one execution of a property, as the lines of a program that a failure prints."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO


@dataclass(slots=True)
class Line:
    """One line of the recorded program; its comment is known after the call."""

    code: str
    comment: str = ""


class Record:
    """What was called, in order.

    Parameters
    ----------
    journal : file, optional
        Each line is written here before its call, for a process that may die of it.

    Attributes
    ----------
    lines : list of Line
    calls : int
        Those made inside `quiet` too.
    ever_hit : bool
        Whether any `get` ever answered a chunk.
    marks : Counter of str
        States that were reached, and how often.
    impossible : dict of str to str
        States that this medium does not have, and why.
    """

    def __init__(self, journal: IO[str] | None = None) -> None:
        self.lines: list[Line] = []
        self.calls = 0
        self.ever_hit = False
        self.marks: Counter[str] = Counter()
        self.impossible: dict[str, str] = {}
        self._quiet = 0
        self._journal = journal
        self._begin_journal()

    def record(self, code: str) -> Line:
        """Note a line of Python; inside `quiet`, count only."""
        line = Line(code)
        self.calls += 1
        if not self._quiet:
            self.lines.append(line)
            if self._journal is not None:
                self._journal.write(code + "\n")
                self._journal.flush()
        return line

    def _begin_journal(self) -> None:
        if self._journal is not None:
            self._journal.seek(0)
            self._journal.truncate()

    def mark(self, state: str) -> None:
        """Note that a state was reached, without which a pass would prove nothing; see `Property.marks`."""
        self.marks[state] += 1

    def cannot(self, state: str, reason: str) -> None:
        """Note why this medium has no such state: without it the property does not apply."""
        self.impossible[state] = reason

    def ran(self, calls: int) -> None:
        """Count calls that were made to a backend itself."""
        self.calls += calls

    @contextlib.contextmanager
    def quiet(self, code: str) -> Iterator[None]:
        """Note `code` once for all calls made inside."""
        self.record(code)
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1
