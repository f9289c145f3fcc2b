"""A lowest tier that cannot tell what it holds while it is being taken over: it fails, hangs, or tells half."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest

from lms_tiers.changes import Deadline
from lms_tiers.errors import CapacityError, DeadlineExceededError, LmsTiersError, StorageUnavailableError
from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.life import loading
from tests.tiered.slow import Slow, loaded

pytestmark = pytest.mark.usefixtures("in_the_background")


def test_a_listing_that_fails_midway_is_begun_anew(bench: Any, slow: Slow) -> None:
    store = bench.store(2000, backends=[slow.backend], back_pressure=0.05, breaker_threshold=1000)
    slow.allow(5)
    bench.until(lambda: len(store._h.index) == 5)
    store.remove(bench.key(1))
    slow.sick = OSError("no")
    slow.allow(1)
    bench.until(lambda: not store._h.loading.moves)
    assert [bench.get(store, i) for i in (0, 1, 2)] == [0, None, 2]
    assert bench.get(store, 15) is None, "in doubt"
    assert store.stats().failures >= 2
    with pytest.raises(StorageUnavailableError):
        store._h.loading.wait(Deadline("wait", 5.0))
    slow.sick = None
    assert bench.get(store, 15) == 15
    slow.allow()
    loaded(bench, store)
    assert [bench.get(store, i) for i in range(20)] == [0, None, *range(2, 20)]
    assert store._h.tiers[0].used == slow.backend.weight


def test_nobody_waits_for_a_listing_that_fails(bench: Any, slow: Slow) -> None:
    store = bench.store(2000, backends=[slow.backend], back_pressure=0.02, breaker_threshold=1000)
    slow.sick = OSError("no")
    slow.allow()
    bench.until(lambda: not store._h.loading.moves)
    with pytest.raises(CapacityError):
        bench.put(store, 50, 50)


def test_nobody_waits_for_a_listing_that_hangs(bench: Any, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_STALL", 0.1)
    store = bench.store(2000, backends=[slow.backend], back_pressure=0.02)
    with pytest.raises(CapacityError):
        bench.put(store, 50, 50)
    slow.allow()
    loaded(bench, store)
    bench.put(store, 50, 50)


def test_a_change_that_could_not_look_the_chunk_up_still_ends_the_old_one(bench: Any, slow: Slow) -> None:
    store = bench.store(1000, 10_000, backends=[bench.weighed(), slow.backend], breaker_threshold=1000)
    slow.sick = OSError("no")
    bench.put(store, 3, 103)
    store.remove(bench.key(4))
    slow.sick = None
    slow.allow()
    loaded(bench, store)
    store.drain(60)
    assert bench.get(store, 3) == 103
    assert bench.get(store, 4) is None
    assert not slow.backend.contains(bench.key(4))
    assert bench.value(slow.backend.get(bench.key(3))) in (None, 103)
    store.flush(60)
    assert store._h.tiers[1].used == slow.backend.weight


def test_bytes_left_behind_by_a_failed_look_up_stay_charged_until_they_are_deleted(bench: Any, slow: Slow) -> None:
    store = bench.store(1000, 10_000, backends=[bench.weighed(), slow.backend], breaker_threshold=1000)
    remove_many, slow.sick = slow.backend.remove_many, OSError("no")

    def refuse(keys: Any) -> None:
        raise OSError("no")

    slow.backend.remove_many = refuse
    store.remove(bench.key(4))
    slow.sick = None
    slow.allow()
    loaded(bench, store)
    assert slow.backend.weight == 2000
    assert store._h.tiers[1].used == 2000
    slow.backend.remove_many = remove_many
    store.drain(60)
    assert store._h.tiers[1].used == slow.backend.weight == 1900


def test_what_was_cleared_does_not_come_back_after_a_close_that_came_before_its_listing(bench: Any, slow: Slow) -> None:
    store = bench.store(4000, backends=[slow.backend])
    with pytest.raises(DeadlineExceededError):
        store.clear(0.05)
    slow.allow()
    store.close()
    assert slow.backend.weight == 0


def test_a_resize_keeps_its_deadline_while_the_tier_is_taken_over(
    bench: Any, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_STALL", 3600.0)
    store = bench.store(4000, backends=[slow.backend])
    ended = threading.Event()

    def shrink() -> None:
        with pytest.raises(DeadlineExceededError):
            store.resize(0, 1000, 0.1)
        ended.set()

    thread = threading.Thread(target=shrink)
    thread.start()
    try:
        assert ended.wait(60)
    finally:
        slow.allow()
        thread.join(60)


def test_a_policy_that_raises_at_a_chunks_turn_is_no_failure_of_its_tier(
    bench: Any, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(Lru):
        def on_insert(self, key: str, size: int, context: AccessContext) -> None:
            raise ValueError("bug")

    store = bench.store(4000, backends=[slow.backend], policies=[Raising(4000, time.monotonic)])
    for i in range(8):
        assert store.contains(bench.key(i))
    slow.allow()
    loaded(bench, store)
    assert store.stats().tiers[0].failures == 0
    assert bench.get(store, 15) == 15
    assert "raised" in caplog.text


def test_with_a_read_deadline_nobody_stays_inside_a_look_up(bench: Any, slow: Slow) -> None:
    gate = threading.Event()

    def hang() -> None:
        gate.wait()

    slow.before_answer = hang
    store = bench.store(1000, 4000, backends=[bench.weighed(), slow.backend], read_deadline=0.05)
    thread = threading.Thread(target=lambda: bench.get(store, 1))
    thread.start()
    thread.join(60)
    try:
        assert not thread.is_alive()
    finally:
        gate.set()
        thread.join(60)


def test_stale_bytes_of_unknown_size_stay_charged_beside_a_write_in_doubt(bench: Any, slow: Slow) -> None:
    store = bench.store(2200, backends=[slow.backend], breaker_threshold=1000)
    backend = slow.backend
    put, remove_many = backend.put, backend.remove_many

    def no(*_: Any) -> None:
        raise OSError("no")

    backend.remove_many = backend.put = no
    slow.sick = OSError("no")
    with pytest.raises(LmsTiersError):
        bench.put(store, 4, 44, 10)
    slow.sick, backend.put = None, put
    slow.allow()
    loaded(bench, store)
    assert backend.weight <= store._h.tiers[0].used
    backend.remove_many = remove_many
    store.drain(60)
    assert backend.weight == store._h.tiers[0].used == 1900


def test_bytes_of_unknown_size_that_were_overwritten_are_not_given_back_twice(bench: Any, slow: Slow) -> None:
    store = bench.store(4000, backends=[slow.backend], breaker_threshold=1000)
    backend, tier = slow.backend, store._h.tiers[0]
    slow.sick = OSError("no")
    with contextlib.suppress(LmsTiersError):
        bench.put(store, 4, 44, 1000)
    slow.sick = None
    bench.put(store, 4, 44, 1000)
    remove_many = backend.remove_many

    def no(*_: Any) -> None:
        raise OSError("no")

    backend.remove_many = no
    with contextlib.suppress(LmsTiersError):
        store.remove(bench.key(4))
    slow.allow(5)
    bench.until(lambda: tier.unlisted <= 16)
    backend.remove_many = remove_many
    bench.until(lambda: not tier.garbage)
    assert backend.weight == 1900 <= tier.used
    slow.allow()
    loaded(bench, store)
    store.drain(60)
    assert backend.weight == tier.used
