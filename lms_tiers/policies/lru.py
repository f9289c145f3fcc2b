"""Least recently used, the tail of a prefix chain first: the default policy.

Within one request the chunks of a chain are used together, and chunk i is useless without those before it. So the
accesses of a request count in reverse: each chunk ranks just older than its parent, the root as the newest of all.
Where the chain is not known this is plain LRU (Mattson et al., "Evaluation techniques for storage hierarchies",
IBM Systems Journal 9(2), 1970).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.queue import Node
from lms_tiers.policies.queued import QueuePolicy

#: Requests whose last chunk is remembered, so that interleaved requests keep their chains in order.
_OPEN_REQUESTS: Final = 64


class Lru(QueuePolicy[Node]):
    """Evicts what was not used for longest; the tail of a chain before its root."""

    name: ClassVar[str] = "lru"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._queue = self._made("queue")
        self._last: dict[int | str | None, str] = {}  # request → its latest access

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key] = Node(key, size)
        self._place(node, context)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        node = self._nodes[key]
        self._queue.unlink(node)
        self._place(node, context)

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
