"""2Q (full version): newcomers in a FIFO, ghosts of those that left it, an LRU for those that came back.

T. Johnson and D. Shasha, "2Q: A Low Overhead High Performance Buffer Management Replacement Algorithm", VLDB 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.ghosts import Ghosts
from lms_tiers.policies.queue import Node, Queue
from lms_tiers.policies.saved import pack_nodes, unpack_nodes

_IN: Final = 0.25
_OUT: Final = 0.5


class _Node(Node):
    __slots__ = ("returned",)

    def __init__(self, key: str, size: int, returned: bool) -> None:
        super().__init__(key, size)
        self.returned = returned


class TwoQ(EvictionPolicy):
    """Keeps what was used again after it had left the queue of newcomers."""

    name: ClassVar[str] = "twoq"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._nodes: dict[str, _Node] = {}
        self._candidate: str | None = None
        self._new: Queue[_Node] = Queue()
        self._main: Queue[_Node] = Queue()
        self._out = Ghosts(int(capacity * _OUT))

    def on_resize(self, capacity: int) -> None:  # noqa: D102
        super().on_resize(capacity)
        self._out.limit = int(capacity * _OUT)
        self._out.shrink(self._out.limit)

    def _queue_of(self, node: _Node) -> Queue[_Node]:
        return self._main if node.returned else self._new

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Admits all, and notes which ghost the next evictions make room for."""
        self._candidate = key
        return True

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key] = _Node(key, size, self._out.discard(key))
        self._queue_of(node).append(node)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key]
        if node.returned:
            self._main.unlink(node)
            self._main.append(node)

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        node = self._nodes[key]
        self._queue_of(node).resize(node, size)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._nodes.pop(key)
        self._queue_of(node).unlink(node)
        if reason is RemoveReason.EVICTED and not node.returned:
            self._out.add(key, node.size, self._candidate)

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Newcomers while they take more than their quarter, else the least recently used of the others."""
        new, main = iter(self._new), iter(self._main)
        over = self._new.nbytes - int(self.capacity * _IN)
        while bytes_needed > 0:
            node = next(new, None) if over > 0 else next(main, None)
            if node is None:
                node = next(main, None) if over > 0 else next(new, None)
                if node is None:
                    return
            if not node.returned:
                over -= node.size
            if node.key not in protected:
                bytes_needed -= node.size
                yield node.key

    def __len__(self) -> int:
        return len(self._nodes)

    def state(self) -> bytes:
        """The order of both queues; ghosts are not saved."""
        return pack_nodes("twoq/1", new=reversed(self._new), main=reversed(self._main))

    def restore(self, state: bytes) -> None:
        """Put the held keys back in their queues."""
        for node, queue, _ in unpack_nodes("twoq/1", state, self._nodes.values()):
            self._queue_of(node).unlink(node)
            node.returned = queue == "main"
            self._queue_of(node).append(node)
