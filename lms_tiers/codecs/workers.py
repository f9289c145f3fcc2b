"""Threads that code blocks beside a caller, and the pool of them that the process shares.

Decoding half a chunk takes 200 to 400 µs. Of that `concurrent.futures` takes 11 µs to hand it over, 23 until it begins
and 20 until the caller knows of its end; a `Crew`, one queue and two locks, 7, 17 and 14.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Share:
    """One piece of work that a thread of a crew was asked to take part in."""

    __slots__ = ("_claim", "_done", "_work", "error")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._claim = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()
        self.error: BaseException | None = None

    def run(self) -> None:
        """On the thread: the work, unless it was taken back."""
        if not self._claim.acquire(False):
            return
        try:
            self._work()
        except BaseException as error:  # for the caller, who raises it
            self.error = error
        finally:
            self._done.release()

    def settle(self) -> BaseException | None:
        """Take the work back, or wait for its end where it has begun; answers what it raised. Call it once."""
        if not self._claim.acquire(False):
            self._done.acquire()
        return self.error


class Crew(Executor):
    """An executor for `Codec.encode` and `decode_into` whose threads start sooner than those of a ThreadPoolExecutor.

    Parameters
    ----------
    threads : int
        How many threads; they start with the first work and end with `shutdown`, or with the process.
    name : str
        Of the threads, which are numbered from 0.
    """

    def __init__(self, threads: int, name: str = "lms-codec") -> None:
        self.size: Final = threads
        self._name: Final = name
        self._queue: Final[SimpleQueue[Callable[[], object] | None]] = SimpleQueue()
        self._lock: Final = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._dropped = False

    def lend(self, work: Callable[[], object], count: int) -> list[Share]:
        """Ask `count` threads to call `work`; settle every share before what `work` uses changes hands.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        """
        shares = []
        for _ in range(min(count, self.size)):
            share = Share(work)
            self._put(share.run)
            shares.append(share)
        return shares

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As any executor does."""
        future: Future[T] = Future()

        def run() -> None:
            if self._dropped:
                future.cancel()
            if future.set_running_or_notify_cancel():
                try:
                    result = fn(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._put(run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after the work they were given; `cancel_futures` cancels what they have not begun."""
        with self._lock:
            self._dropped = self._dropped or cancel_futures
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _put(self, work: Callable[[], object]) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the crew has been shut down.")
            while len(self._threads) < self.size:
                # Daemons: nothing waits for idle threads at the end of the process.
                name = f"{self._name}_{len(self._threads)}"
                thread = threading.Thread(target=_serve, args=(self._queue,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
            self._queue.put(work)


def _serve(queue: SimpleQueue[Callable[[], object] | None]) -> None:
    while (work := queue.get()) is not None:
        work()
        del work  # a waiting thread keeps no buffers alive


class _Shared:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._crew: Crew | None = None
        # A forked child has none of the parent's threads, and perhaps a lock that one of them held.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._crew = None

    def get(self) -> Crew | None:
        cores = len(os.sched_getaffinity(0))
        if cores < 2:
            return None
        with self._lock:
            if self._crew is None:
                # The calling thread codes too, so one less than the cores.
                self._crew = Crew(cores - 1, "lms-shared-codec")
            return self._crew


_shared: Final = _Shared()


def shared_executor() -> Crew | None:
    """The process's executor for `Codec.encode` and `decode_into`; None on a single core. Never shut it down."""
    return _shared.get()
