"""The small parts: chains of prefix chunks, statistics, events, latencies."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.health import Health, LatencyCounter, Limits
from lms_tiers.tiered.state.uses import Chains
from lms_tiers.tiered.watch.events import EventKind, EventLog, EventReason, TierEvent
from lms_tiers.tiered.watch.stats import LATENCY_BOUNDS, BreakerState


class Records(Lru):
    """LRU that keeps what it was told."""

    name = "records"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, lambda: 0.0)
        self.told: list[tuple[str, AccessContext]] = []

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:
        self.told.append((key, context))
        super().on_insert(key, size, context)

    def on_hit(self, key: str, context: AccessContext) -> None:
        self.told.append((key, context))
        super().on_hit(key, context)


def places(policy: Records, bench: Any) -> list[tuple[int, int | None, int, bool | None]]:
    def number(text: str | None) -> int | None:
        return None if text is None else bench.key(text).chunk_hash

    return [(number(k) or 0, number(c.parent), c.position, c.partial) for k, c in policy.told]


def test_a_look_up_then_a_get_then_a_put_are_one_chain(bench: Any) -> None:
    policy = Records(10_000)
    store = bench.store(10_000, policies=[policy])
    store.put_many([(bench.meta(i, 100), bench.data(i)) for i in (1, 2)])
    store._h.tell()
    policy.told.clear()
    keys = [bench.key(i) for i in (1, 2, 3, 4)]
    n = store.contains_prefix(keys)
    store.get_many(keys[:n])
    store.put_many([(bench.meta(3, 100), bench.data(3)), (bench.meta(4, 60), bench.data(4, 60))])
    assert places(policy, bench) == [(1, None, 0, None), (2, 1, 1, None), (3, 2, 2, None), (4, 3, 3, True)]
    assert len({context.request_id for _, context in policy.told}) == 1


def test_a_put_right_after_a_get_of_the_head_is_its_tail(bench: Any) -> None:
    policy = Records(10_000)
    store = bench.store(10_000, policies=[policy])
    store.put_many([(bench.meta(i, 100), bench.data(i)) for i in (1, 2)])
    store.get_many([bench.key(1), bench.key(2)])
    store._h.tell()
    policy.told.clear()
    store.put_many([(bench.meta(3, 100), bench.data(3))])
    store.put_many([(bench.meta(9, 100), bench.data(9))])
    assert places(policy, bench) == [(3, 2, 2, None), (9, None, 0, None)]


@pytest.mark.parametrize("tensor", [False, True])
def test_a_batch_is_no_tail_of_a_head_that_its_thread_has_left_for_another_put(bench: Any, tensor: bool) -> None:
    policy = Records(10_000)
    store = bench.store(10_000, policies=[policy])
    for i in (1, 3):
        bench.put(store, i, i)
    store.get_many([bench.key(1)])
    if tensor:
        store.put_tensor(bench.meta(7, 100), torch.zeros(100, dtype=torch.uint8))
    else:
        bench.put(store, 7, 7)
    store._h.tell()
    policy.told.clear()
    store.put_many([(bench.meta(3, 100), bench.data(4))])
    assert places(policy, bench) == [(3, None, 0, None)], "overwritten now, not when chunk 1 was read"


def test_single_calls_follow_the_chain_that_was_looked_up(bench: Any) -> None:
    policy = Records(10_000)
    store = bench.store(10_000, policies=[policy])
    keys = [bench.key(i) for i in (5, 6, 7)]
    store.contains_prefix(keys)
    for i in (5, 6, 7):
        bench.put(store, i, i)
    bench.put(store, 8, 8)
    assert places(policy, bench) == [(5, None, 0, None), (6, 5, 1, None), (7, 6, 2, None), (8, None, -1, None)]


def test_a_request_can_be_told_outright(bench: Any) -> None:
    policy = Records(10_000)
    store = bench.store(10_000, policies=[policy])
    with store.request(77, partial_keys=[bench.key(3)]):
        for i in (1, 2, 3):
            bench.put(store, i, i)
    bench.put(store, 4, 4)
    assert places(policy, bench) == [(1, None, 0, None), (2, 1, 1, None), (3, 2, 2, True), (4, None, -1, None)]
    assert [c.request_id for _, c in policy.told] == [77, 77, 77, None]


def test_threads_do_not_mix_their_chains() -> None:
    chains = Chains()
    assert chains.look_up(["a", "b", "c"]) == 0
    other: list[AccessContext] = []
    thread = threading.Thread(target=lambda: other.append(chains.single(0.0, "a")))
    thread.start()
    thread.join()
    assert other[0].position == -1
    assert chains.single(0.0, "a").position == 0
    assert chains.single(0.0, "b").parent == "a"


def test_demoted_chunks_keep_their_place_in_the_chain(bench: Any) -> None:
    below = Records(100_000)
    store = bench.store(500, 100_000, policies=[Lru(500, lambda: 0.0), below])
    store.put_many([(bench.meta(i, 100), bench.data(i)) for i in range(1, 5)])
    for i in range(10, 20):
        bench.put(store, i, i)
    store.drain(60)
    assert {(2, 1, 1), (3, 2, 2), (4, 3, 3)} <= {(k, parent, at) for k, parent, at, _ in places(below, bench)}


def test_statistics_tell_where_gets_were_served(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(30):
        bench.put(store, i, i)
    store.drain(60)
    for i in (29, 29, 0, 0, 99):
        bench.get(store, i)
    store.drain(60)
    stats = store.stats()
    top, below = stats.tiers
    assert (stats.puts, stats.hits, stats.misses, stats.keys) == (30, 4, 1, 30)
    assert (top.hits, below.hits) == (2, 2)
    assert (top.misses, below.misses) == (3, 1)
    assert top.bytes_read == 200 + 100 * below.demoted
    assert below.bytes_written == 100 * below.demoted
    assert top.promoted == 1
    assert top.bytes_used == bench.weights()[0].weight
    assert top.peak_bytes == bench.weights()[0].heaviest <= top.capacity_bytes
    assert top.read_latency.count >= 2
    assert 0 < top.read_latency.quantile(0.5) <= top.read_latency.quantile(0.99)


def test_events_arrive_in_batches_with_kind_and_reason(bench: Any) -> None:
    batches: list[list[TierEvent]] = []
    store = bench.store(1000, 2000, on_events=lambda events: batches.append(list(events)))
    for i in range(60):
        bench.put(store, i, i)
    store.drain(60)
    store.remove(bench.key(59))
    bench.get(store, 45)
    store.close()
    seen = {(e.kind, e.reason) for batch in batches for e in batch}
    assert (EventKind.STORED, EventReason.REQUEST) in seen
    assert (EventKind.DEMOTED, EventReason.CLEANED) in seen
    assert (EventKind.EVICTED, EventReason.CLEANED) in seen
    assert (EventKind.EVICTED, EventReason.CAPACITY) in seen
    assert (EventKind.REMOVED, EventReason.REQUEST) in seen
    assert len(batches) < 60


def test_an_observer_that_raises_harms_nobody(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(events: Any) -> None:
        raise RuntimeError("no")

    store = bench.store(1000, on_events=broken)
    bench.put(store, 1, 1)
    store.close()
    assert "observer" in caplog.text


def test_latencies_fall_into_the_bucket_that_bounds_them() -> None:
    counter = LatencyCounter()
    for nanoseconds in (0, 1000, 1_000_000, 10**15):
        counter.add(nanoseconds)
    latency = counter.snapshot()
    assert latency.count == 4
    assert latency.quantile(0.25) == LATENCY_BOUNDS[0]
    assert latency.quantile(0.75) >= 1e-3
    assert latency.quantile(1.0) == float("inf")
    assert LatencyCounter().snapshot().quantile(0.5) == 0.0


def test_a_probe_that_hangs_makes_the_tier_rest_longer_as_one_that_fails_does() -> None:
    now = [0.0]
    told: list[bool] = []
    log = EventLog(None)
    health = Health("disk", lambda: now[0], log, Limits(stall=1.0, threshold=1, cooldown=1.0, longest=3.0))
    health.switched = told.append
    health.failed("key", OSError("sick"))
    rests = []
    for fails in (health.hung, lambda: health.failed("key", OSError("sick")), health.hung):
        rests.append(health.retry_at - now[0])
        now[0] = health.retry_at
        assert health.probe()
        fails()
    assert rests == [1.0, 2.0, 3.0]
    now[0] = health.retry_at
    assert health.probe()
    health.worked()
    assert told == [False] * 4 + [True]
    assert [health.entered[state] for state in BreakerState] == [1, 4, 4]
    health.hung()
    health.hung()
    assert health.entered[BreakerState.OPEN] == 5, "one that is open already is not opened again"


def test_a_call_is_on_record_while_it_is_inside_whatever_it_raises() -> None:
    health = Health("disk", lambda: 0.0, EventLog(None), Limits(stall=0.0))

    def call(raises: bool) -> int:
        assert list(health.calls) == [threading.get_ident()]
        if raises:
            raise OSError("sick")
        return 7

    assert health.inside(call, False) == 7
    with pytest.raises(OSError, match="sick"):
        health.inside(call, True)
    assert not health.calls
