"""A store serves while its lowest tier is being taken into the index: what is asked for, changed and evicted meanwhile."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from lms_tiers import changes
from lms_tiers.changes import Deadline
from lms_tiers.errors import DeadlineExceededError
from lms_tiers.policies.lfu import Lfu
from lms_tiers.policies.lru import Lru
from tests.stepping import until_it_waits
from tests.tiered.slow import Slow, loaded, order

pytestmark = pytest.mark.usefixtures("in_the_background")


def test_a_store_answers_before_its_tier_has_told_anything(bench: Any, slow: Slow) -> None:
    store = bench.store(10_000, backends=[slow.backend])
    assert store.loading
    assert [bench.get(store, i) for i in range(5)] == list(range(5))
    buffer = bytearray(100)
    assert store.get_into(bench.key(5), buffer).length == 100
    assert buffer == bench.data(5)
    with store.view(bench.key(6)) as view:
        assert bytes(view.buffers[0]) == bench.data(6)
    assert store.get_tensor(bench.key(7)).nbytes == 100
    assert [bench.value(obj) for obj in store.get_many([bench.key(8), bench.key(99), bench.key(9)])] == [8, None, 9]
    assert store.contains(bench.key(10))
    assert not store.contains(bench.key(99))
    assert store.contains_prefix([bench.key(11), bench.key(12), bench.key(99)]) == 2
    assert store.pin([bench.key(13), bench.key(99)], 5.0) == 1
    assert store.tiers_of(bench.key(14)) == ("t0",)
    assert slow.told == 0
    assert store.loading


def test_a_chunk_is_looked_up_once_and_an_absent_one_each_time(bench: Any, slow: Slow) -> None:
    store = bench.store(10_000, backends=[slow.backend])
    for _ in range(3):
        assert bench.get(store, 1) == 1
        assert bench.get(store, 99) is None
    assert slow.located.count(bench.key(1).to_string()) == 1
    slow.allow()
    loaded(bench, store)
    slow.located.clear()
    assert bench.get(store, 99) is None
    assert slow.located == []


def test_everything_is_counted_and_listed_from_the_start(bench: Any, slow: Slow) -> None:
    store = bench.store(1000, 10_000, backends=[bench.weighed(), slow.backend])
    bench.put(store, 30, 30)
    store.remove(bench.key(0))
    bench.put(store, 1, 101)
    slow.allow(5)
    bench.until(lambda: slow.told == 5)
    expected = sorted([*range(1, 20), 30])
    assert sorted(key.chunk_hash for key in store.list_keys()) == expected
    assert sorted(key.chunk_hash for key in store.iter_keys()) == expected
    stats = store.stats()
    assert stats.keys == 20
    assert stats.tiers[1].bytes_used >= 1800
    slow.allow()
    loaded(bench, store)
    assert sorted(key.chunk_hash for key in store.list_keys()) == expected
    store.drain(60)
    assert store._h.tiers[1].used == slow.backend.weight


def test_what_is_put_and_removed_meanwhile_stays_so(bench: Any, slow: Slow) -> None:
    store = bench.store(300, 10_000, backends=[bench.weighed(), slow.backend])
    for i in range(5):
        bench.put(store, i, 100 + i)
    for i in range(5, 10):
        store.remove(bench.key(i))
    store.put_many([(bench.meta(i, 100), bench.data(100 + i)) for i in range(10, 13)])
    values = [*range(100, 105), *[None] * 5, *range(110, 113), *range(13, 20)]
    assert [bench.get(store, i) for i in range(20)] == values
    slow.allow()
    loaded(bench, store)
    assert [bench.get(store, i) for i in range(20)] == values
    store.close()
    store = bench.store(300, 10_000, backends=[bench.weighed(), slow.backend])
    loaded(bench, store)
    assert [bench.get(store, i) for i in range(20)] == values
    assert slow.backend.weight == 1500


def test_a_look_up_that_a_removal_overtakes_brings_nothing_back(bench: Any, slow: Slow) -> None:
    store = bench.store(10_000, backends=[slow.backend])

    def overtake() -> None:
        slow.before_answer = None
        store.remove(bench.key(3))

    slow.before_answer = overtake
    assert bench.get(store, 3) is None
    slow.allow()
    loaded(bench, store)
    assert bench.get(store, 3) is None
    assert not slow.backend.contains(bench.key(3))
    assert store._h.tiers[0].used == slow.backend.weight == 1900


def test_a_look_up_does_not_see_a_put_that_is_not_published(bench: Any, slow: Slow) -> None:
    store = bench.store(10_000, backends=[slow.backend])
    put, between = slow.backend.put, []

    def watched_put(client_meta: Any, data: Any) -> None:
        put(client_meta, data)
        between.append(bench.get(store, 50))

    slow.backend.put = watched_put
    bench.put(store, 50, 7)
    assert between == [None]
    assert bench.get(store, 50) == 7
    slow.allow()
    loaded(bench, store)
    assert store._h.tiers[0].used == slow.backend.weight == 2100


def test_the_order_of_use_is_the_same_as_if_all_had_been_loaded_first(bench: Any, slow: Slow) -> None:
    store = bench.store(10_000, backends=[slow.backend])
    assert bench.get(store, 15) == 15
    assert store.contains(bench.key(12))  # which is no use
    bench.put(store, 20, 20)
    slow.allow(10)
    bench.until(lambda: len(store._h.index) >= 12)
    bench.put(store, 2, 102)
    assert bench.get(store, 17) == 17
    assert bench.get(store, 4) == 4
    assert bench.get(store, 15) == 15
    store.remove(bench.key(5))
    slow.allow()
    loaded(bench, store)
    untouched = [i for i in range(20) if i not in (2, 4, 5, 15, 17)]
    assert order(store) == [*untouched, 20, 2, 17, 4, 15]


@pytest.mark.parametrize("policy", [Lru, Lfu])
def test_what_the_policy_remembers_is_restored_after_the_loading(bench: Any, slow: Slow, policy: Any) -> None:
    def start() -> Any:
        return bench.store(10_000, backends=[slow.backend], policies=[policy(10_000, time.monotonic)])

    store = start()
    slow.allow()
    loaded(bench, store)
    for i in (3, 7, 3, 7, 3, 5):
        assert bench.get(store, i) == i
    expected = order(store)
    store.close()
    store = start()
    loaded(bench, store)
    assert order(store) == expected
    assert store.stats().tiers[0].policy == policy.name


def test_a_full_tier_waits_for_what_may_leave_and_is_never_over_its_budget(bench: Any, slow: Slow) -> None:
    store = bench.store(2000, backends=[slow.backend], back_pressure=0.05)
    assert bench.get(store, 0) == 0
    looks = bench.counted(store._room, "take")
    putter = threading.Thread(target=lambda: bench.put(store, 50, 50))
    putter.start()
    bench.until(lambda: sum(look.get("force", False) for look in looks) > 1 or not putter.is_alive())
    assert putter.is_alive(), "only chunk 0 is in the index, and it was used a moment ago"
    slow.allow(3)
    putter.join(60)
    assert not putter.is_alive()
    assert slow.backend.heaviest <= 2000
    assert bench.get(store, 0) == 0
    assert bench.get(store, 1) is None, "the least recently used of those that nobody asked for"
    assert bench.get(store, 2) == 2
    slow.allow(1)
    bench.put(store, 51, 51)
    assert [bench.get(store, i) for i in (2, 3)] == [2, None], "the only one that was not used since"
    slow.allow()
    for i in range(60, 70):
        bench.put(store, i, i)
    loaded(bench, store)
    assert slow.backend.heaviest <= 2000
    assert [bench.get(store, i) for i in range(60, 70)] == list(range(60, 70))
    assert store.stats().tiers[0].policy == "lru"
    assert store._h.tiers[0].used == slow.backend.weight


def test_an_evicted_chunk_is_not_found_again_while_its_bytes_are_being_deleted(bench: Any, slow: Slow) -> None:
    store = bench.store(2000, backends=[slow.backend])
    slow.allow(5)
    bench.until(lambda: len(store._h.index) == 5)
    remove_many = slow.backend.remove_many
    seen: list[Any] = []

    def watched_remove(keys: Any) -> None:
        seen.extend((key.to_string(), store.get(key)) for key in keys)
        remove_many(keys)

    slow.backend.remove_many = watched_remove
    bench.put(store, 50, 50)
    assert seen == [(bench.key(0).to_string(), None)]
    slow.allow()
    loaded(bench, store)
    assert bench.get(store, 0) is None
    assert store._h.tiers[0].used == slow.backend.weight == 2000


def test_clear_reaches_what_was_not_taken_over_yet(bench: Any, slow: Slow) -> None:
    store = bench.store(1000, 10_000, backends=[bench.weighed(), slow.backend])
    assert bench.get(store, 3) == 3
    with pytest.raises(DeadlineExceededError):
        store.clear(0.05)
    assert [bench.get(store, i) for i in range(20)] == [None] * 20
    assert store.list_keys() == []
    bench.put(store, 5, 105)
    slow.allow()
    loaded(bench, store)
    store.drain(60)
    assert [key.chunk_hash for key in store.list_keys()] == [5]
    assert bench.get(store, 5) == 105
    store.flush(60)
    assert slow.backend.weight == store._h.tiers[1].used == 100


def test_who_waits_for_everything_to_be_taken_over_is_roused_by_its_end(
    bench: Any, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_TICK", 1e6)  # nobody looks again by himself
    store = bench.store(10_000, backends=[slow.backend])
    loading, ended, last, gate = store._h.loading, threading.Event(), threading.Event(), threading.Event()

    def restore() -> None:
        last.set()
        assert gate.wait(60)

    def wait() -> None:
        loading.wait(Deadline("the test", None))
        ended.set()

    monkeypatch.setattr(loading._late, "restore_state", restore)
    slow.allow()
    assert last.wait(60)
    thread = threading.Thread(target=wait)
    thread.start()
    until_it_waits(thread)
    gate.set()
    in_time = ended.wait(60)
    with store._h.lock:
        store._h.wake()  # so that it ends, whatever came of it
    thread.join(60)
    assert in_time


def test_nothing_is_looked_up_once_everything_was_listed_though_the_policy_is_still_being_restored(
    bench: Any, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.store(10_000, backends=[slow.backend])
    last, gate = threading.Event(), threading.Event()

    def restore() -> None:
        last.set()
        assert gate.wait(60)

    monkeypatch.setattr(store._h.loading._late, "restore_state", restore)
    slow.allow()
    assert last.wait(60)
    assert not store.contains(bench.key(99))
    bench.put(store, 50, 150)
    store.remove(bench.key(5))
    assert slow.located == []
    gate.set()
    loaded(bench, store)
    assert [bench.get(store, i) for i in (4, 5, 50, 99)] == [4, None, 150, None]
    store.flush(60)
    assert slow.backend.weight == store._h.tiers[0].used


def test_what_is_there_is_told_while_somebody_has_the_lock_and_nothing_is_taken_over(bench: Any, slow: Slow) -> None:
    store = bench.store(10_000, backends=[slow.backend])
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.extend(store.contains(bench.key(i)) for i in (99, 3)), daemon=True)
    with store._h.lock:
        thread.start()
        thread.join(60)
    assert found == [False, True]
    assert not store._h.index
    assert store.contains_many([bench.key(4), bench.key(98)]) == [True, False]
    assert not store._h.index


@pytest.mark.parametrize("change", ["remove", "put", "clear"])
def test_what_changes_while_it_is_looked_up_is_told_by_the_index(bench: Any, slow: Slow, change: str) -> None:
    store = bench.store(10_000, backends=[slow.backend])

    def meanwhile() -> None:
        slow.before_answer = None
        if change == "clear":
            with store._h.lock:
                store._h.loading.clear()
        else:
            store.remove(bench.key(3))
        if change == "put":
            bench.put(store, 3, 103)

    slow.before_answer = meanwhile
    assert store.contains(bench.key(3)) == (change == "put")
    assert store.contains(bench.key(3)) == (change == "put")
