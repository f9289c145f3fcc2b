"""Events on their way to the observer: noted under the lock, handed over in batches by a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from lms_tiers.tiered.events import EventKind, EventReason, TierEvent

_log = logging.getLogger(__name__)

#: Events kept for an observer that is slower than the store; older ones are dropped and counted.
_MAX_PENDING: Final = 1 << 16

#: Seconds that events wait for company, so that the observer sees batches.
_GATHER: Final = 0.02


class EventLog:
    """Gathers events; without an observer it costs one test.

    Parameters
    ----------
    observer : callable, optional
        Called with a batch at a time from one thread, which starts with the first event. What it raises is logged.
    """

    def __init__(self, observer: Callable[[Sequence[TierEvent]], None] | None) -> None:
        self.on: Final = observer is not None
        self._observer = observer
        self._pending: deque[TierEvent] = deque(maxlen=_MAX_PENDING)
        self._some = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = 0

    def add(self, kind: EventKind, reason: EventReason, tier: str, key: str, nbytes: int) -> None:
        """Note one event. The caller holds the store's lock and has checked `on`."""
        if len(self._pending) == _MAX_PENDING:
            self.lost += 1
        self._pending.append(TierEvent(kind, reason, tier, key, nbytes, time.time()))
        if not self._some.is_set():
            self._some.set()
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="lms-tiers-events", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._some.wait()
            stopping = self._stop.wait(_GATHER)
            self._some.clear()
            self._hand_over()
            if stopping:
                return

    def _hand_over(self) -> None:
        batch: list[TierEvent] = []
        try:
            while True:
                batch.append(self._pending.popleft())
        except IndexError:
            pass  # emptied
        if batch and self._observer is not None:
            try:
                self._observer(batch)
            except Exception:
                _log.exception("the observer of tier events failed")

    def close(self, timeout: float) -> bool:
        """Hand over what is left and end the thread; False where the observer did not return in time."""
        self._stop.set()
        self._some.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()
