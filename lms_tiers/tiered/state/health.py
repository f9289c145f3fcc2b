"""Whether a tier takes part: what failed in its backend, who is inside it, and when it is left alone and tried again.

The caller holds the store's lock. Only `Askers` calls a backend, without it: a backend that hangs keeps a thread of
theirs, not the caller.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Any, Final, TypeVar

from lms_tiers.errors import DeadlineExceededError
from lms_tiers.tiered.watch.events import EventKind, EventLog, EventReason
from lms_tiers.tiered.watch.stats import LATENCY_BOUNDS, BreakerState, Latency

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Threads at most. Where all are inside a backend that hangs, nothing more is asked.
MOST_THREADS: Final = 32

_Answer = SimpleQueue[tuple[Any, BaseException | None]]
_Work = SimpleQueue[tuple[Callable[[], Any], _Answer] | None]


class LatencyCounter:
    """The counting side of `Latency`; the caller holds the lock."""

    __slots__ = ("counts", "nanoseconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.nanoseconds = 0

    def add(self, nanoseconds: int) -> None:
        """Count one call."""
        bucket = (nanoseconds >> 10).bit_length()
        self.counts[bucket if bucket < len(LATENCY_BOUNDS) else -1] += 1
        self.nanoseconds += nanoseconds

    def snapshot(self) -> Latency:
        """What was counted so far."""
        return Latency(tuple(self.counts), self.nanoseconds / 1e9)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a tier is left alone.

    Attributes
    ----------
    stall : float
        Seconds after which a call inside the backend switches the tier off for others.
    threshold : int
        Failures in a row that do.
    cooldown, longest : float
        Seconds until it is probed, doubling with each probe that fails, up to the longest.
    """

    stall: float
    threshold: int = 5
    cooldown: float = 1.0
    longest: float = 60.0


class Health:
    """The health of the tier `name`: a circuit breaker that opens by `limits`.

    It lets one call through when the cool-down is over. A probe that never comes back (a stuck backend) costs one
    caller per cool-down, not the tier for ever: another probe is due when the next cool-down has passed.

    Attributes
    ----------
    breaker : BreakerState
    entered : dict of BreakerState to int
        How often each state was entered.
    calls : dict of int to float
        Since when each thread has been inside the backend. Changed without the lock.
    failures : int
        Calls that failed.
    failing : int
        Those of them since the last one that worked. Read without the lock.
    retry_at : float
        When the next probe is due, where the breaker is not closed.
    switched : callable
        Told whether the tier is on, each time that changes.

    Examples
    --------
    >>> now = [0.0]
    >>> health = Health("disk", lambda: now[0], EventLog(None), Limits(stall=2.0, threshold=2))
    >>> health.failed("key", OSError()), health.breaker.value
    (None, 'closed')
    >>> health.failed("key", OSError()), health.breaker.value, health.probe()
    (None, 'open', False)
    >>> now[0] = 1.5
    >>> health.probe(), health.probe(), health.worked(), health.breaker.value
    (True, False, None, 'closed')
    """

    def __init__(self, name: str, clock: Callable[[], float], log: EventLog, limits: Limits) -> None:
        self.name: Final = name
        self.log: Final = log
        self.stall = limits.stall
        self._clock: Final = clock
        self._limits: Final = limits
        self._cooldown = limits.cooldown
        self.breaker = BreakerState.CLOSED
        self.entered: Final = dict.fromkeys(BreakerState, 0)
        self.calls: Final[dict[int, float]] = {}
        self.failures = self.failing = 0
        self.retry_at = 0.0
        self.switched: Callable[[bool], None] = lambda on: None
        self.read_latency: Final = LatencyCounter()
        self.write_latency: Final = LatencyCounter()

    def failed(self, text: str, error: BaseException | None) -> None:
        """A call failed."""
        self.failures += 1
        self.log.add(EventKind.FAILED, EventReason.IO_ERROR, self.name, text, 0)
        if self.failures == 1 or not self.failing:
            _log.warning("tier %r failed: %s", self.name, repr(error))  # a record must not keep its frames, nor buffers
        self.failing += 1
        if self.breaker is BreakerState.HALF_OPEN or (
            self.breaker is BreakerState.CLOSED and self.failing >= self._limits.threshold
        ):
            self._open()

    def hung(self) -> None:
        """A call did not come back in time: nobody waits for the next ones."""
        self.failures += 1
        self.failing += 1
        self._open()

    def worked(self) -> None:
        """A call worked."""
        self.failing = 0
        if self.breaker is not BreakerState.CLOSED:
            self._cooldown = self._limits.cooldown
            _log.warning("tier %r works again", self.name)
            self._enter(BreakerState.CLOSED)

    def inside(self, call: Callable[..., T], *args: Any) -> T:
        """What a call of the backend answers, on record while it lasts: if it gets stuck, others are warned off.

        The lock is not held.
        """
        thread = get_ident()
        try:
            self.calls[thread] = time.monotonic()
            return call(*args)
        finally:
            self.calls.pop(thread, None)

    def stalls(self) -> bool:
        """Whether a call has been inside the backend for too long. Takes no lock."""
        # Insertion order is age; a copy, because calls come and go without the lock.
        oldest = next(iter(list(self.calls.values())), None)
        return oldest is not None and time.monotonic() - oldest > self.stall

    def look(self) -> None:
        """Switch the tier off where a call stalls."""
        if self.breaker is BreakerState.CLOSED and self.calls and self.stalls():
            self.hung()

    def hasten(self) -> None:
        """Let the next probe through at once."""
        self.retry_at = min(self.retry_at, self._clock())

    def due(self) -> bool:
        """Whether a probe would be let through now."""
        return self.breaker is not BreakerState.CLOSED and self._clock() >= self.retry_at

    def probe(self) -> bool:
        """Take the probe, if one is due."""
        if not self.due():
            return False
        self.retry_at = self._clock() + self._cooldown
        self._enter(BreakerState.HALF_OPEN)
        return True

    def _open(self) -> None:
        if self.breaker is BreakerState.HALF_OPEN:
            self._cooldown = min(2 * self._cooldown, self._limits.longest)
        self.retry_at = self._clock() + self._cooldown
        if self.breaker is not BreakerState.OPEN:
            _log.error("tier %r is switched off for a while", self.name)
            self._enter(BreakerState.OPEN)

    def _enter(self, breaker: BreakerState) -> None:
        self.breaker = breaker
        self.entered[breaker] += 1
        self.log.add(EventKind.STATE, EventReason(f"breaker-{breaker.value}"), self.name, "", 0)
        if breaker is not BreakerState.HALF_OPEN:
            self.switched(breaker is BreakerState.CLOSED)


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
