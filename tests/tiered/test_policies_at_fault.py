"""Policies that break their contract: the tier says so, goes on in LRU order, and loses nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from typing import Any

import pytest

from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.watch.events import EventKind, EventReason, TierEvent


class Raises(Lru):
    name = "raises"
    where = "victims"

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        self._trip("admit")
        return True

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:
        self._trip("on_insert")
        super().on_insert(key, size, context)

    def on_hit(self, key: str, context: AccessContext) -> None:
        self._trip("on_hit")
        super().on_hit(key, context)

    def on_remove(self, key: str, reason: RemoveReason) -> None:
        self._trip("on_remove")
        super().on_remove(key, reason)

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        self._trip("victims")
        yield from super().victims(bytes_needed, protected)

    def _trip(self, where: str) -> None:
        if where == self.where and len(self) > 5:
            raise ZeroDivisionError(where)


class Invents(Lru):
    name = "invents"

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        yield "nobody"


class Repeats(Lru):
    name = "repeats"

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        first = next(iter(super().victims(bytes_needed, protected)))
        while True:
            yield first


class Stubborn(Lru):
    name = "stubborn"

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        return iter(())


class Careless(Lru):
    name = "careless"

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        return super().victims(bytes_needed, ())


def raising(where: str) -> type[Lru]:
    return type("Raises", (Raises,), {"where": where, "name": f"raises in {where}"})


FAULTY: list[type[Lru]] = [
    *map(raising, ("admit", "on_insert", "on_hit", "on_remove", "victims")), Invents, Repeats, Stubborn,
]  # fmt: skip


@pytest.mark.parametrize("policy", FAULTY, ids=lambda p: p.name)
@pytest.mark.parametrize("tiers", [1, 2])
def test_a_policy_at_fault_is_replaced_by_lru(bench: Any, policy: type[Lru], tiers: int) -> None:
    events: list[TierEvent] = []
    capacities = (1000, 100_000)[:tiers]
    policies = [policy(1000, time.monotonic), Lru(100_000, time.monotonic)][:tiers]
    store = bench.store(*capacities, policies=policies, on_events=events.extend)
    for i in range(40):
        bench.put(store, i, i)
        assert bench.get(store, i) == i
    kept = [bench.get(store, i) for i in range(40)]
    assert kept[-9:] == list(range(31, 40))
    if tiers == 2:
        assert kept == list(range(40))
    bench.put(store, 99, 99, 300)  # takes more than one victim
    assert bench.get(store, 99) == 99
    assert bench.weights()[0].heaviest <= 1000
    assert store.stats().tiers[0].policy == "lru"
    store.close()
    assert any(e.kind is EventKind.STATE and e.reason is EventReason.POLICY_FAULT for e in events)


def test_a_victim_that_is_pinned_is_a_fault(bench: Any) -> None:
    store = bench.store(1000, policies=[Careless(1000, time.monotonic)])
    for i in range(10):
        bench.put(store, i, i)
    store.pin([bench.key(0)], 60)
    bench.put(store, 10, 10)
    assert bench.get(store, 0) == 0
    assert bench.get(store, 1) is None
    assert store.stats().tiers[0].policy == "lru"


def refusing(which: Callable[[str], bool]) -> type[Lru]:
    class Refuses(Lru):
        name = "refuses"

        def admit(self, key: str, size: int, context: AccessContext) -> bool:
            return not which(key)

    return Refuses


def test_what_the_top_refuses_goes_below_and_what_all_refuse_is_not_stored(bench: Any) -> None:
    def odd(key: str) -> bool:
        return int(key.split("@")[3], 16) % 2 == 1

    both = [refusing(odd)(1000, time.monotonic), refusing(lambda key: False)(10_000, time.monotonic)]
    store = bench.store(1000, 10_000, policies=both)
    bench.put(store, 1, 1)
    bench.put(store, 2, 2)
    assert [w.contains(bench.key(1)) for w in bench.weights()] == [False, True]
    assert (bench.get(store, 1), bench.get(store, 2)) == (1, 2)

    store = bench.store(1000, policies=[refusing(odd)(1000, time.monotonic)])
    bench.put(store, 1, 1)
    assert bench.get(store, 1) is None


def test_an_overwrite_that_is_not_admitted_hides_the_older_chunk(bench: Any) -> None:
    refused: set[str] = set()
    policies = [refusing(refused.__contains__)(c, time.monotonic) for c in (1000, 10_000)]
    store = bench.store(1000, 10_000, policies=policies)
    bench.put(store, 1, 1, 900)
    for i in range(10, 30):
        bench.put(store, i, i)
    store.drain(60)
    assert bench.weights()[1].contains(bench.key(1))
    store.drain(60)
    bench.weights()[0].remove(bench.key(1))
    refused.add(bench.key(1).to_string())
    bench.put(store, 1, 2)
    assert bench.get(store, 1) in (2, None), "never the older one"


def test_what_the_tier_below_refuses_is_evicted_for_good(bench: Any) -> None:
    policies = [Lru(1000, time.monotonic), refusing(lambda key: True)(10_000, time.monotonic)]
    store = bench.store(1000, 10_000, policies=policies, back_pressure=30.0)
    for i in range(30):
        bench.put(store, i, i)
    store.drain(60)
    assert bench.weights()[1].weight == 0
    assert bench.get(store, 29) == 29
    assert store.stats().tiers[0].drops == 0
