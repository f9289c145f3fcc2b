"""Least recently used, the tail of a prefix chain first: the default policy.

Within one request the chunks of a chain are used together, and chunk i is useless without those before it. So the
accesses of a request count in reverse: each chunk ranks just older than its parent, the root as the newest of all.
Where the chain is not known this is plain LRU (Mattson et al., "Evaluation techniques for storage hierarchies",
IBM Systems Journal 9(2), 1970).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.queue import Node, Queue
from lms_tiers.policies.saved import pack_nodes, unpack_nodes

#: Requests whose last chunk is remembered, so that interleaved requests keep their chains in order.
_OPEN_REQUESTS: Final = 64


class Lru(EvictionPolicy):
    """Evicts what was not used for longest; the tail of a chain before its root."""

    name: ClassVar[str] = "lru"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._nodes: dict[str, Node] = {}
        self._queue: Queue[Node] = Queue()
        self._last: dict[int | str | None, str] = {}  # request → its latest access

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key] = Node(key, size)
        self._place(node, context)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key]
        self._queue.unlink(node)
        self._place(node, context)

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        self._queue.resize(self._nodes[key], size)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        self._queue.unlink(self._nodes.pop(key))

    def _place(self, node: Node, context: AccessContext) -> None:
        last, parent = self._last, context.parent
        if parent is not None and last.get(context.request_id) == parent:
            held = self._nodes.get(parent)
            if held is not None and held is not node:
                self._queue.insert_before(node, held)
            else:
                self._queue.append(node)
        else:
            self._queue.append(node)
        last[context.request_id] = node.key
        if len(last) > _OPEN_REQUESTS:
            del last[next(iter(last))]

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:  # noqa: D102
        for node in self._queue:
            if bytes_needed <= 0:
                return
            if node.key not in protected:
                bytes_needed -= node.size
                yield node.key

    def __len__(self) -> int:
        return len(self._nodes)

    def state(self) -> bytes:
        """The order of the newest keys."""
        return pack_nodes(f"{self.name}/1", queue=reversed(self._queue))

    def restore(self, state: bytes) -> None:
        """Rank the held keys as they were saved; those not saved rank newest."""
        for node, _, _ in unpack_nodes(f"{self.name}/1", state, self._queue):
            self._queue.unlink(node)
            self._queue.append(node)
