"""A tier that is shared with others: what they see of each other, and what no store does to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.shared import SharedEngine, SharedReference, forget_engine, shared_engine

from lms_tiers.errors import ConfigError, OutcomeUnknownError, StorageUnavailableError, ValueTooLargeError
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.policies.lru import Lru
from lms_tiers.request import RequestContext
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.stats import BreakerState

NAME = "test_shared"


@pytest.fixture
def engine() -> Iterator[SharedEngine]:
    yield shared_engine(NAME)
    forget_engine(NAME)


@pytest.fixture
def host(bench: Any, engine: SharedEngine) -> Callable[..., TieredStore]:
    """Opens a store of a few chunks of memory over the engine."""

    def make(
        capacity: int = 1000, write: Any = None, above: Any = None, shared: Any = None, **options: Any
    ) -> TieredStore:
        edge = {name: options.pop(name) for name in ("deadline", "revalidate") if name in options}
        top = above or bench.weighed()
        below = shared or SharedReference(NAME)
        store = TieredStore(
            [
                TierConfig("ram", top, capacity, Lru(capacity, time.monotonic)),
                TierConfig("pool", below, None, None, write, **edge),
            ],
            **{"close_timeout": 5.0, **options},
        )
        bench.stores.append(store)
        bench.backends.append([top])
        return store

    return make


def edge(store: TieredStore) -> Any:
    found = store.stats().shared
    assert found is not None
    return found


def trips(engine: SharedEngine, call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call answers, and how often it asked the engine."""
    before = engine.round_trips
    answer = call()
    return answer, engine.round_trips - before


# -- the table of what a shared engine met, row by row -----------------------------------------------------------------


def test_what_one_store_put_the_other_gets_though_it_was_opened_before(bench: Any, host: Any) -> None:
    a, b = host(), host()
    for i in range(5):
        bench.put(a, i, i)
    a.flush(60)
    keys = [bench.key(i) for i in range(5)]
    assert b.contains_prefix(keys) == 5
    assert b.contains(keys[3])
    assert [bench.value(obj) for obj in b.get_many(keys)] == list(range(5))
    assert bench.get(b, 2) == 2


def test_what_was_put_after_a_store_was_opened_is_seen_as_what_was_there_before(bench: Any, host: Any) -> None:
    a = host()
    bench.put(a, 1, 1)
    a.flush(60)
    c = host()
    bench.put(a, 2, 2)
    a.flush(60)
    assert bench.get(c, 1) == 1
    assert bench.get(c, 2) == 2


def test_an_overwrite_by_another_store_is_seen_when_the_private_copy_leaves(bench: Any, host: Any) -> None:
    a, c = host(), host(capacity=250)
    bench.put(a, 1, 10)
    a.flush(60)
    assert bench.get(c, 1) == 10
    bench.put(a, 1, 11)
    a.flush(60)
    assert bench.get(c, 1) == 10, "its own copy is good as long as it has one"
    for i in range(2, 5):
        bench.put(c, i, i)
    c.flush(60)
    assert bench.get(c, 1) == 11


def test_a_private_copy_that_has_grown_old_is_asked_for_again_where_that_is_wanted(bench: Any, host: Any) -> None:
    now = [0.0]
    a, c = host(), host(revalidate=10.0, clock=lambda: now[0])
    bench.put(a, 1, 10)
    a.flush(60)
    assert bench.get(c, 1) == 10
    bench.put(a, 1, 11)
    a.flush(60)
    now[0] = 10.0
    assert bench.get(c, 1) == 10
    now[0] = 10.1
    assert bench.get(c, 1) == 11
    a.remove(bench.key(1))
    assert bench.get(c, 1) == 11
    now[0] = 30.0
    assert not c.contains(bench.key(1))
    assert bench.get(c, 1) is None


def test_an_old_copy_is_no_hit_while_the_engine_cannot_confirm_it(bench: Any, host: Any, engine: SharedEngine) -> None:
    now = [0.0]
    c = host(revalidate=10.0, clock=lambda: now[0])
    bench.put(c, 1, 1)
    c.flush(60)
    now[0] = 11.0
    engine.down = True
    assert bench.get(c, 1) is None
    engine.down = False
    assert bench.get(c, 1) == 1


