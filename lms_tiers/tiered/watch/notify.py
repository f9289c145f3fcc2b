"""Events on their way to the observer: noted under the lock, handed over in batches by a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from lms_tiers.tiered.watch.events import EventKind, EventReason, TierEvent

_log = logging.getLogger(__name__)

#: Events kept for an observer that is slower than the store; older ones are dropped and counted.
_MAX_PENDING: Final = 1 << 16

#: Seconds that events wait for company, so that the observer sees batches.
_GATHER: Final = 0.02


class EventLog:
    """Gathers events; without an observer it costs one test.

    What is pending and whether the log is closed change under one lock, and the thread waits for what they are: there
    is no flag of its own that somebody could set before it is cleared. The thread is started under that lock, and the
    store's: a start waits for the new thread's first steps only, which take no lock but those of `threading`.

    Parameters
    ----------
    observer : callable, optional
        Called with a batch at a time from one thread, which starts with the first event. Whatever it raises is logged.
    """

    def __init__(self, observer: Callable[[Sequence[TierEvent]], None] | None) -> None:
        self.on: Final = observer is not None
        self._observer = observer
        self._pending: deque[TierEvent] = deque(maxlen=_MAX_PENDING)
        self._lock: Final = threading.Lock()  # taken in one step, which no interrupt divides
        self._changed: Final = threading.Condition(self._lock)
        self._closed = False
        self._asleep = False
        self._thread: threading.Thread | None = None
        self.lost = 0

    def add(self, kind: EventKind, reason: EventReason, tier: str, key: str, nbytes: int) -> None:
        """Note one event. The caller holds the store's lock and has checked `on`."""
        event = TierEvent(kind, reason, tier, key, nbytes, time.time())
        with self._lock:
            if self._closed:
                self.lost += 1  # of a call that was left behind
                return
            if len(self._pending) == _MAX_PENDING:
                self.lost += 1
            self._pending.append(event)
            self._rouse()

    def _rouse(self) -> None:
        """Let the thread look, once there is one. The lock is held."""
        if self._thread is not None and self._thread.ident is not None:
            if self._asleep:
                self._changed.notify()
            return
        self._thread = threading.Thread(target=self._run, name="lms-tiers-events", daemon=True)
        try:
            self._thread.start()  # where an interrupt comes before it has started, the next event starts another
        except RuntimeError:
            self._thread = None
            _log.exception("no thread to tell events with; it is tried again with the next one")

    def _run(self) -> None:
        closed = False
        while not closed:
            with self._lock:
                if self._thread is not threading.current_thread():
                    return  # its start was interrupted, and another one was started
                self._asleep = True
                self._changed.wait_for(lambda: self._pending or self._closed)
                self._asleep = False
                self._changed.wait_for(lambda: self._closed, _GATHER)
                batch, closed = list(self._pending), self._closed
                self._pending.clear()
            if batch:
                self._hand_over(batch)

    def _hand_over(self, batch: Sequence[TierEvent]) -> None:
        assert self._observer is not None
        try:
            self._observer(batch)
        except BaseException:  # SystemExit as well: who ends this thread ends it for all events to come
            _log.exception("the observer of tier events failed")

    def close(self, timeout: float) -> bool:
        """Hand over what is left and end the thread; False where the observer did not return in time."""
        with self._lock:
            self._closed = True
            self._changed.notify()
            if self._pending and (self._thread is None or self._thread.ident is None):
                self._rouse()
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()
