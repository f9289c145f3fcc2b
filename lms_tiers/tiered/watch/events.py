"""What tiers report: typed events, handed in batches to the `tier_events` hook by a thread off the data path."""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from lms_tiers.changes import begin

_log = logging.getLogger(__name__)

#: Events kept for an observer that is slower than the store; older ones are dropped and counted.
_MAX_PENDING: Final = 1 << 16

#: Seconds that events wait for company, so that the observer sees batches.
_GATHER: Final = 0.02


class EventKind(enum.Enum):
    """What happened."""

    STORED = "stored"
    DEMOTED = "demoted"
    PROMOTED = "promoted"
    EVICTED = "evicted"
    DROPPED = "dropped"
    REMOVED = "removed"
    #: The last copy has left: no tier holds the key any more. Once for each time that it was there.
    GONE = "gone"
    FAILED = "failed"
    STATE = "state"


class EventReason(enum.Enum):
    """Why it happened."""

    REQUEST = "request"
    CAPACITY = "capacity"
    CLEANED = "cleaned"
    STALE = "stale"
    NOT_ADMITTED = "not-admitted"
    BACK_PRESSURE = "back-pressure"
    IO_ERROR = "io-error"
    CORRUPT = "corrupt"
    BREAKER_OPEN = "breaker-open"
    BREAKER_HALF_OPEN = "breaker-half-open"
    BREAKER_CLOSED = "breaker-closed"
    POLICY_FAULT = "policy-fault"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class TierEvent:
    """One event; `time` is seconds since the epoch, `nbytes` the chunk's physical bytes in that tier.

    GONE is of no tier (``""``, 0 bytes), STATE of no key.
    """

    kind: EventKind
    reason: EventReason
    tier: str
    key: str
    nbytes: int
    time: float


class EventLog:
    """Gathers events; without an observer it costs one test.

    The queue is one that no interrupt divides: an event is in it or is not.

    Parameters
    ----------
    observer : callable, optional
        Called with a batch at a time from one thread. Whatever it raises is logged.
    """

    def __init__(self, observer: Callable[[Sequence[TierEvent]], None] | None) -> None:
        self._observer: Final = observer
        self._pending: Final[SimpleQueue[TierEvent | None]] = SimpleQueue()
        self._closed: Final = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = 0

    def start(self) -> None:
        """Tell the observer, if there is one, from here on: of what was added before as well.

        Raises
        ------
        StorageUnavailableError
            No thread can be started for it.
        """
        if self._observer is not None:
            thread = threading.Thread(target=self._run, args=(self._observer,), name="lms-tiers-events", daemon=True)
            begin(thread)
            self._thread = thread

    def add(self, kind: EventKind, why: EventReason, tier: str, key: str, nbytes: int) -> None:
        """Note one event, if anybody wants to know. The caller holds the store's lock."""
        if self._observer is None:
            return
        if self._closed.is_set():
            self.lost += 1  # of a call that was left behind
            return
        if self._pending.qsize() >= _MAX_PENDING:
            self.lost += 1
            with contextlib.suppress(Empty):
                self._pending.get_nowait()
        self._pending.put(TierEvent(kind, why, tier, key, nbytes, time.time()))

    def _run(self, observer: Callable[[Sequence[TierEvent]], None]) -> None:
        found: list[TierEvent | None] = []
        while None not in found:
            found = [self._pending.get()]
            self._closed.wait(_GATHER)
            with contextlib.suppress(Empty):
                while True:
                    found.append(self._pending.get_nowait())
            batch = [event for event in found if event is not None]
            try:
                if batch:
                    observer(batch)
            except BaseException:  # SystemExit as well: who ends this thread ends it for all events to come
                _log.exception("the observer of tier events failed")

    def close(self, timeout: float) -> bool:
        """Hand over what is left and end the thread; False where the observer did not return in time."""
        self._closed.set()
        self._pending.put(None)
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()
