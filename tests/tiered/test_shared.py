"""A tier that is shared with others: what they see of each other, and what no store does to the others."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from lms_conformance.shared import SharedEngine, SharedReference

from lms_tiers.errors import ConfigError
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.stats import BreakerState
from tests.tiered.sharing import NAME, Held, edge, trips

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


def test_a_store_does_not_count_what_an_engine_holds(bench: Any, host: Any) -> None:
    a, b = host(), host()
    for i in range(5):
        bench.put(a, i, i)
    a.flush(60)
    assert len(b.list_keys()) == 5
    assert b.stats().keys is None, "five are listed"
    assert (a.stats().keys, a.stats().private_keys, b.stats().private_keys) == (None, 5, 0)


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
    c.drain(60)  # what the gets raised is there before what shall take its place, however late the mover is
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


def test_a_chunk_that_the_engine_lets_go_while_it_is_read_is_held_until_it_has_risen(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a = host()
    bench.put(a, 1, 5)
    a.flush(60)
    held = Held()
    b = host(shared=held, deadline=60.0)
    found: list[int | None] = []
    told: list[bool] = []
    reader = threading.Thread(target=lambda: found.append(bench.get(b, 1)))
    reader.start()
    assert held.inside.acquire(timeout=60), "the engine has answered, and the store does not know it yet"
    engine.evict(bench.key(1).to_string())
    asked = engine.round_trips
    asker = threading.Thread(target=lambda: told.append(b.contains(bench.key(1))))
    asker.start()
    bench.until(lambda: engine.round_trips > asked)
    held.go.set()
    reader.join(60)
    asker.join(60)
    assert (found, told) == ([5], [True])
    assert bench.get(b, 1) == 5
