"""Who is inside and since when: pages given up are used again only when nobody is left who may still read them.

A reader costs one entry in a dictionary, and no lock. It enters before it looks a chunk up, so whoever enters after a
change cannot find what the change gave up.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final


class Epochs:
    """The running number of changes, and the number at which each reader came in."""

    def __init__(self) -> None:
        self.now = 0
        self.inside: Final[dict[object, int]] = {}
        self._left: Final = threading.Condition()
        self._waiting = 0

    def oldest(self) -> int:
        """What was given up before this number, nobody reads any more."""
        # A copy of the values is one step of the interpreter: readers come and go meanwhile.
        return min(list(self.inside.values()), default=self.now + 1)

    def advance(self) -> int:
        """Count a change, which the index shows already; the number that what it gave up must wait for."""
        self.now += 1
        return self.now - 1

    def reading(self) -> Inside:
        """Around a look-up and what is read by it."""
        return Inside(self, False)

    def calling(self) -> Inside:
        """Around a call that reads nothing: it holds nothing back, and `wait_empty` waits for it as well."""
        return Inside(self, True)

    def leave(self, token: object) -> None:
        """A reader is out."""
        self.inside.pop(token, None)
        if self._waiting:
            with self._left:
                self._left.notify_all()

    def wait_beyond(self, number: int, timeout: float) -> bool:
        """Wait until nobody is inside who came in at `number` or before; whether that came about."""
        return self._wait(lambda: self.oldest() > number, timeout)

    def wait_empty(self, timeout: float) -> bool:
        """Wait until nobody is inside; whether that came about."""
        return self._wait(lambda: not self.inside, timeout)

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._left:
            self._waiting += 1
            try:
                return self._left.wait_for(condition, timeout)
            finally:
                self._waiting -= 1


class Inside:
    """A call."""

    __slots__ = ("_epochs", "_harmless")

    def __init__(self, epochs: Epochs, harmless: bool) -> None:
        self._epochs = epochs
        self._harmless = harmless

    def __enter__(self) -> None:
        self._epochs.inside[self] = sys.maxsize if self._harmless else self._epochs.now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._epochs.leave(self)
