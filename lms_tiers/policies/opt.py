"""Belady's optimum, for simulation only: evicts what is used furthest in the future, ties deepest in the chain first.

L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966. For
prefix chains a chunk's next use is never before its parent's, so that the order by (next use, depth) evicts tails
first and is optimal for prefix hits too. A chunk that is itself used furthest is not admitted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterator, Sequence
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason

_NEVER: Final = 1 << 60


class Opt(EvictionPolicy):
    """Needs the future: `foresee` before the first access, then exactly those accesses in that order."""

    name: ClassVar[str] = "opt"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._next: list[int] = []
        self._at = 0
        self._rank: dict[str, tuple[int, int, int]] = {}  # key → (−next use, −depth, size)
        self._heap: list[tuple[int, int, str]] = []  # lazy: entries that differ from `_rank` are stale
        self._nbytes = 0

    def foresee(self, requests: Sequence[Sequence[str]]) -> None:
        """Learn the accesses to come: the keys of each request, in order."""
        coming: dict[str, int] = {}
        uses: list[int] = []
        for number in range(len(requests) - 1, -1, -1):
            for key in reversed(requests[number]):
                uses.append(coming.get(key, _NEVER))
                coming[key] = number
        uses.reverse()
        self._next = uses

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Refuses a chunk whose own next use is further than any held one's."""
        use = self._next[self._at]
        fits = self._nbytes + size <= self.capacity
        if use < _NEVER and (fits or (-use, -context.position) > self._worst()):
            return True
        self._at += 1  # a refused chunk is not inserted: its access ends here
        return False

    def _worst(self) -> tuple[int, int]:
        heap, rank = self._heap, self._rank
        while heap:
            use, depth, key = heap[0]
            now = rank.get(key)
            if now is not None and now[0] == use and now[1] == depth:
                return use, depth
            heapq.heappop(heap)
        return -_NEVER - 1, 0

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        self._nbytes += size
        self._set(key, size, context.position)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        self._set(key, self._rank[key][2], context.position)

    def _set(self, key: str, size: int, depth: int) -> None:
        use = -self._next[self._at]
        self._at += 1
        self._rank[key] = (use, -depth, size)
        heapq.heappush(self._heap, (use, -depth, key))

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        use, depth, before = self._rank[key]
        self._rank[key] = use, depth, size
        self._nbytes += size - before

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        self._nbytes -= self._rank.pop(key)[2]

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:  # noqa: D102
        kept = []
        while bytes_needed > 0 and self._worst()[0] >= -_NEVER:
            entry = heapq.heappop(self._heap)
            kept.append(entry)
            key = entry[2]
            if key not in protected:
                bytes_needed -= self._rank[key][2]
        for entry in kept:
            heapq.heappush(self._heap, entry)
        yield from (entry[2] for entry in kept if entry[2] not in protected)

    def __len__(self) -> int:
        return len(self._rank)
