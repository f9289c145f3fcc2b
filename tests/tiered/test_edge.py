"""What a store forgets before a shared tier has it, or cannot know whether it has: never read there as if it were new."""

from __future__ import annotations

from typing import Any

import pytest
from lms_conformance.shared import SharedEngine, SharedReference

from lms_tiers.tiered.paths.sender import DOUBT
from lms_tiers.tiered.state import edge as edges
from lms_tiers.tiered.watch.stats import BreakerState
from tests.tiered.sharing import NAME, edge


def there(bench: Any, i: int) -> int | None:
    """What the engine holds, whoever may read it."""
    found: int | None = bench.get(SharedReference(NAME), i)
    return found


def lose(bench: Any, store: Any, engine: SharedEngine, chunks: range) -> None:
    """Put chunks that leave the private tier before the engine can be reached."""
    engine.down = True
    for i in chunks:
        bench.put(store, i, i)
    bench.until(lambda: edge(store).breaker is BreakerState.OPEN)
    engine.down = False


def test_what_was_dropped_unsent_is_not_read_there_until_it_is_put_again(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a = host(capacity=250, back_pressure=0.01, breaker_cooldown=0.01, breaker_threshold=1)
    bench.put(a, 1, 10)
    a.flush(60)
    engine.down = True
    bench.put(a, 1, 11)
    lose(bench, a, engine, range(2, 6))
    bench.until(lambda: edge(a).breaker is BreakerState.CLOSED)
    assert there(bench, 1) == 10
    assert bench.get(a, 1) is None
    assert not a.contains(bench.key(1))
    bench.put(a, 1, 12)
    a.flush(60)
    assert bench.get(a, 1) == there(bench, 1) == 12


def test_of_what_was_dropped_unsent_no_more_is_remembered_than_is_to_be(
    bench: Any, host: Any, engine: SharedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "MOST_LOST", 3)
    a = host(capacity=250, back_pressure=0.01, breaker_cooldown=0.01, breaker_threshold=1)
    other = SharedReference(NAME)
    for i in range(20):
        bench.put(other, i, 100 + i)
    lose(bench, a, engine, range(20))
    a.flush(60)
    bench.until(lambda: len(a._h.edge.lost) <= 3)
    bench.until(lambda: edge(a).tombstones <= 3)
    found = [there(bench, i) for i in range(20)]
    assert [i for i in range(20) if found[i] not in (None, i)] == [int(t.split("@")[3], 16) for t in a._h.edge.lost]
    assert not [i for i in range(20) if bench.get(a, i) not in (None, i)]


def test_where_more_is_lost_than_can_be_remembered_nothing_is_read_there_any_more(
    bench: Any, host: Any, engine: SharedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "MOST_LOST", 3)
    monkeypatch.setattr(edges, "_BLIND", 8)
    a = host(capacity=250, back_pressure=0.001, breaker_cooldown=1000.0, breaker_threshold=1)
    other = SharedReference(NAME)
    for i in range(100):
        bench.put(other, i, 100 + i)
    engine.down = True
    for i in range(100):
        bench.put(a, i, i)
        bench.until(lambda: a._beyond.sender.idle)
    assert edge(a).breaker is BreakerState.OPEN
    assert edge(a).tombstones <= 8 + 2, "what is remembered, and what the private tier still has"
    engine.down = False
    a._h.edge.hasten()
    bench.put(a, 200, 200)
    bench.until(lambda: edge(a).breaker is BreakerState.CLOSED)
    assert there(bench, 0) == 100
    assert not [i for i in range(98) if bench.get(a, i) is not None], "which of them are older, nobody knows any more"


def test_a_write_in_doubt_rests_unread_before_its_key_is_sent_again(
    bench: Any, host: Any, engine: SharedEngine, clock: Any
) -> None:
    a = host(clock=clock)
    engine.late = True
    bench.put(a, 1, 11)
    bench.until(lambda: edge(a).in_doubt)
    engine.late = False
    bench.put(a, 1, 12)
    bench.put(a, 2, 2)
    bench.until(lambda: there(bench, 2) == 2)
    assert there(bench, 1) is None, "what is in doubt may still overtake what is sent after it"
    assert a._h.edge.hides(bench.key(1).to_string())
    engine.deliver()
    assert there(bench, 1) == 11
    clock.now += DOUBT + 1
    bench.put(a, 3, 3)
    a.flush(60)
    assert there(bench, 1) == 12
