"""Media with less room than a tier counts on, its own or everybody's."""

from __future__ import annotations

from typing import Any

from lms_tiers.errors import CapacityError, StorageFullError
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.tiered.watch.stats import BreakerState


def test_a_backend_fuller_than_its_reservations_gets_more_room(bench: Any) -> None:
    class Full(type(bench.weighed())):  # type: ignore[misc]  # the class of weighed memory
        def put(self, client_meta: Any, kv_chunk_bytes: Any) -> None:
            if self.weight + client_meta.length > 700:
                raise CapacityError("it", client_meta.length, 700 - self.weight)
            super().put(client_meta, kv_chunk_bytes)

    store = bench.store(1000, backends=[Full()])
    for i in range(40):
        bench.put(store, i, i)
        assert bench.get(store, i) == i
    assert store.stats().tiers[0].breaker is BreakerState.CLOSED

    store = bench.store(500, 1000, backends=[bench.weighed(), Full()])
    for i in range(60):
        bench.put(store, i, i)
    store.drain(60)
    assert store.stats().tiers[1].breaker is BreakerState.CLOSED
    assert store.stats().tiers[1].keys >= 5


def test_a_full_medium_takes_nothing_answers_gets_and_is_tried_again(bench: Any, clock: Any) -> None:
    faulty = FaultyBackend(bench.weighed())
    store = bench.store(1000, 100_000, backends=[bench.weighed(), faulty], clock=clock, back_pressure=0.05)
    for i in range(20):
        bench.put(store, i, i)
    store.drain(60)
    held = [i for i in range(20) if store._h.index[bench.key(i).to_string()].tiers & 2]
    assert held
    for operation in ("put", "put_many", "put_from", "remove", "remove_many"):
        faulty.inject(operation, Fault.FAIL, error=lambda: StorageFullError("disk", "no space left"))
    for i in range(100, 160):
        bench.put(store, i, i)
    stats = store.stats()
    assert stats.tiers[1].failures > 0
    assert stats.tiers[1].breaker is BreakerState.CLOSED
    assert stats.tiers[0].drops > 0
    kept = [i for i in held if bench.get(store, i) == i]
    assert len(kept) >= len(held) - 2  # one leaves to make room, and then no more until that is deleted
    faulty.heal()
    clock.now += 1.0
    for i in range(200, 230):
        bench.put(store, i, i)
    store.drain(60)
    assert [i for i in range(200, 230) if bench.get(store, i) == i] == list(range(200, 230))
    assert store.stats().tiers[1].garbage_bytes == 0


def test_a_backend_that_claims_more_than_was_reserved_does_not_lift_the_books(bench: Any) -> None:
    class Boasting(type(bench.weighed())):  # type: ignore[misc]  # the class of weighed memory
        def reserve_bytes(self, length: int) -> int:
            return length

        def stored_bytes(self, key: Any) -> int | None:
            return 10**6

    store = bench.store(1000, 2000, backends=[Boasting(), Boasting()])
    bench.fill(store, 40)
    for tier in store.stats().tiers:
        assert tier.peak_bytes <= (tier.capacity_bytes or 0)
        assert tier.keys
    assert [bench.get(store, i) for i in (38, 39)] == [38, 39]
