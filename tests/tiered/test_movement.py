"""What moves between the tiers of a store, and what a use says to each of them."""

from __future__ import annotations

from typing import Any

import pytest


def test_what_leaves_the_top_is_found_below_and_comes_back_up(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(50):
        bench.put(store, i, i)
    store.drain(60)
    top, below = bench.weights()
    assert top.weight <= 1000
    assert not top.contains(bench.key(0))
    assert [bench.get(store, 0) for _ in range(2)] == [0, 0]
    store.drain(60)
    assert top.contains(bench.key(0))
    assert below.contains(bench.key(0)), "the clean lower copy is kept"


@pytest.mark.parametrize("many", [False, True])
def test_what_is_hit_in_a_tier_that_promotes_never_stays_there(bench: Any, many: bool) -> None:
    store = bench.store(1000, 10_000, promote={1: "never"})
    for i in range(30):
        bench.put(store, i, i)
    store.flush(60)
    low = [i for i in range(30) if store.tiers_of(bench.key(i)) == ("t1",)]
    assert len(low) >= 2
    for _ in range(3):
        if many:
            assert [bench.value(obj) for obj in store.get_many([bench.key(i) for i in low])] == low
        else:
            assert [bench.get(store, i) for i in low] == low
    store.drain(60)
    assert {store.tiers_of(bench.key(i)) for i in low} == {("t1",)}
    assert store.stats().tiers[0].promoted == store.stats().tiers[0].promotions_skipped == 0
    assert store.stats().tiers[1].hits == 3 * len(low)


def test_a_clean_chunk_is_not_written_down_again(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(50):
        bench.put(store, i, i)
    store.drain(60)
    for _ in range(3):
        for i in range(50):
            assert bench.get(store, i) == i
        store.drain(60)
    assert store.stats().tiers[1].bytes_written <= 50 * 100


def test_a_hit_above_refreshes_the_copy_below(bench: Any) -> None:
    store = bench.store(1000, 3000)
    for i in range(15):
        bench.put(store, i, i)
    store.drain(60)
    top, below = bench.weights()
    assert below.contains(bench.key(0))
    for i in range(100, 300):
        assert bench.get(store, 0) == 0
        bench.put(store, i, i)
        store.drain(60)
    assert top.contains(bench.key(0))
    assert below.contains(bench.key(0)), "the hottest chunk was evicted below, where nobody had hit it"
    store.flush(60)
    assert below.touches[-1] == bench.key(0).to_string()


def test_a_chunk_that_is_overwritten_or_removed_again_and_again_is_not_written_down(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(30):
        bench.put(store, 0, i)
        bench.put(store, i + 1, i)
        store.remove(bench.key(i + 1))
        store.drain(60)
    assert store.stats().tiers[1].bytes_written == 0, "a tenth of the tier is dirty, and was taken for more"
    top = store._h.tiers[0]
    assert (dict(top.dirty), top.dirty_bytes) == ({bench.key(0).to_string(): 100}, 100)


def test_a_touch_is_a_use_in_each_tier_that_holds_the_chunk_and_no_hit(bench: Any) -> None:
    store = bench.store(500, 1000, write="through")
    bench.fill(store, 5)
    assert all(store.tiers_of(bench.key(i)) == ("t0", "t1") for i in range(5))
    store.touch([bench.key("absent"), bench.key(0), bench.key(1)])
    assert store.stats().hits == 0
    for i in range(5, 8):
        bench.put(store, i, i)
        store.drain(60)
    top, below = bench.weights()
    assert [top.contains(bench.key(i)) for i in range(5)] == [True, True, False, False, False]
    for i in range(8, 13):
        bench.put(store, i, i)
        store.drain(60)
    assert [below.contains(bench.key(i)) for i in range(5)] == [True, True, False, False, False]
    store.flush(60)
    assert below.touches[:2] == [bench.key(0).to_string(), bench.key(1).to_string()]


def test_a_chunk_too_large_for_the_top_goes_to_the_first_tier_that_fits(bench: Any) -> None:
    store = bench.store(1000, 5000, 50_000)
    bench.put(store, 1, 1, 4000)
    bench.put(store, 2, 2, 20_000)
    # A mover may have copied the first one on to the last tier by now.
    assert [w.contains(bench.key(1)) for w in bench.weights()[:2]] == [False, True]
    assert [w.contains(bench.key(2)) for w in bench.weights()] == [False, False, True]
    assert (bench.get(store, 1), bench.get(store, 2)) == (1, 2)


def test_an_overwrite_that_moves_down_hides_the_older_copy_above(bench: Any) -> None:
    store = bench.store(1000, 50_000)
    bench.put(store, 1, 1, 100)
    bench.put(store, 1, 2, 4000)
    assert bench.get(store, 1) == 2
    store.drain(60)
    assert not bench.weights()[0].contains(bench.key(1))
    bench.put(store, 1, 3, 100)
    assert bench.get(store, 1) == 3
    store.drain(60)
    assert bench.get(store, 1) == 3
