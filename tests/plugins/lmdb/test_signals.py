"""A signal that comes while a call waits for others ends the call, and leaves every lock with who has it."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from lms_tiers.changes import Changes
from lms_tiers.errors import CapacityError
from lms_tiers.plugins.lmdb.backend import LmdbBackend
from lms_tiers.plugins.lmdb.calls import staying
from lms_tiers.plugins.lmdb.checkpoint import Checkpoints
from tests.plugins.lmdb.waiting import until
from tests.plugins.lmdb.whole import assert_whole
from tests.stepping import until_it_waits

KIB = 1 << 10

Open = Callable[..., LmdbBackend]
Put = Callable[[int], None]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Holder:
    """Takes a lock once the main thread waits in a function, rouses it, interrupts it, and looks who has the lock."""

    def __init__(self, lock: Any, rouse: Callable[[], None], function: Callable[..., Any]) -> None:
        self._lock, self._rouse, self._code = lock, rouse, function.__code__
        self.kept = False
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        main = threading.main_thread()
        ident = main.ident
        assert ident is not None
        # One that waits for the interpreter seems asleep too, wherever it is.
        until(lambda: sys._current_frames()[ident].f_code is self._code)
        until_it_waits(main)
        with self._lock:
            self._rouse()
            until_it_waits(main)
            signal.pthread_kill(ident, signal.SIGUSR1)
            until_it_waits(main)
            self.kept = self._lock.locked()


@contextmanager
def interrupted_while_it_waits(
    lock: Any, rouse: Callable[[], None], function: Callable[..., Any] = Changes.wait
) -> Iterator[None]:
    """The call within the block is interrupted when it has waited and wants the lock, which another thread has."""
    before = signal.signal(signal.SIGUSR1, _interrupt)
    holder = Holder(lock, rouse, function)
    holder.thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        holder.thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert holder.kept, "the call let another thread's lock go"


@pytest.fixture
def put(message: Any, content: Any) -> Callable[[LmdbBackend, int, int], None]:
    return lambda backend, number, length: backend.put(message(number, length), content(number, length))


def filled(backend: LmdbBackend, put: Any) -> int:
    """Put until no more fits; how many."""
    for number in itertools.count():
        try:
            put(backend, number, 256 * KIB)
        except CapacityError:
            return number
    raise AssertionError


def test_a_put_that_waits_for_the_journal(opening: Open, put: Any) -> None:
    backend = opening(capacity=4 << 20, sync="none")
    store = backend._store
    with backend._checkpoints._making:  # none comes to an end

        def fill() -> None:
            for number in range(1 << 20):
                put(backend, number % 40, 1)

        with interrupted_while_it_waits(store.lock, store.changed.wake, Checkpoints.make):
            fill()
        assert store.journal.room < 4 * KIB
    backend._checkpoints.make()
    put(backend, 7, 1)
    assert_whole(backend)


def test_a_put_that_waits_for_a_reader(opening: Open, put: Any) -> None:
    backend = opening(capacity=4 << 20, sync="none")
    store, left = backend._store, backend._store.calls.left
    assert filled(backend, put) > 5
    with staying(backend._store):
        backend.remove_many(backend.list_keys())
        with interrupted_while_it_waits(left.lock, left.wake):
            put(backend, 99, 256 * KIB)
        assert not store._puts
        assert_whole(backend)
    put(backend, 100, 256 * KIB)
    assert_whole(backend)


def test_a_close_that_waits_for_a_reader_is_finished_by_the_next(opening: Open, put: Any) -> None:
    backend = opening(capacity=4 << 20)
    put(backend, 1, 5000)
    left = backend._store.calls.left
    with staying(backend._store), interrupted_while_it_waits(left.lock, left.wake):
        backend.close()
    backend.close()
    with opening(capacity=4 << 20) as again:
        until(lambda: again.held()[0] == 1)
        assert_whole(again)
