"""Whether a tier takes part: what failed in its backend, who is inside it, and when it is left alone and tried again.

The caller holds the store's lock. Only `Askers` calls a backend, without it: a backend that hangs keeps a thread of
theirs, not the caller.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from lms_tiers.errors import DeadlineExceededError
from lms_tiers.tiered.watch.events import EventKind, EventLog, EventReason
from lms_tiers.tiered.watch.stats import BreakerState

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Threads at most. Where all are inside a backend that hangs, nothing more is asked.
MOST_THREADS: Final = 32

_Answer = SimpleQueue[tuple[Any, BaseException | None]]
_Work = SimpleQueue[tuple[Callable[[], Any], _Answer] | None]


class Breaker:
    """Opens after `threshold` failures in a row; lets one operation through when the cool-down is over.

    The cool-down doubles with each failed probe, up to `longest`. A probe that never comes back (a stuck backend)
    costs one caller per cool-down, not the tier for ever: another probe is due when the next cool-down has passed.

    Examples
    --------
    >>> now = [0.0]
    >>> breaker = Breaker(lambda: now[0], threshold=2, cooldown=1.0, longest=8.0)
    >>> breaker.failure(), breaker.failure(), breaker.state.value
    (False, True, 'open')
    >>> breaker.probe()
    False
    >>> now[0] = 1.5
    >>> breaker.probe(), breaker.probe(), breaker.success(), breaker.state.value
    (True, False, True, 'closed')
    """

    __slots__ = (
        "_clock", "_cooldown", "_first", "_longest", "_threshold", "changes", "failures", "retry_at", "state",
    )  # fmt: skip

    def __init__(
        self, clock: Callable[[], float], *, threshold: int = 5, cooldown: float = 1.0, longest: float = 60.0
    ) -> None:
        self._clock = clock
        self._threshold = threshold
        self._first = self._cooldown = cooldown
        self._longest = longest
        self.state = BreakerState.CLOSED
        #: How often each state was entered.
        self.changes = dict.fromkeys(BreakerState, 0)
        self.failures = 0
        self.retry_at = 0.0

    def failure(self) -> bool:
        """Note a failed operation; True where that opened the breaker."""
        self.failures += 1
        if self.state is BreakerState.OPEN:
            return False
        if self.state is BreakerState.HALF_OPEN:
            self._cooldown = min(self._cooldown * 2, self._longest)
        elif self.failures < self._threshold:
            return False
        self.trip()
        return True

    def trip(self) -> None:
        """Open now, whatever was counted."""
        self._enter(BreakerState.OPEN)
        self.failures = max(self.failures, 1)
        self.retry_at = self._clock() + self._cooldown

    def success(self) -> bool:
        """Note an operation that worked; True where that closed the breaker."""
        self.failures = 0
        if self.state is BreakerState.CLOSED:
            return False
        self._enter(BreakerState.CLOSED)
        self._cooldown = self._first
        return True

    def hasten(self) -> None:
        """Let the next probe through at once."""
        self.retry_at = min(self.retry_at, self._clock())

    def due(self) -> bool:
        """Whether a probe would be let through now."""
        return self.state is not BreakerState.CLOSED and self._clock() >= self.retry_at

    def probe(self) -> bool:
        """Take the probe, if one is due."""
        if not self.due():
            return False
        self._enter(BreakerState.HALF_OPEN)
        self.retry_at = self._clock() + self._cooldown
        return True

    def _enter(self, state: BreakerState) -> None:
        self.state = state
        self.changes[state] += 1


class Health:
    """The health of the tier `name`.

    Parameters
    ----------
    stall : float
        Seconds after which a call inside the backend switches the tier off for others.

    Attributes
    ----------
    calls : dict of int to float
        Since when each thread has been inside the backend. Changed without the lock.
    failures : int
        Calls that failed.
    switched : callable
        Told whether the tier is on, each time that changes.
    """

    def __init__(self, name: str, breaker: Breaker, log: EventLog, stall: float) -> None:
        self.name: Final = name
        self.breaker: Final = breaker
        self.log: Final = log
        self.stall = stall
        self.calls: Final[dict[int, float]] = {}
        self.failures = 0
        self.switched: Callable[[bool], None] = lambda on: None

    def failed(self, text: str, error: BaseException | None) -> None:
        """A call failed."""
        self.failures += 1
        self.log.add(EventKind.FAILED, EventReason.IO_ERROR, self.name, text, 0)
        if self.failures == 1 or self.breaker.failures == 0:
            _log.warning("tier %r failed: %s", self.name, repr(error))  # a record must not keep its frames, nor buffers
        if self.breaker.failure():
            self._switch_off()

    def worked(self) -> None:
        """A call worked. Cheap where nothing was wrong before."""
        if self.breaker.failures and self.breaker.success():
            _log.warning("tier %r works again", self.name)
            self.log.add(EventKind.STATE, EventReason.BREAKER_CLOSED, self.name, "", 0)
            self.switched(True)

    def hung(self) -> None:
        """A call did not come back in time: nobody waits for the next ones."""
        self.failures += 1
        was = self.breaker.state
        self.breaker.trip()
        if was is BreakerState.CLOSED:
            self._switch_off()

    def stalls(self) -> bool:
        """Whether a call has been inside the backend for too long. Takes no lock."""
        # Insertion order is age; a copy, because calls come and go without the lock.
        oldest = next(iter(list(self.calls.values())), None)
        return oldest is not None and time.monotonic() - oldest > self.stall

    def look(self) -> None:
        """Switch the tier off where a call stalls."""
        if self.breaker.state is BreakerState.CLOSED and self.calls and self.stalls():
            self.hung()

    def probe(self) -> bool:
        """Take the probe, if one is due."""
        probing = self.breaker.probe()
        if probing:
            self.log.add(EventKind.STATE, EventReason.BREAKER_HALF_OPEN, self.name, "", 0)
        return probing

    def _switch_off(self) -> None:
        _log.error("tier %r is switched off for a while", self.name)
        self.log.add(EventKind.STATE, EventReason.BREAKER_OPEN, self.name, "", 0)
        self.switched(False)


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
