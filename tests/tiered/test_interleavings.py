"""Interleavings that random preemption seldom meets, set up one step at a time."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.hierarchy import Hierarchy


class Stops:
    """Places in a backend's calls where a thread waits until it is let go."""

    def __init__(self, bench: Any, backend: Any) -> None:
        self._bench = bench
        self._armed: dict[str, threading.Event] = {}
        self.reached: list[str] = []
        self.error: BaseException | None = None
        get, put = backend.get, backend.put

        def stopped_get(key: Any) -> Any:
            self._stop("before get")
            obj = get(key)
            self._stop("after get")
            return obj

        def stopped_put(client_meta: Any, data: Any) -> None:
            put(client_meta, data)
            self._stop("after put")
            if self.error is not None:
                error, self.error = self.error, None
                raise error

        backend.get, backend.put = stopped_get, stopped_put

    def _stop(self, place: str) -> None:
        gate = self._armed.pop(place, None)
        if gate is not None:
            self.reached.append(place)
            assert gate.wait(60), f"nobody let go of {place}"

    def arm(self, place: str) -> threading.Event:
        """The next thread at `place` waits for the event."""
        return self._armed.setdefault(place, threading.Event())

    def wait(self, place: str) -> None:
        self._bench.until(lambda: place in self.reached)
        self.reached.remove(place)


@pytest.fixture
def tiers(bench: Any) -> tuple[Any, Any, Stops]:
    backends = [bench.weighed(), bench.weighed()]
    stops = Stops(bench, backends[0])
    store = bench.store(10_000, 100_000, backends=backends, write="through", patience=0.1, stall=60.0)
    bench.put(store, 1, 1)
    store.drain(60)
    assert backends[1].contains(bench.key(1))
    return store, backends, stops


def start(call: Any, outcome: list[Any]) -> threading.Thread:
    def run() -> None:
        try:
            outcome.append(call())
        except StorageUnavailableError as error:
            outcome.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_reader_overtaken_by_a_drop_and_a_put_does_not_see_the_unpublished_chunk(bench: Any, tiers: Any) -> None:
    store, _, stops = tiers
    read, wrote = stops.arm("before get"), stops.arm("after put")
    seen: list[Any] = []
    reader = start(lambda: bench.get(store, 1), seen)
    stops.wait("before get")
    store.resize(0, 50)  # drops the upper copy
    store.resize(0, 10_000)
    writer = start(lambda: bench.put(store, 1, 2), [])
    stops.wait("after put")
    read.set()
    reader.join(60)
    assert seen == [1]
    wrote.set()
    writer.join(60)
    assert bench.get(store, 1) == 2


def test_a_mover_does_not_copy_what_is_being_overwritten(bench: Any) -> None:
    backends = [bench.weighed(), bench.weighed()]
    stops = Stops(bench, backends[0])
    store = bench.store(10_000, 100_000, backends=backends, patience=0.1, stall=60.0)
    bench.put(store, 1, 1)
    wrote = stops.arm("after put")
    writer = start(lambda: bench.put(store, 1, 2), [])
    stops.wait("after put")
    mover = store._movers[1]
    with store._h.lock:
        mover.offer(bench.key(1).to_string(), store._h.index[bench.key(1).to_string()], None)
    bench.until(lambda: not mover.queued(bench.key(1).to_string()))
    assert bench.get(store, 1) in (1, None), "the put has not been published"
    store.remove(bench.key(1))
    assert bench.get(store, 1) is None
    wrote.set()
    writer.join(60)
    assert bench.get(store, 1) == 2


def test_a_read_during_a_write_that_failed_afterwards_is_void(bench: Any, tiers: Any) -> None:
    store, backends, stops = tiers
    before, after, wrote = stops.arm("before get"), stops.arm("after get"), stops.arm("after put")
    seen: list[Any] = []
    failed: list[Any] = []
    reader = start(lambda: bench.get(store, 1), seen)
    stops.wait("before get")
    stops.error = RuntimeError("written, and then failed")
    second = backends[1].put
    backends[1].put = lambda *args: (_ for _ in ()).throw(StorageUnavailableError("t1", "full"))
    writer = start(lambda: bench.put(store, 1, 2), failed)
    stops.wait("after put")
    before.set()
    stops.wait("after get")  # it has the bytes of a put that is about to fail
    wrote.set()
    writer.join(60)
    assert failed == [StorageUnavailableError]
    backends[1].put = second
    store.drain(60)
    assert bench.get(store, 1) == 1, "the lower copy is the newest generation"
    bench.until(lambda: backends[0].contains(bench.key(1)))
    store.drain(60)
    after.set()
    reader.join(60)
    assert seen == [1]


def test_nobody_finds_nothing_between_two_steps_of_a_move(bench: Any) -> None:
    store = bench.store(300, 100_000)
    for i in range(3):
        bench.put(store, i, i)
    missed: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            missed.extend(i for i in range(3) if not store.contains(bench.key(i)) or bench.get(store, i) != i)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for thread in lookers:
        thread.start()
    for i in range(10, 400):
        bench.put(store, i, i)
    stop.set()
    for thread in lookers:
        thread.join(60)
    assert not missed


def test_a_get_takes_a_background_start_as_it_finds_it_though_it_may_end_at_any_moment(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[str] = []
    ending = SimpleNamespace(settle=lambda text, change: settled.append(text))
    looks = iter([ending])  # and none from the second look on
    store = bench.store(4000)
    monkeypatch.setattr(Hierarchy, "loading", property(lambda _: next(looks, None), lambda *_: None), raising=False)
    assert bench.get(store, 1) is None
    assert settled == [bench.key(1).to_string()]


def test_a_hit_beside_a_grant_is_told_to_no_policy_that_does_not_know_the_chunk_yet(bench: Any) -> None:
    told: list[str] = []

    class Records(Lru):
        def on_insert(self, key: str, size: int, context: AccessContext) -> None:
            told.append("insert")
            super().on_insert(key, size, context)

        def on_hit(self, key: str, context: AccessContext) -> None:
            told.append("hit")
            super().on_hit(key, context)

    store = bench.store(1000, policies=[Records(1000, time.monotonic)])
    bench.put(store, 1, 1)
    top, text = store._h.tiers[0], bench.key(1).to_string()
    entry = store._h.index[text]
    told.clear()

    class Noting(set[str]):
        """What a grant looks at between the charge and the policy: a reader gets the chunk just then."""

        def __bool__(self) -> bool:
            store._h.noted.append((top, text, entry, 0.0, 1, None))
            return False

    top.refused = Noting()
    with store._h.lock:
        store._h.left(top, text, RemoveReason.REMOVED)
        store._h.grant(top, text, entry, entry.charges[0], AccessContext(0.0))
    top.refused = set()
    store._h.tell()
    assert told == ["insert", "hit"]
    assert store.stats().tiers[0].policy == Records.name
