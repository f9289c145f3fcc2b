"""First in, first out: hits change nothing. The baseline of L. A. Belady, IBM Systems Journal 5(2), 1966."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.queue import Node
from lms_tiers.policies.queued import QueuePolicy


class Fifo(QueuePolicy[Node]):
    """Evicts what was stored first."""

    name: ClassVar[str] = "fifo"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._queue = self._made("queue")

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        self._link(Node(key, size), self._queue)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        pass
