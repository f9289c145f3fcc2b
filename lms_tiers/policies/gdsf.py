"""GreedyDual-Size-Frequency: rank is uses per byte plus the rank of what was evicted last; large chunks leave sooner.

L. Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs 1998.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Container, Iterator
from itertools import islice
from typing import ClassVar

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.saved import MAX_SAVED_KEYS, hashes, key_hash, pack, unpack


class _Entry:
    __slots__ = ("order", "rank", "size", "uses")

    def __init__(self, size: int) -> None:
        self.size = size
        self.uses = 0
        self.rank = 0.0
        self.order = 0


class Gdsf(EvictionPolicy):
    """Size-aware LFU with ageing."""

    name: ClassVar[str] = "gdsf"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[float, int, str]] = []  # lazy: an entry of another order is stale
        self._age = 0.0
        self._clicks = 0

    def _push(self, key: str, entry: _Entry) -> None:
        entry.uses += 1
        entry.rank = self._age + entry.uses / max(entry.size, 1)
        self._clicks += 1
        entry.order = self._clicks
        heapq.heappush(self._heap, (entry.rank, entry.order, key))
        if len(self._heap) > 64 + 3 * len(self._entries):
            self._tidy()

    def _tidy(self) -> None:
        self._heap = sorted((entry.rank, entry.order, key) for key, entry in self._entries.items())

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        entry = self._entries[key] = _Entry(size)
        self._push(key, entry)

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        self._push(key, self._entries[key])

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        self._entries[key].size = size  # its next use ranks it anew

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        entry = self._entries.pop(key)
        if reason is RemoveReason.EVICTED:
            self._age = max(self._age, entry.rank)

    def _fresh(self, item: tuple[float, int, str]) -> _Entry | None:
        entry = self._entries.get(item[2])
        return entry if entry is not None and entry.order == item[1] else None

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:  # noqa: D102
        heap = self._heap
        while heap and self._fresh(heap[0]) is None:
            heapq.heappop(heap)
        if not heap:
            return
        first = heap[0]
        if bytes_needed > 0 and first[2] not in protected:
            bytes_needed -= self._entries[first[2]].size
            yield first[2]
        if bytes_needed <= 0:
            return
        rest = heap[:]
        heapq.heappop(rest)
        while rest and bytes_needed > 0:
            item = heapq.heappop(rest)
            entry = self._fresh(item)
            if entry is not None and item[2] not in protected:
                bytes_needed -= entry.size
                yield item[2]

    def __len__(self) -> int:
        return len(self._entries)

    def state(self) -> bytes:
        """Uses of the keys of highest rank."""
        best = sorted(self._entries.items(), key=lambda item: (item[1].rank, item[1].order), reverse=True)
        saved = list(islice(best, MAX_SAVED_KEYS))
        return pack(
            "gdsf/1",
            {
                "age": array("d", [self._age]),
                "keys": hashes(key for key, _ in saved),
                "ranks": array("d", [entry.rank for _, entry in saved]),
                "uses": array("q", [entry.uses for _, entry in saved]),
            },
        )

    def restore(self, state: bytes) -> None:
        """Give the held keys their ranks back."""
        sections = unpack("gdsf/1", state)
        if sections is None:
            return
        self._age = sections["age"][0]
        held = {key_hash(key): entry for key, entry in self._entries.items()}
        for h, rank, uses in reversed(list(zip(sections["keys"], sections["ranks"], sections["uses"], strict=True))):
            entry = held.pop(h, None)
            if entry is not None:
                self._clicks += 1
                entry.rank, entry.uses, entry.order = rank, uses, self._clicks
        for entry in held.values():
            self._clicks += 1
            entry.rank, entry.order = self._age + entry.uses / max(entry.size, 1), self._clicks
        self._tidy()
