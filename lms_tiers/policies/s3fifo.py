"""S3-FIFO: a small queue on trial, a main queue with second chances, and ghosts of what failed the trial.

J. Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023; in the variant of libCacheSim 0.3, which
fills the main queue first while nothing has been evicted yet, and asks for two uses on trial.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.ghosts import Ghosts
from lms_tiers.policies.queue import Node
from lms_tiers.policies.queued import QueuePolicy

_SMALL: Final = 0.1
_GHOSTS: Final = 0.9
_USES_TO_PASS: Final = 2
_MAX_USES: Final = 3


class _Node(Node):
    __slots__ = ("uses",)

    def __init__(self, key: str, size: int) -> None:
        super().__init__(key, size)
        self.uses = 0


class S3Fifo(QueuePolicy[_Node]):
    """Evicts quickly what is used once, and by FIFO with second chances what passed the trial."""

    name: ClassVar[str] = "s3fifo"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._candidate: str | None = None
        self._small = self._made("small")
        self._main = self._made("main")
        self._ghosts = Ghosts(int(capacity * _GHOSTS))
        self._evicted = False

    @property
    def _small_bytes(self) -> int:
        return int(self.capacity * _SMALL)

    def on_resize(self, capacity: int) -> None:  # noqa: D102
        super().on_resize(capacity)
        self._ghosts.limit = int(capacity * _GHOSTS)
        self._ghosts.shrink(self._ghosts.limit)

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Admits all, and notes which ghost the next evictions make room for."""
        self._candidate = key
        return True

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        filling = not self._evicted and self._small.nbytes >= self._small_bytes
        in_main = self._ghosts.discard(key) or filling
        self._link(_Node(key, size), self._main if in_main else self._small)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        self._nodes[key].uses += 1

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._nodes.pop(key)
        if reason is RemoveReason.EVICTED:
            self._evicted = True
            self._advance(node)
            if node.queue is self._small:
                self._ghosts.add(key, node.size, self._candidate)
        node.queue.unlink(node)

    def _advance(self, victim: _Node) -> None:
        # Gives the second chances that come before `victim`; stops at a node that has none left, such as one the tier
        # protects. Each step takes a use away or ends a trial, so the steps are paid for by hits and inserts.
        small, main = self._small, self._main
        while True:
            if main.nbytes > self.capacity - self._small_bytes or not small.count:
                head = next(iter(main), None)
                if head is None or head is victim or head.uses < 1:
                    return
                main.unlink(head)
                head.uses = min(head.uses, _MAX_USES) - 1
            else:
                head = next(iter(small))
                if head is victim or head.uses < _USES_TO_PASS:
                    return
                small.unlink(head)
                head.uses = 0
            main.append(head)

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Play the evictions through on the side: `again` holds what would have moved to the main queue's end."""
        small, main = iter(self._small), iter(self._main)
        small_left, main_nbytes = self._small.count, self._main.nbytes
        main_limit = self.capacity - self._small_bytes
        again: deque[tuple[_Node, int]] = deque()
        while bytes_needed > 0:
            if main_nbytes > main_limit or not small_left:
                node = next(main, None)
                if node is not None:
                    uses = node.uses
                elif again:
                    node, uses = again.popleft()
                elif small_left:
                    main_nbytes = 0  # nothing but protected keys is left in main
                    continue
                else:
                    return
                if uses >= 1:
                    again.append((node, min(uses, _MAX_USES) - 1))
                    continue
                main_nbytes -= node.size
            else:
                node = next(small)
                small_left -= 1
                if node.uses >= _USES_TO_PASS:
                    again.append((node, 0))
                    main_nbytes += node.size
                    continue
            if node.key not in protected:
                bytes_needed -= node.size
                yield node.key

    def _number(self, node: _Node) -> int:
        return node.uses

    def restore(self, state: bytes) -> None:
        """Put the held keys back in their queues, with their uses."""
        super().restore(state)
        self._evicted = True

    def _restore(self, node: _Node, queue: str, number: int) -> None:
        super()._restore(node, queue, number)
        node.uses = number
