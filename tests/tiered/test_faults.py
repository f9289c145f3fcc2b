"""Sick tiers: whatever a backend does, the store never answers wrong bytes, keeps its budgets, and serves on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers.errors import (
    BackendClosedError,
    DeadlineExceededError,
    StorageUnavailableError,
)
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.tiered.state.index import Load
from lms_tiers.tiered.watch.events import EventReason
from lms_tiers.tiered.watch.stats import BreakerState


class Odd(BaseException):
    """Not even an Exception."""


ANYTHING: list[Callable[[], BaseException]] = [
    lambda: StorageUnavailableError("disk", "died"), RuntimeError, OSError, MemoryError, Odd, lambda: BackendClosedError("x"),
]  # fmt: skip


def sick_below(bench: Any, **options: Any) -> tuple[Any, FaultyBackend]:
    faulty = FaultyBackend(bench.weighed())
    options.setdefault("back_pressure", 0.05)
    return bench.store(1000, 100_000, backends=[bench.weighed(), faulty], **options), faulty


@pytest.mark.parametrize("error", ANYTHING)
def test_a_store_whose_disk_died_is_a_ram_store(bench: Any, error: Callable[[], BaseException]) -> None:
    store, faulty = sick_below(bench)
    faulty.inject("*", Fault.FAIL, error=error)
    assert store.stats().tiers[1].backend is None, "a sick backend's figures are missing, the store's own are not"
    put: list[int] = []

    def serves() -> None:
        i = len(put)
        bench.put(store, i, i)
        assert bench.get(store, i) == i
        put.append(i)

    def opened() -> bool:
        serves()
        return bool(store.stats().tiers[1].breaker_changes[BreakerState.OPEN])

    bench.until(opened)
    for _ in range(100):
        serves()
    found = [bench.get(store, i) for i in put]
    assert found[-8:] == put[-8:]
    assert set(found) <= {None, *put}
    stats = store.stats()
    assert stats.tiers[1].failures > 0
    assert stats.tiers[1].breaker is not BreakerState.CLOSED
    assert stats.tiers[1].breaker_changes[BreakerState.OPEN] >= 1
    assert stats.tiers[0].drops > 0
    reasons = stats.tiers[0].evictions_by_reason
    assert sum(reasons.values()) == stats.tiers[0].evictions
    assert reasons[EventReason.BREAKER_OPEN] + reasons[EventReason.BACK_PRESSURE] == stats.tiers[0].drops
    assert reasons[EventReason.BREAKER_OPEN] > 0


def test_a_tier_that_recovers_is_probed_and_used_again(bench: Any, clock: Any) -> None:
    store, faulty = sick_below(bench, clock=clock)
    faulty.inject("*", Fault.FAIL)

    numbers = itertools.count(1000)

    def is_in(state: BreakerState) -> bool:
        bench.put(store, next(numbers), 1)
        return store.stats().tiers[1].breaker is state

    def closes() -> bool:
        clock.now += 3600  # a probe whose chunk was dropped meanwhile tells nothing: there is another one later
        return is_in(BreakerState.CLOSED)

    bench.until(lambda: is_in(BreakerState.OPEN))
    faulty.heal()
    before = faulty.calls.total()
    bench.put(store, 100, 100)
    assert faulty.calls.total() - before <= 1, "an open breaker leaves the tier alone (but for the statistics)"
    bench.until(closes)
    bench.fill(store, 40)
    assert [bench.get(store, i) for i in range(40)] == list(range(40))


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.NOTHING, Fault.WRONG_LENGTH])
@pytest.mark.parametrize("where", [0, 1])
def test_a_read_that_fails_once_is_at_worst_a_miss(bench: Any, fault: Fault, where: int) -> None:
    backends = [FaultyBackend(bench.weighed()), FaultyBackend(bench.weighed())]
    store = bench.store(10_000, 100_000, backends=backends, write="through")
    for i in range(10):
        bench.put(store, i, i)
    store.drain(60)
    if where == 1:
        for i in range(10):  # only the lower copy is left
            backends[0].inner.remove(bench.key(i))
    backends[where].inject("get", fault, times=1)
    first = bench.get(store, 3)
    assert first == (3 if where == 0 else None) or (where == 1 and first == 3)
    if where == 0 or fault is Fault.FAIL:
        assert bench.get(store, 3) == 3
    else:
        assert bench.get(store, 3) is None, "a chunk reported missing never comes back by itself"
        assert not store.contains(bench.key(3))
    assert store.stats().tiers[where].failures >= 1


def test_a_chunk_lost_below_is_a_miss_and_is_forgotten(bench: Any) -> None:
    store, faulty = sick_below(bench)
    bench.fill(store, 30)
    faulty.inner.remove(bench.key(0))
    assert store.contains(bench.key(0))
    assert bench.get(store, 0) is None
    assert not store.contains(bench.key(0))
    assert store.stats().tiers[1].corrupt == 1


def test_what_contains_says_below_is_never_asked(bench: Any) -> None:
    store, faulty = sick_below(bench)
    faulty.inject("contains", Fault.LIE)
    bench.fill(store, 30)
    assert all(store.contains(bench.key(i)) for i in range(30))
    assert not store.contains(bench.key(99))


@pytest.mark.parametrize("error", ANYTHING)
def test_a_top_tier_that_takes_nothing_is_passed_over(bench: Any, error: Callable[[], BaseException]) -> None:
    top = FaultyBackend(bench.weighed())
    store = bench.store(1000, 100_000, backends=[top, bench.weighed()])
    bench.put(store, 1, 1)
    top.inject("put", Fault.FAIL, error=error)
    bench.put(store, 1, 2)
    assert bench.get(store, 1) == 2
    for i in range(10, 20):
        bench.put(store, i, i)
        assert bench.get(store, i) == i


@pytest.mark.parametrize("error", ANYTHING)
def test_a_put_that_no_tier_takes_raises_a_typed_error(bench: Any, error: Callable[[], BaseException]) -> None:
    only = FaultyBackend(bench.weighed())
    store = bench.store(1000, backends=[only])
    bench.put(store, 1, 1)
    only.inject("put", Fault.FAIL, error=error, times=1)
    with pytest.raises(StorageUnavailableError):
        bench.put(store, 1, 2)
    assert bench.get(store, 1) in (1, None)
    bench.put(store, 1, 3)
    assert bench.get(store, 1) == 3
    assert store.stats().tiers[0].bytes_used <= 1000


def test_a_contract_error_of_a_put_keeps_the_old_chunk(bench: Any) -> None:
    only = FaultyBackend(bench.weighed())
    store = bench.store(1000, backends=[only])
    bench.put(store, 1, 1)
    only.inject("put", Fault.FAIL, times=1)
    with pytest.raises(StorageUnavailableError):
        bench.put(store, 1, 2)
    assert bench.get(store, 1) == 1


def test_a_deletion_that_fails_is_tried_again_and_stays_charged(bench: Any) -> None:
    store, faulty = sick_below(bench)
    bench.fill(store, 30)
    faulty.inject("remove_many", Fault.FAIL, times=2)
    store.remove(bench.key(0))
    assert bench.get(store, 0) is None
    bench.until(lambda: faulty.fired[Fault.FAIL] == 2)
    store.drain(60)
    assert not faulty.inner.contains(bench.key(0))
    assert store.stats().tiers[1].garbage_bytes == 0


def test_one_chunk_that_cannot_be_written_does_not_stop_the_others(bench: Any) -> None:
    class Picky(type(bench.weighed())):  # type: ignore[misc]  # the class of weighed memory
        def put(self, client_meta: Any, kv_chunk_bytes: Any) -> None:
            if client_meta.key.chunk_hash == 3:
                raise RuntimeError("not this one")
            super().put(client_meta, kv_chunk_bytes)

    store = bench.store(1000, 100_000, backends=[bench.weighed(), Picky()])
    bench.fill(store, 40)
    assert [bench.get(store, i) for i in range(40) if i != 3] == [i for i in range(40) if i != 3]
    assert store.stats().tiers[1].breaker is BreakerState.CLOSED


def test_a_stuck_tier_blocks_neither_hits_nor_puts_nor_removes_above(bench: Any) -> None:
    store, faulty = sick_below(bench, stall=60.0, close_timeout=0.3)
    bench.fill(store, 30)
    faulty.inject("*", Fault.BLOCK)
    bench.stall(store, 0.0)  # from now on, whoever is inside has been there for too long
    try:
        for i in range(100, 140):
            bench.put(store, i, i)
            assert bench.get(store, i) == i
        assert faulty.blocked >= 1
        bench.until(lambda: store._h.up == 1)
        assert bench.get(store, 0) is None, "what only the stuck tier has is out of reach"
        store.remove(bench.key(139))
        assert bench.get(store, 139) is None
        store.remove(bench.key(1))
        assert not store.contains(bench.key(1))
        with pytest.raises(StorageUnavailableError):
            store.clear(0.2)
    finally:
        faulty.heal()


def test_a_reader_inside_a_stuck_tier_warns_the_others_off(bench: Any) -> None:
    store, faulty = sick_below(bench, stall=60.0)
    bench.fill(store, 30)
    faulty.inject("get", Fault.BLOCK)
    found: list[int | None] = []
    stuck = threading.Thread(target=lambda: found.append(bench.get(store, 0)))
    stuck.start()
    bench.until(lambda: faulty.blocked == 1)
    bench.stall(store, 0.0)  # it has been inside for too long
    assert bench.get(store, 1) is None
    assert faulty.blocked == 1
    bench.stall(store, 60.0)
    faulty.heal()
    stuck.join(60)
    assert found == [0]
    bench.until(lambda: bench.get(store, 1) == 1)


def test_close_leaves_a_tier_behind_that_never_comes_back(bench: Any) -> None:
    store, faulty = sick_below(bench, close_timeout=0.2, stall=0.05)
    for i in range(9):
        bench.put(store, i, i)
    faulty.inject("*", Fault.BLOCK)
    bench.put(store, 10, 10)
    store.close()
    faulty.heal()


def test_close_beside_everything_ends_every_call(bench: Any) -> None:
    for round_ in range(10):
        store, faulty = sick_below(bench)
        faulty.inject("*", Fault.SLOW, probability=0.2, seconds=0.002)
        wrong: list[BaseException] = []

        def work(seed: int, store: Any = store, wrong: list[BaseException] = wrong) -> None:
            try:
                for i in range(seed, 10_000_000):
                    bench.put(store, i % 40, i)
                    bench.get(store, (i * 7) % 40)
                    store.remove(bench.key(i % 11))
            except BackendClosedError:
                pass
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        bench.until(lambda store=store, enough=20 * (round_ + 1): store._h.puts > enough)
        store.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not wrong


def test_a_backend_closed_under_the_store_is_a_sick_tier(bench: Any) -> None:
    store, faulty = sick_below(bench)
    bench.fill(store, 30)
    faulty.inject("get", Fault.CLOSE, times=1)
    assert bench.get(store, 0) is None
    bench.put(store, 50, 50)
    assert bench.get(store, 50) == 50


def test_flush_says_so_when_it_does_not_get_done(bench: Any) -> None:
    store, faulty = sick_below(bench, stall=30.0)
    bench.fill(store, 30)
    faulty.inject("remove_many", Fault.BLOCK)
    store.remove(bench.key(0))
    with pytest.raises(DeadlineExceededError):
        store.flush(0.1)
    with pytest.raises(DeadlineExceededError):
        store.drain(0.1)
    faulty.heal()
    store.flush(60)


def test_puts_that_outrun_a_slow_tier_wait_and_then_drop_counted(bench: Any) -> None:
    store, faulty = sick_below(bench, back_pressure=0.03, stall=60.0)
    for operation in ("put", "put_many"):
        faulty.inject(operation, Fault.BLOCK)
    for i in range(20):
        bench.put(store, i, i)
    drops = store.stats().tiers[0].drops
    assert store.stats().tiers[0].evictions_by_reason[EventReason.BACK_PRESSURE] == drops
    faulty.heal()
    assert drops >= 10
    store.drain(60)
    assert sum(bench.get(store, i) is None for i in range(20)) == store.stats().tiers[0].drops


def test_concurrent_gets_of_one_lower_chunk_share_one_read(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[Load] = []
    wait = Load.wait

    def join(load: Load, *limits: Any) -> bool:
        joined.append(load)
        return wait(load, *limits)

    monkeypatch.setattr(Load, "wait", join)
    store, faulty = sick_below(bench, stall=60.0)
    bench.fill(store, 30)
    faulty.inject("get", Fault.BLOCK)
    before = faulty.calls["get"]
    found: list[int | None] = []
    threads = [threading.Thread(target=lambda: found.append(bench.get(store, 0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    bench.until(lambda: len(joined) == 5)
    assert faulty.blocked == 1
    faulty.heal()
    for thread in threads:
        thread.join(60)
    assert found == [0] * 6
    assert faulty.calls["get"] - before <= 2, "one shared read, and at most one by the promotion"


def test_with_a_read_deadline_nobody_stays_inside_a_stuck_tier(bench: Any) -> None:
    store, faulty = sick_below(bench, read_deadline=60.0, stall=60.0)
    bench.fill(store, 30)
    assert [bench.get(store, i) for i in (0, 1)] == [0, 1]
    assert store.get_into(bench.key(2), bytearray(100)) is not None
    store.drain(60)
    faulty.inject("get", Fault.BLOCK)
    store._reader.deadline = 0.05
    try:
        assert bench.get(store, 10) is None
        assert store.get_into(bench.key(11), bytearray(100)) is None
        assert [bench.value(o) for o in store.get_many([bench.key(12), bench.key(29)])] == [None, 29]
    finally:
        store._reader.deadline = 60.0
        faulty.heal()
    assert bench.get(store, 10) == 10


def test_a_switched_off_tier_costs_an_idle_store_nothing(bench: Any) -> None:
    store, faulty = sick_below(bench, breaker_cooldown=0.01, breaker_longest=0.01)
    bench.fill(store, 40)
    faulty.inject("get", Fault.FAIL)
    bench.until(lambda: bench.get(store, 0) or not store._h.up & 2)
    woken = []
    mover = store._movers[1]
    upcoming = mover._next

    def counted() -> Any:
        woken.append(1)
        return upcoming()

    mover._next = counted
    limits: list[float | None] = []
    timeout = mover._timeout

    def noted() -> float | None:
        limits.append(timeout())
        return limits[-1]

    mover._timeout = noted
    with store._h.lock:
        mover.rouse()
    bench.until(lambda: mover.idle and limits and limits[-1] is None)
    assert len(woken) <= 3, "it waits for the time to try again, and then for somebody to wake it"
    faulty.heal()
    assert bench.get(store, 0) == 0, "the next read is the probe"
