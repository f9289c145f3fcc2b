"""Calls that callers wait for no longer than they want: a backend that hangs keeps a thread, not them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from lms_tiers.errors import DeadlineExceededError

T = TypeVar("T")

#: Threads at most. Where all are inside a backend that hangs, nothing more is asked.
MOST_THREADS: Final = 32

_Answer = SimpleQueue[tuple[Any, BaseException | None]]
_Work = SimpleQueue[tuple[Callable[[], Any], _Answer] | None]


class Askers:
    """Threads that call a backend, made as they are needed and kept for the next call.

    Parameters
    ----------
    name : str
        Of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._lock: Final = threading.Lock()
        self._idle: Final[list[_Work]] = []
        self._threads: Final[set[threading.Thread]] = set()
        self._closed = False

    def ask(self, call: Callable[[], T], seconds: float) -> T:
        """What `call` answers, or raises.

        Raises
        ------
        DeadlineExceededError
            Not within `seconds`, or all threads are inside the backend.
        """
        answer: _Answer = SimpleQueue()
        with self._lock:
            # An interrupt between two of these steps leaves a thread that is listed twice, or one that never started.
            if self._idle:
                self._idle[-1].put((call, answer))
                self._idle.pop()
            elif len(self._threads) < MOST_THREADS and not self._closed:
                work: _Work = SimpleQueue()
                work.put((call, answer))
                thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True)
                self._threads.add(thread)
                try:
                    thread.start()
                except RuntimeError:
                    self._threads.discard(thread)
                    raise
            else:
                raise DeadlineExceededError(f"a call of {self._name}", 0.0)
        try:
            found, error = answer.get(timeout=seconds)
        except Empty:
            raise DeadlineExceededError(f"a call of {self._name}", seconds) from None
        if error is not None:
            raise error
        return found  # type: ignore[no-any-return]  # what `call` answered

    def _run(self, work: _Work) -> None:
        try:
            while (job := work.get()) is not None:
                call, answer = job
                try:
                    result: tuple[Any, BaseException | None] = call(), None
                except BaseException as error:
                    result = None, error
                with self._lock:
                    if self._closed:
                        work.put(None)
                    else:
                        self._idle.append(work)
                answer.put(result)
                del job, call, answer, result  # they hold chunks
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def close(self, timeout: float) -> bool:
        """End the threads; False where one does not come back from the backend within `timeout` seconds."""
        with self._lock:
            self._closed = True
            for work in self._idle:
                work.put(None)
            self._idle.clear()
            threads = [thread for thread in self._threads if thread.is_alive()]
        until = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)
