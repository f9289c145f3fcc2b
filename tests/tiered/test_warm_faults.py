"""A lowest tier that cannot tell what it holds while it is being taken over: it fails, hangs, or tells half."""

from __future__ import annotations

from typing import Any

import pytest

from lms_tiers.errors import CapacityError, StorageUnavailableError
from lms_tiers.tiered import loading
from lms_tiers.tiered.flush import Deadline
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
