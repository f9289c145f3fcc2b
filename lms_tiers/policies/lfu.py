"""Least frequently used with dynamic ageing: a key's rank is its uses plus the rank of what was evicted last.

M. Arlitt et al., "Evaluating Content Management Techniques for Web Proxy Caches", WISP 1999 (LFU-DA). Without ageing
it is plain LFU, which keeps for ever what was once popular. Among equals the least recently used leaves first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterator
from typing import ClassVar

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.queue import Node, Queue
from lms_tiers.policies.queued import pack_nodes, unpack_nodes
from lms_tiers.policies.saved import unpack


class _Node(Node):
    __slots__ = ("rank", "uses")

    def __init__(self, key: str, size: int) -> None:
        super().__init__(key, size)
        self.uses = 1
        self.rank = 0


class Lfu(EvictionPolicy):
    """Evicts what was used least, old popularity fading with every eviction.

    Parameters
    ----------
    capacity, clock
        As of every policy.
    ageing : bool
        False for plain LFU.
    """

    name: ClassVar[str] = "lfu"

    def __init__(self, capacity: int, clock: Callable[[], float], *, ageing: bool = True) -> None:
        super().__init__(capacity, clock)
        self._ageing = ageing
        self._nodes: dict[str, _Node] = {}
        self._ranks: dict[int, Queue[_Node]] = {}
        self._heap: list[int] = []  # ranks, each once; empty ones are dropped when they come up
        self._age = 0

    def _link(self, node: _Node) -> None:
        node.rank = node.uses + self._age
        queue = self._ranks.get(node.rank)
        if queue is None:
            queue = self._ranks[node.rank] = Queue()
            heapq.heappush(self._heap, node.rank)
        queue.append(node)

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key] = _Node(key, size)
        self._link(node)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key]
        node.queue.unlink(node)
        node.uses += 1
        self._link(node)
        if len(self._heap) > 64 + 2 * len(self._nodes):
            self._tidy()

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        node = self._nodes[key]
        node.queue.resize(node, size)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._nodes.pop(key)
        node.queue.unlink(node)
        if self._ageing and reason is RemoveReason.EVICTED:
            self._age = max(self._age, node.rank)
        while self._heap and not self._ranks[self._heap[0]].count:
            del self._ranks[heapq.heappop(self._heap)]

    def _tidy(self) -> None:
        self._ranks = {rank: queue for rank, queue in self._ranks.items() if queue.count}
        self._heap = sorted(self._ranks)

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:  # noqa: D102
        ranks = self._heap[:1]
        for rank in ranks:
            for node in self._ranks[rank]:
                if bytes_needed <= 0:
                    return
                if node.key not in protected:
                    bytes_needed -= node.size
                    yield node.key
            if rank is self._heap[0]:
                ranks.extend(sorted(self._heap)[1:])

    def __len__(self) -> int:
        return len(self._nodes)

    def state(self) -> bytes:
        """Uses of the most used keys."""
        order = (node for rank in sorted(self._ranks, reverse=True) for node in reversed(self._ranks[rank]))
        return pack_nodes("lfu/1", lambda node: int(node.rank), (self._age,), queue=order)

    def restore(self, state: bytes) -> None:
        """Give the held keys their uses back."""
        sections = unpack("lfu/1", state)
        if sections is None:
            return
        self._age = age = sections["numbers"][0]
        for node, queue, rank in unpack_nodes("lfu/1", state, self._nodes.values()):
            node.queue.unlink(node)
            node.uses = max(rank - age, 1) if queue else 1
            self._age = rank - node.uses if queue else age
            self._link(node)
        self._age = age
        self._tidy()
