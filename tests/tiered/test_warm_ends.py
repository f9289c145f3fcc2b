"""A tier that is taken over in the background: made smaller and closed meanwhile, taken over at once, and a real one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend
from tests.tiered.slow import Slow, loaded, order

pytestmark = pytest.mark.usefixtures("in_the_background")


def test_a_tier_is_made_smaller_while_it_is_taken_over(bench: Any, slow: Slow) -> None:
    store = bench.store(2000, backends=[slow.backend])
    assert bench.get(store, 0) == 0
    slow.allow(15)
    store.resize(0, 1000)
    assert slow.backend.weight <= 1000
    slow.allow()
    loaded(bench, store)
    assert [i for i in range(20) if bench.get(store, i) is not None] == [0, *range(11, 20)]


def test_a_store_closed_before_everything_is_taken_over_loses_nothing(bench: Any, slow: Slow) -> None:
    def start() -> Any:
        return bench.store(1000, 10_000, backends=[bench.weighed(), slow.backend])

    store = start()
    slow.allow()
    loaded(bench, store)
    bench.get(store, 4)
    store.close()
    state, slow._allowed = slow.state, threading.Semaphore(0)
    store = start()
    bench.put(store, 1, 101)
    slow.allow(3)
    bench.until(lambda: len(store._h.index) >= 3)
    closing = threading.Thread(target=store.close)
    closing.start()
    bench.until(lambda: store._h.loading is None or store._h.loading._stop.is_set())
    slow.allow()
    closing.join(60)
    assert slow.state is not None
    assert state is not None
    assert slow.state[24:] == state[24:], "an order that is half known is not saved"
    store = start()
    slow.allow()
    loaded(bench, store)
    assert [bench.get(store, i) for i in range(20)] == [0, 101, *range(2, 20)]


def test_with_chunks_in_an_upper_tier_everything_is_taken_over_before_the_start(bench: Any, slow: Slow) -> None:
    upper = Slow(bench, 3)
    upper.allow()
    slow.allow()
    store = bench.store(1000, 10_000, backends=[upper.backend, slow.backend])
    assert not store.loading
    assert store.stats().keys == 20


def test_a_tier_over_its_budget_is_taken_over_before_the_start(bench: Any, slow: Slow) -> None:
    slow.allow()
    store = bench.store(1000, backends=[slow.backend])
    assert not store.loading
    assert slow.backend.weight <= 1000


def test_a_key_that_is_about_to_change_is_never_out_of_sight(bench: Any, slow: Slow) -> None:
    store = bench.store(10_000, backends=[slow.backend])
    seen = store._h.loading.seen
    out_of_sight: list[str] = []

    class Watched(dict[str, Any]):
        def __setitem__(self, text: str, entry: Any) -> None:
            if text in seen and text not in self:
                out_of_sight.append(text)  # who looks now finds it settled, and absent
            super().__setitem__(text, entry)

    store._h.index = Watched(store._h.index)
    bench.put(store, 3, 103)
    store.remove(bench.key(4))
    bench.put(store, 5, 105)
    assert out_of_sight == []
    assert [bench.get(store, i) for i in (3, 4, 5)] == [103, None, 105]


def test_an_lmdb_tier_starts_in_the_background_with_its_chunks_and_their_order(bench: Any, tmp_path: Path) -> None:
    def start() -> Any:
        return CreateStorageBackend(f"cpu?capacity=20KiB > lmdb:{tmp_path}/kv?capacity=8MiB")

    with start() as store:
        for i in range(300):
            bench.put(store, i, i)
        store.flush(60)
        for i in range(0, 300, 7):
            assert bench.get(store, i) == i
        store.flush(60)
        expected = order(store)
    with start() as store:
        assert [bench.get(store, i) for i in (299, 5, 300)] == [299, 5, None]
        assert store.stats().tiers[1].keys == 300
        store.remove(bench.key(8))
        loaded(bench, store)
        store.drain(60)
        assert sorted(order(store)) == [i for i in range(300) if i != 8]
        assert [i for i in order(store) if i not in (299, 5)] == [i for i in expected if i not in (299, 5, 8)]
        assert order(store)[-2:] == [299, 5]
    with start() as store:
        loaded(bench, store)
        assert [bench.get(store, i) for i in range(300)] == [None if i == 8 else i for i in range(300)]
