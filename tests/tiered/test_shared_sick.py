"""The newest put is what a store over a shared engine reads, also while that engine is sick, silent or away."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.shared import SharedEngine, SharedReference, forget_engine, shared_engine

from lms_tiers.errors import OutcomeUnknownError, StorageUnavailableError, ValueTooLargeError
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.policies.lru import Lru
from lms_tiers.request import RequestContext
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.stats import BreakerState
from tests.tiered.sharing import NAME, Held, edge

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
    assert bench.get(a, 1) is None, "nobody asks the engine, which hangs"
    assert not a.contains(bench.key(1))
    assert bench.get(SharedReference(NAME, timeout=0.01), 1) is None, "it hangs"
    engine.answering.set()
    assert bench.get(SharedReference(NAME), 1) in (10, 11)
    assert bench.get(a, 1) in (None, 11)
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
    b.drain(60)
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
