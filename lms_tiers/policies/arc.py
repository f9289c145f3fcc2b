"""ARC: two LRU lists, of keys used once and of keys used again, with ghosts of both that move the border between them.

N. Megiddo and D. S. Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import ClassVar

from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.ghosts import Ghosts
from lms_tiers.policies.queue import Node
from lms_tiers.policies.queued import QueuePolicy
from lms_tiers.policies.saved import unpack


class Arc(QueuePolicy[Node]):
    """Balances recency (T1) and frequency (T2) by the hits on what each has lost (B1, B2)."""

    name: ClassVar[str] = "arc"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._t1 = self._made("t1")
        self._t2 = self._made("t2")
        self._b1 = Ghosts(2 * capacity)
        self._b2 = Ghosts(2 * capacity)
        self._target = 0.0  # bytes that T1 should take: the paper's p
        self._candidate: str | None = None  # what the next evictions make room for
        self._candidate_target = 0.0  # and the border its arrival leads to

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Admits all; the paper's REPLACE depends on which key room is made for."""
        self._candidate = key
        self._candidate_target = self._adapted(key, size)
        return True

    def _adapted(self, key: str, size: int) -> float:
        b1, b2 = self._b1, self._b2
        if key in b1:
            return min(self._target + max(b2.nbytes / b1.nbytes, 1.0) * size, float(self.capacity))
        if key in b2:
            return max(self._target - max(b1.nbytes / b2.nbytes, 1.0) * size, 0.0)
        return self._target

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        self._target = self._candidate_target if self._candidate == key else self._adapted(key, size)
        self._candidate = None
        again = self._b1.discard(key) or self._b2.discard(key)
        self._link(Node(key, size), self._t2 if again else self._t1)
        self._trim()

    def _trim(self) -> None:
        self._b1.shrink(max(self.capacity - self._t1.nbytes, 0))
        self._b2.shrink(max(2 * self.capacity - self._t1.nbytes - self._t2.nbytes - self._b1.nbytes, 0))

    def on_resize(self, capacity: int) -> None:  # noqa: D102
        super().on_resize(capacity)
        self._target = min(self._target, float(capacity))
        self._b1.limit = self._b2.limit = 2 * capacity
        self._trim()

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key]
        node.queue.unlink(node)
        self._t2.append(node)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._nodes.pop(key)
        node.queue.unlink(node)
        if reason is RemoveReason.EVICTED:
            (self._b1 if node.queue is self._t1 else self._b2).add(key, node.size)
        if self._candidate is None:
            self._trim()

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """The paper's REPLACE, repeated, for the key that was asked for admission last."""
        target, returning = self._target, False
        if self._candidate is not None:
            target, returning = self._candidate_target, self._candidate in self._b2
        once, again = iter(self._t1), iter(self._t2)
        nbytes = self._t1.nbytes
        while bytes_needed > 0:
            from_once = nbytes > 0 and (nbytes > target or (returning and nbytes == target))
            node = next(once, None) if from_once else next(again, None)
            if node is None:
                node = next(again, None) if from_once else next(once, None)
                if node is None:
                    return
            if node.queue is self._t1:
                nbytes -= node.size
            if node.key not in protected:
                bytes_needed -= node.size
                yield node.key

    def _numbers(self) -> Iterable[int]:
        return (int(self._target),)

    def restore(self, state: bytes) -> None:
        """Put the held keys back in their lists, and the border between them."""
        super().restore(state)
        sections = unpack("arc/1", state)
        if sections is not None:
            self._target = float(min(max(sections["numbers"][0], 0), self.capacity))
