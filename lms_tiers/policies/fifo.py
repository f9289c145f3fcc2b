"""First in, first out: hits change nothing. The baseline of L. A. Belady, IBM Systems Journal 5(2), 1966."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import ClassVar

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.queue import Node, Queue
from lms_tiers.policies.saved import pack_nodes, unpack_nodes


class Fifo(EvictionPolicy):
    """Evicts what was stored first."""

    name: ClassVar[str] = "fifo"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._nodes: dict[str, Node] = {}
        self._queue: Queue[Node] = Queue()

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key] = Node(key, size)
        self._queue.append(node)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        pass

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        self._queue.resize(self._nodes[key], size)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        self._queue.unlink(self._nodes.pop(key))

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
        return pack_nodes("fifo/1", queue=reversed(self._queue))

    def restore(self, state: bytes) -> None:
        """Put the held keys back in their order; those not saved rank newest."""
        for node, _, _ in unpack_nodes("fifo/1", state, self._queue):
            self._queue.unlink(node)
            self._queue.append(node)
