"""Pinned chunks: how long they stay, and that evictions do not walk them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.errors import CapacityError, ConfigError
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state import index
from lms_tiers.tiered.state.index import Pins


class Asking(Lru):
    """Counts how many keys were looked at to find victims."""

    def __init__(self, capacity: int, clock: Any) -> None:
        super().__init__(capacity, clock)
        self.asked = 0

    def victims(self, bytes_needed: int, protected: Any) -> Iterator[str]:
        policy = self

        class Counting:
            def __contains__(self, key: object) -> bool:
                policy.asked += 1
                return key in protected

        return super().victims(bytes_needed, Counting())


class Until(float):
    """The end of a lease that counts how often it is compared."""

    compared = 0

    def __le__(self, other: float) -> bool:
        Until.compared += 1
        return float(self) <= other

    def __lt__(self, other: float) -> bool:
        return float(self) < other


def test_pins_that_have_grown_cold_are_not_walked_at_each_eviction(bench: Any, clock: Any) -> None:
    policy = Asking(20_000, clock)
    store = bench.store(20_000, policies=[policy], clock=clock)
    for i in range(200):
        bench.put(store, i, i)
    assert store.pin([bench.key(i) for i in range(150)], 60) == 150
    for i in range(200, 300):
        bench.put(store, i, i)
    assert policy.asked < 150 + 100 * 40
    assert [bench.get(store, i) for i in range(150)] == list(range(150))
    clock.now += 61
    for i in range(300, 600):
        bench.put(store, i, i)
    assert [bench.get(store, i) for i in range(150)] == [None] * 150


def test_the_leases_that_still_run_are_not_looked_at() -> None:
    held = Pins()
    for i in range(1000):
        held.pin(str(i), Until(100 + i))
    Until.compared = 0
    held.expire(102.5)
    assert (len(held), Until.compared) == (997, 4)
    assert "2" not in held
    assert "3" in held


def test_leases_that_end_together_are_over_at_once_and_cleared_away_bit_by_bit() -> None:
    held = Pins()
    for i in range(5000):
        assert held.lease(str(i), Until(100), "a")
    assert held.lease("kept", Until(200), "a")
    calls = 0
    while len(held) > 1:
        Until.compared = 0
        held.expire(100)
        calls += 1
        assert Until.compared <= 129
        assert not any(str(i) in held or held.until(str(i)) is not None for i in range(5000))
        assert not held.give_back("4999", "a")
        assert "kept" in held
    assert 5000 / 129 < calls < 5000 / 100


def test_leases_that_are_over_make_room_for_others_before_any_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MOST_LEASES", 1000)
    held = Pins()
    for i in range(1000):
        assert held.lease(str(i), 100.0 if i else 1000.0, "a")
    assert not held.lease("more", 200.0, "a")
    held.expire(100.0)
    assert all(held.lease(f"more {i}", 200.0, "a") for i in range(999))
    assert not held.lease("more", 200.0, "a")


def test_a_later_pin_replaces_an_earlier_one() -> None:
    held = Pins()
    held.pin("a", 10.0)
    held.pin("a", 30.0)
    held.pin("b", 30.0)
    held.pin("b", 10.0)
    held.pin("c", 30.0)
    held.unpin("c")
    held.expire(20.0)
    assert ("a" in held, "b" in held, "c" in held) == (True, False, False)
    held.expire(30.0)
    assert len(held) == 0


def test_pinning_anew_again_and_again_takes_no_memory() -> None:
    held = Pins()
    for i in range(100_000):
        held.pin("a", float(i))
    assert len(held._ends) < 2000
    held.expire(99_998.0)
    assert "a" in held


# -- leases of holders --------------------------------------------------------------------------------------------------


def test_every_key_is_pinned_for_itself(bench: Any) -> None:
    store = bench.store(1000, clock=lambda: 0.0)
    for i in (1, 3):
        bench.put(store, i, i)
    keys = [bench.key(i) for i in range(5)]
    assert store.pin_each(keys, 60) == [False, True, False, True, False]
    for i in range(10, 40):
        bench.put(store, i, i)
    assert [bench.get(store, i) for i in (1, 3)] == [1, 3]
    assert store.unpin_each(keys) == [False, True, False, True, False]
    assert store.unpin_each(keys) == [False] * 5
    for i in range(40, 60):
        bench.put(store, i, i)
    assert [bench.get(store, i) for i in (1, 3)] == [None, None]


def test_many_keys_are_answered_in_their_order(bench: Any) -> None:
    store = bench.store(1_000_000)
    for i in range(0, 3000, 3):
        bench.put(store, i, i)
    keys = [bench.key(i) for i in range(3000)]
    assert store.pin_each(keys, 60) == store.unpin_each(keys) == [i % 3 == 0 for i in range(3000)]


def test_two_holders_pin_and_unpin_independently(bench: Any, clock: Any) -> None:
    store = bench.store(1000, clock=clock)
    key = bench.key(1)
    bench.put(store, 1, 1)
    assert store.pin_each([key], 60, holder="a") == [True]
    assert store.pin_each([key], 5, holder=7) == [True]
    assert store.pin_each([key], 30, holder="a") == [True], "a second lease of the same holder"
    assert store.info(key).pinned_until == clock.now + 60
    assert store.unpin_each([key], holder="b") == [False]
    assert store.unpin_each([key], holder="7") == [True]
    assert store.unpin_each([key], holder=7) == [False]
    assert store.unpin_each([key], holder="a") == [True]
    assert store.info(key).pinned_until == clock.now + 60, "of one holder's leases that which ends first is given back"
    assert store.unpin_each([key], holder="a") == [True]
    assert store.info(key).pinned_until is None


def test_a_holder_whose_lease_is_over_gives_back_nobody_elses(bench: Any, clock: Any) -> None:
    store = bench.store(1000, clock=clock)
    key = bench.key(1)
    bench.put(store, 1, 1)
    store.pin_each([key], 5, holder="short")
    store.pin_each([key], 60, holder="long")
    clock.now += 6
    assert store.unpin_each([key], holder="short") == [False]
    for i in range(10, 60):
        bench.put(store, i, i)
    assert bench.get(store, 1) == 1
    clock.now += 60
    for i in range(60, 90):
        bench.put(store, i, i)
    assert bench.get(store, 1) is None


def test_pin_and_pin_each_do_not_end_each_other(bench: Any, clock: Any) -> None:
    store = bench.store(1000, clock=clock)
    key = bench.key(1)
    bench.put(store, 1, 1)
    store.pin_each([key], 60)
    store.pin([key], 10)
    store.pin([key], 0)
    assert store.info(key).pinned_until == clock.now + 60
    store.pin([key], 10)
    assert store.unpin_each([key]) == [True]
    assert store.info(key).pinned_until == clock.now + 10


def test_a_store_keeps_no_more_leases_than_it_may(bench: Any, monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    monkeypatch.setattr(index, "MOST_LEASES", 3)
    store = bench.store(1000, clock=clock)
    for i in range(5):
        bench.put(store, i, i)
    keys = [bench.key(i) for i in range(5)]
    assert store.pin_each(keys, 60) == [True, True, True, False, False]
    store.unpin_each(keys[:1])
    assert store.pin_each(keys[4:], 60) == [True]
    clock.now += 61
    assert store.pin_each(keys, 60) == [True, True, True, False, False]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_lease_lasts_some_time(bench: Any, seconds: float) -> None:
    store = bench.store(1000)
    with pytest.raises(ConfigError, match="seconds"):
        store.pin_each([bench.key(1)], seconds)


def test_what_is_unpinned_makes_room_for_who_waits(bench: Any) -> None:
    store = bench.store(1000, back_pressure=30.0)
    for i in range(10):
        bench.put(store, i, i)
    keys = [bench.key(i) for i in range(10)]
    assert all(store.pin_each(keys, 3600))
    done = threading.Event()

    def put() -> None:
        bench.put(store, 99, 99)
        done.set()

    with pytest.raises(CapacityError):
        bench.put(store, 98, 98)
    store.unpin_each(keys)
    thread = threading.Thread(target=put)
    thread.start()
    thread.join(60)
    assert done.is_set()


@given(
    st.lists(
        st.tuples(st.sampled_from("pluxte"), st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 9)),
        max_size=60,
    )
)
def test_leases_are_what_a_list_of_them_says(steps: list[tuple[str, str, str, int]]) -> None:
    found, model, now = Pins(), [], 0.0  # type: ignore[var-annotated]
    for what, key, holder, seconds in steps:
        if what == "p":
            found.pin(key, now + seconds)
            model = [lease for lease in model if (lease[0], lease[2]) != (key, None)] + [(key, now + seconds, None)]
        elif what == "l":
            assert found.lease(key, now + seconds, holder)
            model.append((key, now + seconds, holder))
        elif what == "u":
            mine = sorted(
                (lease for lease in model if (lease[0], lease[2]) == (key, holder)), key=lambda lease: lease[1]
            )
            assert found.give_back(key, holder) == bool(mine)
            if mine:
                model.remove(mine[0])
        elif what == "x":
            found.unpin(key)
            model = [lease for lease in model if (lease[0], lease[2]) != (key, None)]
        elif what == "t":
            now += seconds / 2
            found.expire(now)
            model = [lease for lease in model if lease[1] > now]
        else:
            found.sort()
        for text in "ab":
            ends = [lease[1] for lease in model if lease[0] == text]
            assert (text in found, found.until(text)) == (bool(ends), max(ends, default=None))
        assert len(found) == len({lease[0] for lease in model})