def test_what_the_engine_let_go_is_a_plain_miss(bench: Any, host: Any, engine: SharedEngine) -> None:
    a, c = host(), host()
    keys = [bench.key(i) for i in range(64)]
    for i in range(64):
        bench.put(a, i, i)
    a.flush(60)
    assert c.contains_prefix(keys) == 64
    engine.evict()
    for key in keys:
        assert c.get(key) is None
    assert c.get_many(keys) == [None] * 64
    stats = c.stats()
    assert (stats.failures, stats.corrupt, edge(c).failures) == (0, 0, 0)
    assert edge(c).breaker is BreakerState.CLOSED


def test_a_longer_chunk_of_another_writer_is_read_and_not_deleted(bench: Any, host: Any, engine: SharedEngine) -> None:
    a, c = host(), host(capacity=250)
    bench.put(c, 1, 1)
    c.flush(60)
    bench.put(a, 1, 7, 180)
    a.flush(60)
    bench.put(c, 2, 2, 200)
    c.flush(60)
    obj = c.get(bench.key(1))
    assert obj is not None
    assert (obj.length, bench.value(obj)) == (180, 7)
    assert bench.get(a, 1) == 7
    assert len(engine.chunks) == 2


def test_opening_over_chunks_of_others_deletes_none_and_holds_none(bench: Any, host: Any, engine: SharedEngine) -> None:
    a = host()
    for i in range(200):
        bench.put(a, i, i)
    a.flush(60)
    c, asked = trips(engine, lambda: host(capacity=400))
    assert asked == 0
    assert len(engine.chunks) == 200
    assert len(c._h.index) == 0
    bench.done(c)
    assert len(engine.chunks) == 200


def test_clear_forgets_what_is_private_only(bench: Any, host: Any, engine: SharedEngine) -> None:
    a, b = host(), host()
    bench.put(a, 1, 1)
    bench.put(b, 2, 2)
    a.flush(60)
    b.flush(60)
    a.clear(60)
    assert len(engine.chunks) == 2
    assert bench.get(b, 1) == 1
    assert bench.get(a, 2) == 2


def test_a_capacity_or_a_policy_of_a_shared_tier_is_its_engines_business(engine: SharedEngine) -> None:
    ram = TierConfig("ram", LMSLocalBackend(), 1000, Lru(1000, time.monotonic))
    for capacity, policy in ((1000, None), (None, Lru(1000, time.monotonic))):
        with pytest.raises(ConfigError, match="engine's business"):
            TieredStore([ram, TierConfig("pool", SharedReference(NAME), capacity, policy)])
    with pytest.raises(ConfigError, match="the lowest"):
        TieredStore([TierConfig("pool", SharedReference(NAME), None, None), ram])
    with pytest.raises(ConfigError, match="use it alone"):
        TieredStore([TierConfig("pool", SharedReference(NAME), None, None, "back")])


# -- round trips and single flight -------------------------------------------------------------------------------------


