"""2Q (full version): newcomers in a FIFO, ghosts of those that left it, an LRU for those that came back.

T. Johnson and D. Shasha, "2Q: A Low Overhead High Performance Buffer Management Replacement Algorithm", VLDB 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.ghosts import Ghosts
from lms_tiers.policies.queue import Node
from lms_tiers.policies.queued import QueuePolicy

_IN: Final = 0.25
_OUT: Final = 0.5


class TwoQ(QueuePolicy[Node]):
    """Keeps what was used again after it had left the queue of newcomers."""

    name: ClassVar[str] = "twoq"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._candidate: str | None = None
        self._new = self._made("new")
        self._main = self._made("main")
        self._out = Ghosts(int(capacity * _OUT))

    def on_resize(self, capacity: int) -> None:  # noqa: D102
        super().on_resize(capacity)
        self._out.limit = int(capacity * _OUT)
        self._out.shrink(self._out.limit)

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Admits all, and notes which ghost the next evictions make room for."""
        self._candidate = key
        return True

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        self._link(Node(key, size), self._main if self._out.discard(key) else self._new)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key]
        if node.queue is self._main:
            self._main.unlink(node)
            self._main.append(node)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._nodes.pop(key)
        node.queue.unlink(node)
        if reason is RemoveReason.EVICTED and node.queue is self._new:
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
            if node.queue is self._new:
                over -= node.size
            if node.key not in protected:
                bytes_needed -= node.size
                yield node.key
