"""When movers work: ahead of need, in batches, and out of the way of readers, but never for ever."""

from __future__ import annotations

import time
from typing import Any

from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.lru import Lru


class Counting(LMSLocalBackend):
    """Notes how many keys each deletion took."""

    def __init__(self) -> None:
        super().__init__()
        self.deletions: list[int] = []

    def remove_many(self, keys: Any) -> None:
        self.deletions.append(len(keys))
        super().remove_many(keys)


class Choosy(Lru):
    """Takes nothing until it is opened."""

    open = False

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        return self.open


def test_all_but_a_quarter_of_a_tier_is_copied_down_before_room_is_needed(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(8):
        bench.put(store, i, i)
    bench.until(lambda: store.stats().tiers[1].demoted >= 6)
    assert store.stats().tiers[0].keys == 8
    assert store.stats().tiers[0].evictions == 0


def test_a_chunk_refused_ahead_of_need_is_offered_again_later(bench: Any, clock: Any) -> None:
    choosy = Choosy(100_000, clock)
    store = bench.store(1000, 100_000, policies=[Lru(1000, clock), choosy])
    for i in range(8):
        bench.put(store, i, i)
    store.drain(60)
    assert store.stats().tiers[1].keys == 0
    choosy.open = True
    for i in range(8, 40):
        bench.put(store, i, i)
    store.drain(60)
    assert [bench.get(store, i) for i in range(40)] == list(range(40))


def test_a_batch_makes_its_room_by_one_deletion(bench: Any) -> None:
    lower = Counting()
    store = bench.store(2000, 8000, backends=[LMSLocalBackend(), lower])
    for i in range(200):
        bench.put(store, i, i)
    store.flush(60)
    assert max(lower.deletions) > 1
    assert store.stats().tiers[1].peak_bytes <= 8000


def test_readers_who_never_stop_do_not_keep_chunks_from_rising(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(30):
        bench.put(store, i, i)
    store.flush(60)
    bench.until(lambda: not store._h.index[bench.key(0).to_string()].tiers & 1)
    store._h.read_at = time.perf_counter_ns() + 10**12  # as if somebody were reading all the time
    assert bench.get(store, 0) == 0
    store._h.read_at = time.perf_counter_ns() + 10**12
    bench.until(lambda: store._h.index[bench.key(0).to_string()].tiers & 1)


def test_a_put_that_waits_for_room_is_not_kept_waiting_by_readers(bench: Any) -> None:
    store = bench.store(1000, 100_000, back_pressure=10.0)
    store._h.read_at = time.perf_counter_ns() + 10**15
    for i in range(100):
        bench.put(store, i, i)
    assert store.stats().tiers[0].drops == 0
    assert [bench.get(store, i) for i in range(100)] == list(range(100))


def test_a_drain_waits_for_no_reader(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(30):
        bench.put(store, i, i)
    store.flush(60)
    assert bench.get(store, 0) == 0
    store._h.read_at = time.perf_counter_ns() + 10**15
    store.drain(60)
    assert store._h.index[bench.key(0).to_string()].tiers & 1


def test_a_store_tells_which_tiers_hold_a_key(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    bench.put(store, 1, 1)
    assert store.tiers_of(bench.key(1)) == ("t0",)
    for i in range(2, 30):
        bench.put(store, i, i)
    store.drain(60)
    assert store.tiers_of(bench.key(1)) == ("t1",)
    assert store.tiers_of(bench.key(2000)) == ()
