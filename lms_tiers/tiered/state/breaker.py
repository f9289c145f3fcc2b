"""The circuit breaker of one tier: when to leave a sick backend alone, and when to try it again.

State and clock only: it calls nothing, and its caller holds the store's lock.
"""

from __future__ import annotations

from collections.abc import Callable

from lms_tiers.tiered.watch.stats import BreakerState


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
