"""When movers work: ahead of need, in batches, and out of the way of readers, but never for ever."""

from __future__ import annotations

from typing import Any

import pytest

from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.paths import mover
from lms_tiers.tiered.state.uses import MOST_NOTED


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
        if i:
            store.drain(60)  # however quick the mover is: the last put is what makes it too much
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


def test_who_waits_for_room_waits_for_no_more_chunks_than_make_it(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "_HURRIED_BYTES", 1)
    store = bench.store(10_000, 1_000_000)
    top, below = store._h.tiers[0], store._movers[1]

    def next_batch() -> int:
        top.ahead = 0  # nothing is known to be clean
        return len(below._candidates())

    with monkeypatch.context() as asleep:
        asleep.setattr(below, "poke", lambda: None)
        for i in range(97):
            bench.put(store, i, i)
        with store._h.lock:
            assert next_batch() == 3  # for which there is room
        for i in range(97, 100):
            bench.put(store, i, i)
        with store._h.lock:
            assert next_batch() == 1
            top.wanting[0] = 700
            assert next_batch() == 7
            del top.wanting[0]
    bench.put(store, 100, 100)
    store.flush(60)
    assert [bench.get(store, i) for i in range(101)] == list(range(101))


def rises(bench: Any, store: Any, i: int) -> bool:
    """Whether a chunk is in the top tier when everything noted is told and moved."""
    store.drain(60)
    return "t0" in store.tiers_of(bench.key(i))


def test_a_chunk_rises_at_its_second_hit_so_that_a_scan_moves_nothing(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(60):
        bench.put(store, i, i)
    store.flush(60)
    hot = [i for i in range(60) if "t0" in store.tiers_of(bench.key(i))]
    below = [i for i in range(60) if i not in hot]
    assert [bench.get(store, i) for i in below] == below
    store.drain(60)
    assert [i for i in range(60) if "t0" in store.tiers_of(bench.key(i))] == hot
    assert store.stats().tiers[0].promoted == 0
    assert bench.get(store, below[0]) == below[0]
    assert rises(bench, store, below[0])
    top = store.stats().tiers[0]
    assert (top.promoted, top.promotions_skipped) == (1, 0)


def test_two_hits_count_from_when_the_chunk_has_left_the_top(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(30):
        bench.put(store, i, i)
    store.flush(60)
    for _ in range(2):
        assert bench.get(store, 0) == 0
    assert rises(bench, store, 0)
    for i in range(30, 60):
        bench.put(store, i, i)
    store.flush(60)
    assert bench.get(store, 0) == 0
    assert not rises(bench, store, 0)


def test_a_chunk_rises_at_its_first_hit_where_nothing_has_to_leave_for_it(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(30):
        bench.put(store, i, i)
    store.flush(60)
    for i in range(20, 30):
        store.remove(bench.key(i))
    assert bench.get(store, 0) == 0
    assert rises(bench, store, 0)


def test_hits_are_counted_and_ranked_before_anything_is_chosen_to_leave(bench: Any) -> None:
    store = bench.store(1000)
    for i in range(10):
        bench.put(store, i, i)
    for i in range(5):
        assert bench.get(store, i) == i
    stats = store.stats()
    assert (stats.hits, stats.tiers[0].hits, stats.tiers[0].bytes_read) == (5, 5, 500)
    assert stats.tiers[0].read_latency.count == 5
    for i in range(5):
        assert bench.get(store, i) == i
    for i in range(10, 15):
        bench.put(store, i, i)
    assert [bench.get(store, i) for i in range(10)] == [0, 1, 2, 3, 4, None, None, None, None, None]


def test_no_more_waits_to_rise_than_may(bench: Any) -> None:
    top = FaultyBackend(bench.weighed())
    store = bench.store(1000, 100_000, backends=[top, bench.weighed()], queue_bytes=500)
    for i in range(60):
        bench.put(store, i, i)
    store.flush(60)
    below = [i for i in range(60) if "t0" not in store.tiers_of(bench.key(i))]
    for operation in ("put", "put_many"):
        top.inject(operation, Fault.BLOCK)
    for _ in range(2):
        assert [bench.get(store, i) for i in below] == below
    stats = store.stats().tiers[0]
    top.heal()
    assert 0 < stats.queue_bytes <= stats.queue_peak_bytes <= 500
    assert stats.promotions_skipped > 0


def test_notes_of_hits_do_not_pile_up(bench: Any) -> None:
    store = bench.store(1000)
    bench.put(store, 1, 1)
    for _ in range(10 * MOST_NOTED):
        bench.get(store, 1)
    assert len(store._h.noted) <= MOST_NOTED


def test_a_store_tells_which_tiers_hold_a_key(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    bench.put(store, 1, 1)
    assert store.tiers_of(bench.key(1)) == ("t0",)
    for i in range(2, 30):
        bench.put(store, i, i)
    store.drain(60)
    assert store.tiers_of(bench.key(1)) == ("t1",)
    assert store.tiers_of(bench.key(2000)) == ()