def test_a_batch_is_one_round_trip_for_all_that_the_private_tiers_lack(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a, b = host(capacity=10_000), host(capacity=10_000)
    keys = [bench.key(i) for i in range(64)]
    assert trips(engine, lambda: b.contains_prefix(keys)) == (0, 1)
    assert trips(engine, lambda: b.contains_many(keys)) == ([False] * 64, 1)
    assert trips(engine, lambda: b.get_many(keys)) == ([None] * 64, 1)
    for i in range(0, 64, 2):
        bench.put(a, i, i)
    a.flush(60)
    for i in range(1, 64, 2):
        bench.put(b, i, i)
    b.flush(60)
    assert trips(engine, lambda: b.contains_many(keys)) == ([True] * 64, 1)
    found, asked = trips(engine, lambda: b.get_many(keys))
    assert [bench.value(obj) for obj in found] == list(range(64))
    assert asked == 1
    assert trips(engine, lambda: len(b.get_many(keys)))[1] == 0, "they have risen"


class Held(SharedReference):
    """Waits in a read until it is let go, and counts the reads."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.inside = threading.Semaphore(0)
        self.go = threading.Event()
        self.reads = 0

    def get_many(self, keys: Any) -> Any:
        found = super().get_many(keys)
        self.reads += 1
        self.inside.release()
        assert self.go.wait(60)
        return found


def test_many_readers_of_one_chunk_share_one_read(bench: Any, host: Any) -> None:
    a = host()
    bench.put(a, 1, 1)
    a.flush(60)
    held = Held()
    b = host(shared=held, deadline=60.0)
    answers: list[int | None] = []
    threads = [threading.Thread(target=lambda: answers.append(bench.get(b, 1))) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert held.inside.acquire(timeout=60)
    bench.until(lambda: b.stats().misses == 6)  # each has found no private copy
    held.go.set()
    for thread in threads:
        thread.join(60)
    assert answers == [1] * 6
    assert held.reads <= 2, "one who came when the first was done found a private copy, or read once more"
    assert edge(b).hits + b.stats().hits >= 6


# -- the newest put is what this store reads ---------------------------------------------------------------------------


def test_an_older_chunk_there_is_not_read_while_the_newest_is_not_there_yet(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a = host(capacity=250, stall=60.0, back_pressure=0.01)
    bench.put(a, 1, 10)
    a.flush(60)
    engine.answering.clear()
    bench.put(a, 1, 11)
    for i in range(2, 6):
        bench.put(a, i, i)  # the private copy of 11 leaves, unsent
    assert bench.key(1).to_string() not in a._h.index
    assert edge(a).tombstones
    assert bench.get(SharedReference(NAME, timeout=0.01), 1) is None, "it hangs"
    engine.answering.set()
    assert bench.get(SharedReference(NAME), 1) == 10
    assert bench.get(a, 1) is None
    assert not a.contains(bench.key(1))
    bench.put(a, 1, 12)
    bench.until(lambda: bench.get(SharedReference(NAME), 1) == 12)


def test_what_was_removed_does_not_come_back_though_its_deletion_is_still_under_way(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a = host(deadline=0.05)
    bench.put(a, 1, 1)
    a.flush(60)
    engine.down = True
    with pytest.raises(OutcomeUnknownError):
        a.remove(bench.key(1))
    engine.down = False
    assert not a.contains(bench.key(1))
    assert bench.get(a, 1) is None
    bench.until(lambda: not engine.chunks)
    bench.put(a, 1, 2)
    assert bench.get(a, 1) == 2


def test_a_removal_is_done_everywhere_when_it_returns(bench: Any, host: Any, engine: SharedEngine) -> None:
    a, b = host(), host()
    bench.put(a, 1, 1)
    bench.put(a, 2, 2)
    a.flush(60)
    b.remove_many([bench.key(1), bench.key(2)])
    assert not engine.chunks
    assert bench.get(b, 1) is None
    assert a.contains(bench.key(1)), "its own copy is good as long as it has one"


def test_a_reader_that_a_put_overtook_answers_what_that_one_left(bench: Any, host: Any) -> None:
    a = host()
    bench.put(a, 1, 10)
    a.flush(60)
    held = Held()
    b = host(capacity=250, shared=held, deadline=60.0)
    answers: list[int | None] = []
    reader = threading.Thread(target=lambda: answers.append(bench.get(b, 1)))
    reader.start()
    assert held.inside.acquire(timeout=60)
    bench.put(b, 1, 11)
    b.flush(60)
    for i in range(2, 6):
        bench.put(b, i, i)  # 11 leaves the private tier, sent
    held.go.set()
    reader.join(60)
    assert answers in ([11], [None])
    assert bench.get(b, 1) == 11


# -- an engine that is sick --------------------------------------------------------------------------------------------


def test_a_hung_engine_costs_each_caller_its_deadline_once_and_hits_nothing(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a = host(deadline=0.2, breaker_cooldown=1000.0)
    bench.put(a, 1, 1)
    a.flush(60)
    engine.answering.clear()
    assert bench.get(a, 2) is None
    assert edge(a).breaker is BreakerState.OPEN
    before = engine.round_trips
    for i in range(3, 200):
        assert bench.get(a, i) is None
        assert not a.contains(bench.key(i))
    assert engine.round_trips == before
    assert bench.get(a, 1) == 1
    engine.answering.set()


def test_the_breaker_closes_again_by_itself(bench: Any, host: Any, engine: SharedEngine) -> None:
    a = host(deadline=0.2, breaker_cooldown=0.01)
    engine.answering.clear()
    assert bench.get(a, 2) is None
    bench.put(a, 1, 1)
    engine.answering.set()
    bench.until(lambda: edge(a).breaker is BreakerState.CLOSED)
    a.flush(60)
    assert len(engine.chunks) == 1


def test_flush_says_that_the_engine_is_switched_off(bench: Any, host: Any, engine: SharedEngine) -> None:
    class Down(SharedReference):
        def put(self, client_meta: Any, kv_chunk_bytes: Any) -> None:
            raise StorageUnavailableError("pool", "is not there")

    a = host(shared=Down(NAME), breaker_cooldown=1000.0, breaker_threshold=1)
    bench.put(a, 1, 1)
    with pytest.raises(StorageUnavailableError, match="could not be sent"):
        a.flush(60)
    assert bench.get(a, 1) == 1


def test_a_chunk_that_no_private_tier_takes_goes_straight_to_the_shared_one(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a = host(capacity=300)
    bench.put(a, 1, 1, 100)
    bench.put(a, 1, 2, 1000)
    assert bench.get(a, 1) == 2
    assert len(engine.chunks) == 1
    forget_engine(NAME)
    shared_engine(NAME, 5000)
    b = host(capacity=300)
    with pytest.raises(ValueTooLargeError):
        bench.put(b, 1, 2, 6000)


def test_what_grows_cold_is_sent_where_it_is_written_back(bench: Any, host: Any, engine: SharedEngine) -> None:
    a = host(capacity=2000, write="back")
    for i in range(10):
        bench.put(a, i, i)
    a.drain(60)
    assert not engine.chunks
    for i in range(10, 30):
        bench.put(a, i, i)
    a.drain(60)
    assert engine.chunks
    a.flush(60)
    assert len(engine.chunks) == 30
    assert [bench.get(a, i) for i in range(30)] == list(range(30))
    assert a.stats().tiers[0].drops == 0


def test_keys_of_both_are_listed_once(bench: Any, host: Any) -> None:
    a, b = host(), host()
    bench.put(a, 1, 1)
    a.flush(60)
    bench.put(b, 2, 2)
    assert bench.get(b, 1) == 1
    assert sorted(key.to_string() for key in b.list_keys()) == sorted(bench.key(i).to_string() for i in (1, 2))


def test_the_other_ways_to_read_reach_the_shared_tier(bench: Any, host: Any, engine: SharedEngine) -> None:
    a = host()
    bench.put(a, 1, 5)
    a.flush(60)
    for way in range(4):
        b = host(capacity=50)  # too small for it to rise
        buffer = bytearray(100)
        if way == 0:
            found = b.get_into(bench.key(1), buffer)
            assert found is not None
        elif way == 1:
            with b.view(bench.key(1)) as view:
                assert view is not None
                buffer[:] = b"".join(view.buffers)
        elif way == 2:
            tensor = b.get_tensor(bench.key(1))
            assert tensor is not None
            buffer[:] = bytes(tensor.numpy().tobytes())
        else:
            assert b.get_scattered(bench.key(1), [memoryview(buffer)[:30], memoryview(buffer)[30:]]) is not None
        assert buffer == bench.data(5)


def test_what_is_read_in_the_shared_tier_without_promotion_does_not_rise(bench: Any, host: Any) -> None:
    a, b = host(), host()
    for i in range(3):
        bench.put(a, i, i)
    a.flush(60)
    keys = [bench.key(i) for i in range(3)]
    scan = RequestContext("scan", promote=False)
    assert [bench.value(obj) for obj in b.get_many(keys, context=scan)] == [0, 1, 2]
    assert [b.tiers_of(key) for key in keys] == [()] * 3
    assert [bench.value(obj) for obj in b.get_many(keys, context=RequestContext())] == [0, 1, 2]
    assert [b.tiers_of(key) for key in keys] == [("ram",)] * 3


def test_closing_saves_what_private_tiers_remember_though_the_engine_is_away(
    bench: Any, engine: SharedEngine, tmp_path: Path
) -> None:
    def disk() -> LmdbBackend:
        return open_backend(str(tmp_path / "kv"), 8 << 20, LmdbOptions.model_validate({}))

    pool = TierConfig("pool", SharedReference(NAME), None, None)
    store = TieredStore([TierConfig("disk", disk(), 8 << 20, Lru(8 << 20, time.monotonic)), pool], close_timeout=5.0)
    engine.down = True
    bench.put(store, 1, 1)
    store.close()
    with disk() as again:
        saved = again.load_state()
        assert saved is not None
        assert any(saved[8:24]), "it was not closed with everything clean"
        assert bench.get(again, 1) == 1
