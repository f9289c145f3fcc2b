"""Waiting for a change of something without holding its lock.

A condition gives its lock up and takes it again; an interrupt in between leaves the caller without the lock it is about
to release. Here a waiter registers under the lock, gives the lock up by leaving its block, and then waits.
"""

from __future__ import annotations

import threading
from typing import Final


class Changes:
    """Who waits for the next change. Methods need the lock of what changes held, unless they say otherwise."""

    def __init__(self) -> None:
        self._waiting: Final[set[threading.Lock]] = set()

    def next(self) -> threading.Lock:
        """What the next change releases."""
        change = threading.Lock()
        change.acquire()
        self._waiting.add(change)
        return change

    def wait(self, change: threading.Lock, seconds: float | None) -> None:
        """Return when `change` has come, or after `seconds`. The lock is not held."""
        if not change.acquire(timeout=-1 if seconds is None else max(0.0, seconds)):
            self._waiting.discard(change)

    def wake(self) -> None:
        """Something changed."""
        while self._waiting:
            for change in list(self._waiting):
                if change.locked():
                    change.release()
                self._waiting.discard(change)
