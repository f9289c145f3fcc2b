"""Chunks of a shared tier on their way into a private one: handed to its mover, and answered from until they are there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lms_conformance.shared import SharedEngine

from tests.tiered.sharing import trips


class Gate:
    """Memory whose puts wait until they are let go."""

    def __init__(self, bench: Any) -> None:
        self.inside = threading.Semaphore(0)
        self.go = threading.Event()
        self.backend: Any = bench.weighed()
        base = type(self.backend)

        def held(put: Callable[..., None]) -> Callable[..., None]:
            def waiting(backend: Any, *args: Any) -> None:
                self.inside.release()
                assert self.go.wait(60)
                put(backend, *args)

            return waiting

        self.backend.__class__ = type("Gate", (base,), {"put": held(base.put), "put_many": held(base.put_many)})


@pytest.fixture
def gate(bench: Any) -> Iterator[Gate]:
    gate = Gate(bench)
    yield gate
    gate.go.set()


def filled(bench: Any, host: Any, chunks: int) -> Any:
    """A store that has put `chunks` into the engine."""
    a = host(capacity=100_000)
    for i in range(chunks):
        bench.put(a, i, i)
    a.flush(60)
    return a


def test_until_a_chunk_has_risen_the_read_that_found_it_answers(
    bench: Any, host: Any, engine: SharedEngine, gate: Gate
) -> None:
    filled(bench, host, 1)
    b = host(above=gate.backend)
    assert trips(engine, lambda: bench.get(b, 0)) == (0, 1)
    assert gate.inside.acquire(timeout=60)
    assert b.tiers_of(bench.key(0)) == ()
    assert trips(engine, lambda: bench.get(b, 0)) == (0, 0)
    engine.evict()
    assert b.contains(bench.key(0))
    gate.go.set()
    b.drain(60)
    assert b.tiers_of(bench.key(0)) == ("ram",)
    assert not b._h.edge.asked


def test_what_is_removed_while_it_rises_is_gone(bench: Any, host: Any, engine: SharedEngine, gate: Gate) -> None:
    filled(bench, host, 1)
    b = host(above=gate.backend)
    assert bench.get(b, 0) == 0
    assert gate.inside.acquire(timeout=60)
    b.remove(bench.key(0))
    assert bench.get(b, 0) is None
    gate.go.set()
    b.drain(60)
    assert bench.get(b, 0) is None
    assert b.stats().bytes_used == 0


def test_what_rises_does_not_outlive_clear(bench: Any, host: Any, gate: Gate) -> None:
    filled(bench, host, 2)
    b = host(above=gate.backend)
    assert bench.get(b, 0) == 0
    assert gate.inside.acquire(timeout=60)
    assert bench.get(b, 1) == 1
    clearing = threading.Thread(target=b.clear, args=(60,))
    clearing.start()
    bench.until(lambda: not b._h.edge.asked)
    gate.go.set()
    clearing.join(60)
    b.drain(60)
    assert b.stats().private_keys == 0
    assert b.stats().bytes_used == 0


def test_a_batch_of_more_than_may_wait_rises_as_a_whole(bench: Any, host: Any) -> None:
    filled(bench, host, 20)
    b = host(capacity=100_000, queue_bytes=250)
    keys = [bench.key(i) for i in range(20)]
    assert [bench.value(obj) for obj in b.get_many(keys)] == list(range(20))
    b.drain(60)
    assert [b.tiers_of(key) for key in keys] == [("ram",)] * 20
    assert b.stats().tiers[0].promotions_skipped == 0


def test_a_reader_does_not_wait_for_a_mover_for_longer_than_for_the_engine(bench: Any, host: Any, gate: Gate) -> None:
    filled(bench, host, 20)
    b = host(capacity=100_000, above=gate.backend, queue_bytes=250, deadline=2.0)
    keys = [bench.key(i) for i in range(20)]
    assert [bench.value(obj) for obj in b.get_many(keys)] == list(range(20)), "it has answered, and the mover is stuck"
    assert gate.inside.acquire(timeout=60)
    assert b.stats().tiers[0].promotions_skipped > 0
    gate.go.set()
    b.drain(60)
    assert 0 < b.stats().private_keys < 20
    assert not b._h.edge.asked


def test_a_copy_that_has_grown_old_is_overwritten_unseen(
    bench: Any, host: Any, engine: SharedEngine, gate: Gate
) -> None:
    now = [0.0]
    a = filled(bench, host, 1)
    b = host(above=gate.backend, revalidate=10.0, clock=lambda: now[0])
    gate.go.set()
    assert bench.get(b, 0) == 0
    b.drain(60)
    gate.go.clear()
    bench.put(a, 0, 7)
    a.flush(60)
    now[0] = 11.0
    assert bench.get(b, 0) == 7
    assert gate.inside.acquire(timeout=60)
    assert trips(engine, lambda: bench.get(b, 0)) == (7, 0)
    gate.go.set()
    b.drain(60)
    assert bench.get(b, 0) == 7
    assert b.stats().bytes_used == b.stats().private_keys * 100


def test_what_waits_to_rise_grows_old_as_a_copy_does(bench: Any, host: Any, engine: SharedEngine, gate: Gate) -> None:
    now = [0.0]
    a = filled(bench, host, 1)
    b = host(above=gate.backend, revalidate=10.0, clock=lambda: now[0])
    assert bench.get(b, 0) == 0
    assert gate.inside.acquire(timeout=60)
    bench.put(a, 0, 7)
    a.flush(60)
    now[0] = 10.0
    assert trips(engine, lambda: bench.get(b, 0)) == (0, 0)
    now[0] = 10.1
    assert trips(engine, lambda: bench.get(b, 0)) == (7, 1)
    gate.go.set()
    b.drain(60)
    assert bench.get(b, 0) == 7


def test_a_copy_is_as_old_as_its_read_not_as_its_rise(bench: Any, host: Any, engine: SharedEngine, gate: Gate) -> None:
    now = [0.0]
    filled(bench, host, 1)
    b = host(above=gate.backend, revalidate=10.0, clock=lambda: now[0])
    assert bench.get(b, 0) == 0
    assert gate.inside.acquire(timeout=60)
    now[0] = 8.0
    gate.go.set()
    b.drain(60)
    assert trips(engine, lambda: bench.get(b, 0)) == (0, 0)
    now[0] = 11.0
    assert trips(engine, lambda: bench.get(b, 0)) == (0, 1)
