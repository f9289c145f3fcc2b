"""Waiting for a change of something without holding its lock, and no longer than until a deadline; and interrupts.

A condition gives its lock up and takes it again; an interrupt in between leaves the caller without the lock it is about
to release. Here a waiter registers under the lock, gives the lock up by leaving its block, and then waits.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from lms_tiers.errors import DeadlineExceededError, StorageUnavailableError

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds between two looks while nothing is reported.
_TICK: Final = 0.05


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


class Awaited(Changes):
    """The same with the lock of what changes, for who waits until something is so.

    Parameters
    ----------
    lock : threading.Lock
        It is taken in one step, which no interrupt divides.
    """

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self.lock: Final = lock

    def wait_for(self, condition: Callable[[], R], seconds: float) -> R:
        """What `condition` says once it is true, or after `seconds`. It is asked with the lock held, here."""
        deadline = time.monotonic() + seconds
        while True:
            with self.lock:
                found = condition()
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                change = self.next()
            self.wait(change, left)

    def until(self, condition: Callable[[], object], deadline: Deadline) -> None:
        """Return when `condition` is true: asked as in `wait_for`, also where nobody tells of a change.

        Raises
        ------
        DeadlineExceededError
            Or what `condition` raises.
        """
        while True:
            with self.lock:
                if condition():
                    return
                change = self.next()
            self.wait(change, deadline.tick())


class Deadline:
    """A point in time that may be never."""

    def __init__(self, operation: str, seconds: float | None) -> None:
        self._operation = operation
        self._seconds = seconds
        self._at = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds left, None for no limit.

        Raises
        ------
        DeadlineExceededError
            None are left.
        """
        if self._at is None:
            return None
        left = self._at - time.monotonic()
        if left <= 0:
            raise DeadlineExceededError(self._operation, self._seconds or 0.0)
        return left

    def tick(self) -> float:
        """How long to wait before looking again."""
        left = self.left()
        return _TICK if left is None else min(_TICK, left)


def begin(thread: threading.Thread) -> None:
    """Start a thread without which nothing can go on.

    Raises
    ------
    StorageUnavailableError
        There can be no more threads; `where` is the name of this one.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise StorageUnavailableError(
            thread.name, f"{error}: end other threads, or raise the limit of them."
        ) from error


class Mends(Protocol):
    """What can be made whole."""

    def _mend(self, error: BaseException) -> None:
        """Give back what a call of this thread held, which `error` may have ended anywhere."""


M = TypeVar("M", bound=Mends)


def mending(call: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """A method that leaves its object whole where the call ends by an interrupt."""

    @functools.wraps(call)
    def mended(it: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(it, *args, **kwargs)
        except BaseException as error:
            it._mend(error)
            raise

    return mended
