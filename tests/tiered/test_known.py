"""What a store answers from its index: no backend is asked, and nothing counts as a use."""

from __future__ import annotations

from typing import Any

import pytest
from lms_conformance.shared import SharedReference, forget_engine, shared_engine

from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import MemoryFormat
from lms_tiers.plugins.faulty.backend import FaultyBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from tests.tiered.slow import Slow


def test_a_chunk_is_described_without_asking_a_backend(bench: Any, clock: Any) -> None:
    backends = [FaultyBackend(bench.weighed()) for _ in range(2)]
    store = bench.store(1000, 100_000, backends=backends, clock=clock, write="through")
    bench.put(store, 1, 1, 60)
    bench.put(store, 2, 2, 5000)
    store.drain(60)
    store.pin([bench.key(1)], 20)
    before = [dict(backend.calls) for backend in backends]
    one, two = store.info(bench.key(1)), store.info(bench.key(2))
    assert one is not None
    assert two is not None
    assert (one.key.to_string(), one.meta.length, one.meta.fmt) == (bench.key(1).to_string(), 60, MemoryFormat.KV_2LTD)
    assert (one.meta.dtype, one.meta.shape) == ("uint8", (60,))
    assert (one.tiers, one.stored_bytes, one.pinned_until) == ({"t0": 60, "t1": 60}, 120, clock.now + 20)
    assert (two.tiers, two.stored_bytes, two.pinned_until) == ({"t1": 5000}, 5000, None)
    assert store.info(bench.key(3)) is None
    assert one.stored_bytes <= store.reserve_bytes(60), "a chunk may lie in all tiers"
    listed = list(store.scan())
    assert {info.key.to_string(): info for info in listed} == {info.key.to_string(): info for info in (one, two)}
    assert all(isinstance(info, ChunkInfo) for info in listed)
    assert [dict(backend.calls) for backend in backends] == before
    assert store.stats().hits == store.stats().misses == 0
    clock.now += 20
    assert store.info(bench.key(1)).pinned_until is None, "its time is over"


def test_the_order_of_uses_is_as_it_was_after_a_scan(bench: Any) -> None:
    store = bench.store(300)
    for i in range(3):
        bench.put(store, i, i)
    bench.get(store, 0)
    list(store.scan())
    store.info(bench.key(1))
    bench.put(store, 3, 3)
    assert [bench.get(store, i) for i in range(4)] == [0, None, 2, 3]


def test_what_leaves_during_a_scan_is_left_out(bench: Any) -> None:
    store = bench.store(100_000)
    for i in range(600):
        bench.put(store, i, i)
    scan = store.scan()
    assert next(scan).key.to_string() == bench.key(0).to_string()
    store.remove(bench.key(599))
    bench.put(store, 600, 600)
    assert [info.key.chunk_hash for info in scan] == list(range(1, 599))


def test_a_scan_while_the_store_is_loaded_has_every_chunk(bench: Any, slow: Slow) -> None:
    store = bench.store(1000, 10_000, backends=[bench.weighed(), slow.backend])
    bench.put(store, 3, 103)
    store.remove(bench.key(4))
    assert store.loading
    found = {info.key.chunk_hash: info.tiers for info in store.scan()}
    assert found == {i: {"t0" if i == 3 else "t1": 100} for i in range(20) if i != 4}
    assert store.info(bench.key(7)).tiers == {"t1": 100}


def test_what_only_a_shared_tier_holds_is_scanned_there_and_of_no_tier_of_ours(bench: Any) -> None:
    engine = shared_engine("test_known")
    try:
        other = SharedReference("test_known")
        bench.put(other, 1, 1)
        bench.put(other, 2, 2)
        store = TieredStore(
            [
                TierConfig("ram", bench.weighed(), 1000, Lru(1000, lambda: 0.0)),
                TierConfig("pool", SharedReference("test_known"), None, None),
            ]
        )
        with store:
            bench.put(store, 2, 22)
            bench.put(store, 3, 3)
            store.flush(60)
            before = engine.round_trips
            assert store.info(bench.key(1)) is None
            assert store.pin_each([bench.key(1), bench.key(2)], 60) == [False, True]
            assert engine.round_trips == before
            assert sorted(info.key.chunk_hash for info in store.scan()) == [1, 2, 3]
            mine = store.info(bench.key(2))
            assert mine is not None
            assert mine.tiers == {"ram": 100}
        other.close()
    finally:
        forget_engine("test_known")


def test_what_rises_or_leaves_between_two_steps_of_a_scan_is_told_once(bench: Any) -> None:
    """A chunk of the shared tier that a private one has only since, and one that the private one had until then."""
    shared_engine("test_known")
    try:
        store = TieredStore(
            [
                TierConfig("ram", bench.weighed(), 100_000, Lru(100_000, lambda: 0.0)),
                TierConfig("pool", SharedReference("test_known"), None, None),
            ]
        )
        with store, SharedReference("test_known") as other:
            for i in range(600):
                bench.put(store, i, i)
            store.flush(60)
            bench.put(other, 1000, 1)
            scan = store.scan()
            seen = [next(scan).key.chunk_hash]
            assert bench.get(store, 1000) == 1
            store.drain(60)
            assert store.tiers_of(bench.key(1000)) == ("ram",)
            store.resize("ram", 20_000)
            assert store.tiers_of(bench.key(300)) == (), "beyond what one step describes"
            seen += [info.key.chunk_hash for info in scan]
            assert sorted(seen) == [*range(600), 1000]
    finally:
        forget_engine("test_known")


def test_a_closed_store_knows_nothing(bench: Any) -> None:
    store = bench.store(1000)
    bench.done(store)
    for call in (lambda: store.info(bench.key(1)), lambda: list(store.scan()), lambda: store.pin_each([], 1)):
        with pytest.raises(Exception, match="closed"):
            call()
