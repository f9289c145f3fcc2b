"""Pinned chunks: how long they stay, and that evictions do not walk them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.pins import Pins


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
    pins = Pins()
    for i in range(1000):
        pins.pin(str(i), Until(100 + i))
    Until.compared = 0
    pins.expire(102.5)
    assert (len(pins), Until.compared) == (997, 4)
    assert "2" not in pins
    assert "3" in pins


def test_a_later_pin_replaces_an_earlier_one() -> None:
    pins = Pins()
    pins.pin("a", 10.0)
    pins.pin("a", 30.0)
    pins.pin("b", 30.0)
    pins.pin("b", 10.0)
    pins.pin("c", 30.0)
    pins.unpin("c")
    pins.expire(20.0)
    assert ("a" in pins, "b" in pins, "c" in pins) == (True, False, False)
    pins.expire(30.0)
    assert len(pins) == 0


def test_pinning_anew_again_and_again_takes_no_memory() -> None:
    pins = Pins()
    for i in range(100_000):
        pins.pin("a", float(i))
    assert len(pins._ends) < 2000
    pins.expire(99_998.0)
    assert "a" in pins
