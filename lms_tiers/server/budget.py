"""The receive budget: how many bytes of chunks may be on their way in at one time, over all connections."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, Protocol, Self


class Waiter(Protocol):
    """A session that waits for its share."""

    granted: bool

    def wake(self) -> None:
        """Go on: `granted` was set."""


class Share:
    """Bytes of the budget for the length of a block, given back at its end, whatever ends it.

    Attributes
    ----------
    taken : bool
        False where the waiter is queued: it is woken, `granted`, when its turn comes. One that leaves before leaves
        the queue as well.
    """

    __slots__ = ("_budget", "_nbytes", "_waiter", "taken")

    def __init__(self, budget: ReceiveBudget, nbytes: int, waiter: Waiter) -> None:
        self._budget, self._nbytes, self._waiter = budget, nbytes, waiter
        self.taken = False

    def __enter__(self) -> Self:
        self.taken = self._budget.acquire(self._nbytes, self._waiter)
        return self

    def __exit__(self, *_: object) -> None:
        if self.taken:
            self._budget.release(self._nbytes)
        else:
            self._budget.withdraw(self._nbytes, self._waiter)


class ReceiveBudget:
    """Bytes admitted first come, first served; a waiting session reads nothing, so that its peer is held back by TCP.

    Parameters
    ----------
    limit : int
        Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self.used = 0
        self.peak = 0
        self._waiting: deque[tuple[int, Waiter]] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Sessions that wait."""
        return len(self._waiting)

    def share(self, nbytes: int, waiter: Waiter) -> Share:
        """`acquire` for a block."""
        return Share(self, nbytes, waiter)

    def acquire(self, nbytes: int, waiter: Waiter) -> bool:
        """Take `nbytes` now, or queue `waiter`: it is granted the bytes and woken when its turn comes."""
        with self._lock:
            used = self.used + nbytes
            if not self._waiting and used <= self.limit:
                self.used = used
                if used > self.peak:
                    self.peak = used
                return True
            waiter.granted = False
            self._waiting.append((nbytes, waiter))
            return False

    def try_acquire(self, nbytes: int) -> bool:
        """Take `nbytes` now or not at all."""
        with self._lock:
            if self.used + nbytes > self.limit:
                return False
            self._take(nbytes)
            return True

    def withdraw(self, nbytes: int, waiter: Waiter) -> None:
        """`waiter` gives up: it leaves the queue, or gives back what it was granted in the meantime."""
        with self._lock:
            if not waiter.granted:
                self._waiting.remove((nbytes, waiter))
                woken = self._grant()
            else:
                woken = self._give_back(nbytes)
        for other in woken:
            other.wake()

    def release(self, nbytes: int) -> None:
        """Give `nbytes` back, and wake whoever fits now."""
        with self._lock:
            if not self._waiting:
                self.used -= nbytes
                return
            woken = self._give_back(nbytes)
        for waiter in woken:
            waiter.wake()

    def _take(self, nbytes: int) -> None:
        self.used += nbytes
        self.peak = max(self.peak, self.used)

    def _give_back(self, nbytes: int) -> list[Waiter]:
        self.used -= nbytes
        return self._grant()

    def _grant(self) -> list[Waiter]:
        woken = []
        while self._waiting and self.used + self._waiting[0][0] <= self.limit:
            nbytes, waiter = self._waiting.popleft()
            self._take(nbytes)
            waiter.granted = True
            woken.append(waiter)
        return woken
