"""The calls that run in a store, and what becomes of one that is interrupted.

Each call is numbered. One that reads notes the number of changes it came in at, before it looks a chunk up: whoever
enters after a change cannot find what the change gave up. That is an entry in a dictionary, and no lock.

An interrupt (a signal, out of memory) may come between any two steps. Nothing is undone step by step: `Store.let_go`
finishes a change that had begun, gives back what puts had, and works counts, charges and free pages out anew.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from lms_tiers.changes import Awaited
from lms_tiers.errors import StorageUnavailableError, from_anywhere

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds that give a thread which waits for the interpreter's lock time to wake up: with the timer's slack some 70 µs.
_WAKING: Final = 2e-5

#: How often a mending that is interrupted itself is begun anew.
_TRIES: Final = 100


class Calls:
    """Those of one store.

    Attributes
    ----------
    now : int
        The running number of changes.
    inside : dict
        The number of changes at which each call came in, by the call's number.
    numbers : iterator of int
        A call has a larger number than all that had begun before it.
    failures : int
        Calls that ended because of the medium.
    """

    def __init__(self) -> None:
        self.now = 0
        self.failures = 0
        self.inside: Final[dict[int, int]] = {}
        self.numbers: Final = count(1)
        #: For who waits for calls to leave.
        self.left: Final = Awaited(threading.Lock())
        self._waiting = 0

    def oldest(self) -> int:
        """What was given up before this number, nobody reads any more."""
        # A copy of the values is one step of the interpreter: readers come and go meanwhile.
        return min(list(self.inside.values()), default=self.now + 1)

    def advance(self) -> int:
        """Count a change, which readers see already; the number that what it gave up must wait for."""
        self.now += 1
        return self.now - 1

    def leave(self, number: int) -> None:
        """A call is out."""
        self.inside.pop(number, None)
        if self._waiting:
            with self.left.lock:
                self.left.wake()

    def give_way(self) -> None:
        """Let readers inside have the interpreter's lock: called between two chunks of a batch, without a lock.

        A batch lets it go for each checksum, for less time than a waiting reader needs to wake up: the reader finds it
        taken again, time after time. Another batch has its turn while this one's bytes are written.
        """
        if len(self.inside) > 1 and self.oldest() != sys.maxsize:
            time.sleep(_WAKING)

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition on who is inside; whether it came about."""
        with self.left.lock:
            self._waiting += 1
        try:
            return self.left.wait_for(condition, timeout)
        finally:
            with self.left.lock:
                self._waiting -= 1


class _Store(Protocol):
    @property
    def calls(self) -> Calls:
        """Those that run in it."""

    def check(self) -> None:
        """Raise where no call may begin."""

    def let_go(self, number: int) -> None:
        """Make whole what a call of this thread left that has this number and was interrupted."""


class _OfStore(Protocol):
    @property
    def _store(self) -> _Store: ...


S = TypeVar("S", bound=_OfStore)


def reading(call: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that looks chunks up and reads them: what it may have found is not used again before it is over."""
    return _within(call, holds=True)


def calling(call: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that reads no chunk: it holds nothing back, and closing waits for it as well."""
    return _within(call, holds=False)


def _within(call: Callable[Concatenate[S, P], R], holds: bool) -> Callable[Concatenate[S, P], R]:
    @functools.wraps(call)
    def within(it: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        store = it._store
        calls = store.calls
        number = next(calls.numbers)
        try:
            try:  # at once: between two of these nothing must be that an interrupt could leave
                calls.inside[number] = calls.now if holds else sys.maxsize
                store.check()
                return call(it, *args, **kwargs)
            finally:
                calls.leave(number)
        except BaseException as error:
            _ended(store, number, error)
            raise

    return within


@contextmanager
def staying(store: _Store) -> Iterator[None]:
    """As `reading`, around a block."""
    calls = store.calls
    number = next(calls.numbers)
    try:
        try:
            calls.inside[number] = calls.now
            store.check()
            yield
        finally:
            calls.leave(number)
    except BaseException as error:
        _ended(store, number, error)
        raise


def _ended(store: _Store, number: int, error: BaseException) -> None:
    if isinstance(error, StorageUnavailableError):
        store.calls.failures += 1
    if not from_anywhere(error):
        return
    for left in reversed(range(_TRIES)):
        try:
            store.calls.leave(number)
            store.let_go(number)
            return
        except BaseException:
            if not left:
                raise
