"""Marks that several families share: whether calls of several threads overlapped in time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from lms_conformance.record import Record

#: The mark that is set.
OVERLAPPED: Final = "threads overlapped"


class Overlap:
    """Watches calls; those of two threads that are on their way at one time set a mark.

    Parameters
    ----------
    trial : Record
    state : str
        The mark.
    """

    def __init__(self, trial: Record, state: str = OVERLAPPED) -> None:
        self._trial = trial
        self._state = state
        self._inside: set[int] = set()

    @contextlib.contextmanager
    def call(self, thread: int) -> Iterator[None]:
        """The block is one call of that thread."""
        self._inside.add(thread)
        if len(self._inside) > 1:
            self._trial.mark(self._state)
        try:
            yield
        finally:
            self._inside.discard(thread)
