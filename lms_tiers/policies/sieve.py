"""SIEVE: a queue in order of arrival, a bit for "used since", and a hand that walks from old to new.

Y. Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web Caches", NSDI 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import ClassVar

from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.queue import Node
from lms_tiers.policies.queued import QueuePolicy


class _Node(Node):
    __slots__ = ("visited",)

    def __init__(self, key: str, size: int) -> None:
        super().__init__(key, size)
        self.visited = False


class Sieve(QueuePolicy[_Node]):
    """Evicts at the hand what was not used since the hand passed last."""

    name: ClassVar[str] = "sieve"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._queue = self._made("queue")
        self._hand: Node = self._queue.end  # the sentinel: start at the oldest

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        self._link(_Node(key, size), self._queue)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        self._nodes[key].visited = True

    def on_remove(self, key: str, reason: RemoveReason) -> None:
        """Forget `key`; an eviction moves the hand, clearing the bits it passes."""
        node = self._nodes.pop(key)
        if reason is RemoveReason.EVICTED:
            self._advance(node)
        if self._hand is node:
            self._hand = node.newer
        self._queue.unlink(node)

    def _advance(self, victim: _Node) -> None:
        # Stops at the first unvisited node: either the victim, or one the tier protects, where the hand waits.
        end = self._queue.end
        hand = self._hand if self._hand is not end else end.newer
        while hand is not victim and hand.visited:  # type: ignore[attr-defined]  # the sentinel is stepped over
            hand.visited = False  # type: ignore[attr-defined]
            hand = hand.newer if hand.newer is not end else end.newer
        self._hand = hand

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Walk as the hand would: what it passes is unvisited on the second round."""
        end = self._queue.end
        passed: list[_Node] = []
        node = self._hand if self._hand is not end else end.newer
        for _ in range(len(self._nodes)):
            if bytes_needed <= 0:
                return
            held: _Node = node  # type: ignore[assignment]  # never the sentinel
            if held.visited:
                passed.append(held)
            elif held.key not in protected:
                bytes_needed -= held.size
                yield held.key
            node = node.newer if node.newer is not end else end.newer
        for held in passed:
            if bytes_needed <= 0:
                return
            if held.key not in protected:
                bytes_needed -= held.size
                yield held.key

    def _number(self, node: _Node) -> int:
        return int(node.visited)

    def restore(self, state: bytes) -> None:
        """Put the held keys back in their order, with their bits; the hand starts anew at the oldest."""
        super().restore(state)
        self._hand = self._queue.end

    def _restore(self, node: _Node, queue: str, number: int) -> None:
        super()._restore(node, queue, number)
        node.visited = bool(number)
