"""LRU over the leaves of the prefix trees: a chunk with held children is pinned by them; partial tails are not kept.

The discipline of radix-tree caches (L. Zheng et al., "SGLang: Efficient Execution of Structured Language Model
Programs", NeurIPS 2024): evicting an inner chunk would make every chunk below it useless.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import ClassVar

from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.lru import Lru


class LeafLru(Lru):
    """Evicts the least recently used chunk that no held chunk continues."""

    name: ClassVar[str] = "leaf_lru"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._parents: dict[str, str] = {}
        self._children: dict[str, int] = {}  # held children of a key, itself held or not

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Refuses a request's partly filled last chunk."""
        return not context.partial

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        super().on_insert(key, size, context)
        parent = context.parent
        if parent is not None and not self._leads_to(key, parent):
            self._parents[key] = parent
            self._children[parent] = self._children.get(parent, 0) + 1

    def _leads_to(self, key: str, child: str | None) -> bool:
        """Whether `child` is `key` or below it: a key may stand twice in a chain, and a ring of parents has no leaf."""
        if child != key and key not in self._children:
            return False
        while child is not None and child != key:
            child = self._parents.get(child)
        return child == key

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        super().on_remove(key, reason)
        parent = self._parents.pop(key, None)
        if parent is not None:
            left = self._children[parent] - 1
            if left:
                self._children[parent] = left
            else:
                del self._children[parent]

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Leaves, oldest first; a parent once its last child was named; pinned chunks when nothing else is left."""
        named: Counter[str] = Counter()  # children proposed, by parent
        waiting: dict[str, int] = {}  # passed over for their children
        for node in self._queue:
            key: str | None = node.key
            size = node.size
            if self._children.get(node.key, 0) > named[node.key] or node.key in protected:
                waiting[node.key] = size
                continue
            while key is not None:
                if bytes_needed <= 0:
                    return
                bytes_needed -= size
                yield key
                key = self._parents.get(key)
                if key is not None:
                    named[key] += 1
                    if key not in waiting or key in protected or self._children[key] > named[key]:
                        break
                    size = waiting.pop(key)
        for left, size in waiting.items():
            if bytes_needed <= 0:
                return
            if left not in protected:
                bytes_needed -= size
                yield left
