"""What holds between a store's counters, whatever was asked of it: each line of `names.IDENTITIES`, by its own words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lms_conformance.shared import SharedEngine, SharedReference, forget_engine, shared_engine

from lms_tiers import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.metrics import names
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.events import EventReason
from lms_tiers.tiered.watch.stats import StoreStats
from tests.depth import DEPTH
from tests.docs.named import ROOT

SIZE = 100
META = ChunkMeta(SIZE, MemoryFormat.KV_2LTD, "uint8", (SIZE,))
CAPACITIES = {"one": (1000,), "two": (500, 2000), "three": (300, 500, 2000), "shared": (500,)}


class Counting:
    """A store, and how many keys were asked for by gets."""

    def __init__(self, shape: str) -> None:
        self.gets = 0
        tiers = [
            TierConfig(f"t{i}", LMSLocalBackend(), c, Lru(c, time.monotonic)) for i, c in enumerate(CAPACITIES[shape])
        ]
        if shape == "shared":
            tiers.append(TierConfig("pool", SharedReference("identities"), None, None, deadline=60.0))
        self.store = TieredStore(tiers, back_pressure=60.0, stall=60.0)

    def put(self, keys: list[int]) -> None:
        self.store.put_many([(META.message(OpaqueKey(str(i))), bytearray(SIZE)) for i in keys])

    def get(self, keys: list[int]) -> None:
        self.gets += len(keys)
        self.store.get_many([OpaqueKey(str(i)) for i in keys])

    def single(self, keys: list[int]) -> None:
        for i in keys:
            self.gets += 1
            self.store.get(OpaqueKey(str(i)))

    def into(self, keys: list[int]) -> None:
        for i in keys:
            self.gets += 1
            self.store.get_into(OpaqueKey(str(i)), bytearray(SIZE))

    def slots(self, keys: list[int]) -> None:
        self.gets += len(keys)
        self.store.get_many_into([(OpaqueKey(str(i)), [bytearray(SIZE)]) for i in keys])

    def view(self, keys: list[int]) -> None:
        for i in keys:
            self.gets += 1
            with self.store.view(OpaqueKey(str(i))):
                pass

    def contains(self, keys: list[int]) -> None:
        self.store.contains_many([OpaqueKey(str(i)) for i in keys])

    def remove(self, keys: list[int]) -> None:
        self.store.remove_many([OpaqueKey(str(i)) for i in keys[:2]])

    def drain(self, keys: list[int]) -> None:
        self.store.drain(60)


CALLS = ("put", "put", "get", "single", "into", "slots", "view", "contains", "remove", "drain")


def top(stats: StoreStats) -> int:
    return stats.tiers[0].hits + stats.tiers[0].misses


#: Each identity as this file understands it.
CHECKS: dict[str, Callable[[StoreStats, int], bool]] = {
    "store_hits + store_misses = keys asked for by gets": lambda s, gets: s.hits + s.misses == gets,
    "store_hits = tier_hits of all tiers + shared_hits": lambda s, gets: (
        s.hits == sum(t.hits for t in s.tiers) + (s.shared.hits if s.shared else 0)
    ),
    "tier_hits + tier_misses of the top tier = store_hits + store_misses": lambda s, gets: top(s) == s.hits + s.misses,
    "tier_hits + tier_misses of a tier below = tier_misses of the one above": lambda s, gets: all(
        low.hits + low.misses == high.misses for high, low in zip(s.tiers, s.tiers[1:], strict=False)
    ),
    "shared_hits + shared_misses = tier_misses of the lowest tier": lambda s, gets: (
        s.shared is None or s.shared.hits + s.shared.misses == s.tiers[-1].misses
    ),
    "tier_evictions of all reasons = chunks that left to make room": lambda s, gets: all(
        sum(t.evictions_by_reason.values()) == t.evictions for t in s.tiers
    ),
    "tier_drops = tier_evictions for back-pressure + tier_evictions for breaker-open": lambda s, gets: all(
        t.drops == t.evictions_by_reason[EventReason.BACK_PRESSURE] + t.evictions_by_reason[EventReason.BREAKER_OPEN]
        for t in s.tiers
    ),
    "tier_bytes <= tier_peak_bytes <= tier_capacity_bytes": lambda s, gets: all(
        t.bytes_used <= t.peak_bytes <= (t.capacity_bytes or 0) for t in s.tiers
    ),
}


@contextmanager
def counting(shape: str) -> Iterator[Counting]:
    engine: SharedEngine = shared_engine("identities")
    try:
        it = Counting(shape)
        with it.store:
            yield it
    finally:
        assert engine is not None
        forget_engine("identities")


@pytest.mark.parametrize("shape", CAPACITIES)
@settings(max_examples=25 * DEPTH, deadline=None)
@given(program=st.lists(st.tuples(st.sampled_from(CALLS), st.lists(st.integers(0, 30), max_size=8)), max_size=40))
def test_every_identity_holds_after_any_program(shape: str, program: list[tuple[str, list[int]]]) -> None:
    with counting(shape) as it:
        for call, keys in program:
            getattr(it, call)(keys)
        stats = it.store.stats()
        wrong = [text for text, holds in CHECKS.items() if not holds(stats, it.gets)]
        assert wrong == [], (it.gets, stats)


def test_the_identities_stand_in_the_table_of_metrics_and_in_the_operators_guide() -> None:
    assert tuple(CHECKS) == names.IDENTITIES
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [text for text in names.IDENTITIES if f"- `{text}`" not in guide] == []


def test_the_words_of_identities_are_metrics() -> None:
    known = {name.removeprefix("lms_tiers_").removesuffix("_total") for name, _, _ in names.described()}
    words: set[Any] = {word for text in names.IDENTITIES for word in text.split() if "_" in word}
    assert words <= known
