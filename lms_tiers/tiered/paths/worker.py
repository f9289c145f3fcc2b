"""A thread that works for a tier when there is something to do: started with the first work, woken by more."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from lms_tiers.tiered.state.hierarchy import Hierarchy

_log = logging.getLogger(__name__)


class Worker(ABC):
    """What is to be done, and when to look again, its subclass knows. Methods need the store's lock, but for `join`.

    The thread is started under that lock, once: a start waits for the new thread's first steps only, which take no lock
    but those of `threading`, so nobody can wait for the other (`tests/tiered/test_stops.py` stops it before each step).

    Parameters
    ----------
    name : str
        Of the thread.
    """

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        self._h: Final = hierarchy
        self._name: Final = name
        self._wake: Final = threading.Condition(hierarchy.lock)
        self._thread: threading.Thread | None = None
        self.idle = True
        self.stopping = False

    def poke(self) -> None:
        """There may be work."""
        if self.idle and not self.stopping:
            self.idle = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread, self.idle = None, True
                    _log.exception("no thread %r: it is tried again", self._name)
            else:
                self._wake.notify()

    def rouse(self) -> None:
        """There may be work, and an interrupt may have come between any two steps of `poke`."""
        if self._thread is not None and self._thread.ident is not None:
            self._wake.notify()
            return
        self._thread = None  # one that starts all the same ends at once
        self.idle = True
        self.poke()

    def stop(self) -> None:
        """Let the thread end after what it does now."""
        self.stopping = True
        self._wake.notify()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False where it is stuck in a backend. The lock is not held."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @abstractmethod
    def _next(self) -> Callable[[], None] | None:
        """What to do next, prepared under the lock; it is done without."""

    @abstractmethod
    def _timeout(self) -> float | None:
        """Seconds until work that has to wait can be done; None without any."""

    def _stumbled(self, error: BaseException) -> None:
        """What was to be done raised what nobody expected. The lock is not held."""

    def _run(self) -> None:
        h = self._h
        while True:
            with h.lock:
                while True:
                    if self._thread is not threading.current_thread():
                        return  # its start was interrupted, and another one was started
                    if self.stopping:
                        self.idle = True
                        h.wake()
                        return
                    job = self._next()
                    if job is not None:
                        break
                    self.idle = True
                    h.wake()
                    self._wake.wait(self._timeout())
                    self.idle = False
            try:
                job()
            except BaseException as error:
                _log.exception("%s stumbled", self._name)
                h.mend(error)
                self._stumbled(error)
            del job  # it holds chunks
