"""Threads that code blocks beside a caller.

Decoding half a chunk takes 200 to 400 µs. Of that `concurrent.futures` takes 11 µs to hand it over, 23 until it begins
and 20 until the caller knows of its end; a `Crew`, one queue and two locks, 7, 17 and 14.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, Self


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


class Crew:
    """Threads that `Codec.encode` and `decode_into` ask to take part.

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

    def shutdown(self) -> None:
        """End the threads after the work they were given, and wait for it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

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
