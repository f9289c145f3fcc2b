"""What an observer knows to be present, by events alone, is what the store holds."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lms_conformance.shared import SharedReference, forget_engine, shared_engine

from lms_tiers import CreateStorageBackend, LMSLocalBackend
from lms_tiers.device import parse_device
from lms_tiers.errors import ConfigError, DeadlineExceededError, LmsTiersError
from lms_tiers.factory import open_device
from lms_tiers.hookspecs import BackendSpec
from lms_tiers.interface import Capabilities
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.registry import Registry
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.events import EventKind, EventReason, TierEvent
from tests.depth import DEPTH
from tests.tiered.conftest import Bench
from tests.tiered.slow import Slow


class Observer:
    """Keys that are present, as far as events tell."""

    def __init__(self) -> None:
        self.events: list[TierEvent] = []
        self.present: set[str] = set()
        self.gone: list[tuple[str, EventReason]] = []
        self.untold: list[str] = []

    def __call__(self, events: Sequence[TierEvent]) -> None:
        self.events += events
        for event in events:
            if event.kind in (EventKind.STORED, EventKind.PROMOTED):
                self.present.add(event.key)
            elif event.kind is EventKind.GONE:
                self.gone.append((event.key, event.reason))
                if event.key not in self.present:
                    self.untold.append(event.key)
                self.present.discard(event.key)

    def agrees(self, bench: Any, store: TieredStore) -> None:
        """At rest: what is known is what is there, and nothing was said to be gone twice."""
        store.drain(60)
        with store._h.lock:
            store._log.add(EventKind.STATE, EventReason.CLOSED, "", "the end", 0)
        bench.until(lambda: self.events and self.events[-1].key == "the end")
        assert self.present == {key.to_string() for key in store.list_keys()}
        assert not self.untold


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "many", "get", "remove", "pin", "clear", "resize", "sick"]), st.integers(0, 30)),
    max_size=60,
)  # fmt: skip


@pytest.mark.parametrize("tiers", [1, 2, 3])
@settings(max_examples=25 * DEPTH, deadline=None)
@given(operations=OPERATIONS, seed=st.integers(0, 1000))
def test_events_tell_which_keys_are_present(tiers: int, operations: list[tuple[str, int]], seed: int) -> None:
    bench, observer = Bench(), Observer()
    backends = [FaultyBackend(Bench.weighed()) for _ in range(tiers)]
    chance = random.Random(seed)
    store = bench.store(
        *(500 * 2**i for i in range(tiers)), backends=backends, on_events=observer, back_pressure=0.01,
        breaker_cooldown=0.01,
    )  # fmt: skip
    try:
        for number, (what, i) in enumerate(operations):
            with contextlib.suppress(LmsTiersError, RuntimeError):
                if what == "put":
                    bench.put(store, i, number, chance.choice([100, 100, 600, 1500]))
                elif what == "many":
                    store.put_many([(bench.meta(k, 100), bench.data(number)) for k in range(i, i + 4)])
                elif what == "get":
                    bench.get(store, i)
                elif what == "remove":
                    store.remove(bench.key(i))
                elif what == "pin":
                    store.pin([bench.key(i)], i % 2)
                elif what == "clear" and i < 3:
                    store.clear(5)
                elif what == "resize":
                    store.resize(0, 300 + 20 * i, 5)
                elif what == "sick":
                    fault = chance.choice([Fault.FAIL, Fault.FAIL_AFTER, Fault.NOTHING, Fault.WRONG_LENGTH])
                    chance.choice(backends).inject(
                        chance.choice(["put", "get", "put_many", "remove"]), fault, times=1, error=RuntimeError
                    )
        observer.agrees(bench, store)
    finally:
        bench.close()


def test_a_key_is_gone_once_and_with_the_reason_of_its_last_copy(bench: Any) -> None:
    observer = Observer()
    store = bench.store(1000, 100_000, on_events=observer)
    for i in range(5):
        bench.put(store, i, i)
    store.flush(60)
    bench.put(store, 1, 11)
    store.remove(bench.key(0))
    store.remove(bench.key(0))
    store.clear(60)
    observer.agrees(bench, store)
    assert sorted(observer.gone) == [(bench.key(i).to_string(), EventReason.REQUEST) for i in range(5)]
    assert all((event.tier, event.nbytes) == ("", 0) for event in observer.events if event.kind is EventKind.GONE)


def test_a_key_that_leaves_for_room_is_gone_when_its_lowest_copy_is(bench: Any) -> None:
    observer = Observer()
    store = bench.store(1000, 2000, on_events=observer)
    for i in range(60):
        bench.put(store, i, i)
    observer.agrees(bench, store)
    assert {reason for _, reason in observer.gone} <= {EventReason.CAPACITY, EventReason.BACK_PRESSURE}
    assert len(observer.gone) == 60 - store.stats().keys


def test_a_damaged_only_copy_is_gone(bench: Any) -> None:
    observer, faulty = Observer(), FaultyBackend(Bench.weighed())
    store = bench.store(None, backends=[faulty], on_events=observer)
    bench.put(store, 1, 1)
    faulty.inject("get", Fault.NOTHING, times=1)
    assert bench.get(store, 1) is None
    observer.agrees(bench, store)
    assert observer.gone == [(bench.key(1).to_string(), EventReason.CORRUPT)]


def test_a_copy_of_what_others_share_is_present_while_this_store_has_it(bench: Any) -> None:
    shared_engine("test_presence")
    try:
        with SharedReference("test_presence") as others:
            bench.put(others, 1, 1)
            observer = Observer()
            store = TieredStore(
                [
                    TierConfig("ram", bench.weighed(), 250, Lru(250, lambda: 0.0)),
                    TierConfig("pool", SharedReference("test_presence"), None, None),
                ],
                on_events=observer,
            )
            with store:
                assert bench.get(store, 1) == 1
                store.drain(60)  # it has risen
                for i in range(2, 6):
                    bench.put(store, i, i)
                    store.flush(60)
                store.drain(60)
                with store._h.lock:
                    store._log.add(EventKind.STATE, EventReason.CLOSED, "", "the end", 0)
                bench.until(lambda: observer.events and observer.events[-1].key == "the end")
                assert observer.present == set(store._h.index)
                assert bench.key(1).to_string() in {key for key, _ in observer.gone}
                assert not observer.untold
    finally:
        forget_engine("test_presence")


def test_what_is_cleared_before_it_was_loaded_is_gone_too(bench: Any, slow: Slow) -> None:
    observer = Observer()
    store = bench.store(10_000, 100_000, backends=[bench.weighed(), slow.backend], on_events=observer)
    observer.present = {key.to_string() for key in store.list_keys()}
    assert store.loading
    slow.allow(3)
    bench.until(lambda: len(store._h.index) == 3)
    with pytest.raises(DeadlineExceededError):
        store.clear(0.05)
    slow.allow()
    store.clear(60)
    assert store.list_keys() == []
    observer.agrees(bench, store)
    assert len(observer.gone) == 20


def test_events_come_to_who_opens_the_store_beside_the_plugins() -> None:
    registry, observer = Registry({}, []), Observer()
    hooked: list[TierEvent] = []
    registry._observers.append(("listener", None))
    registry.emit = lambda events: hooked.extend(events)  # type: ignore[method-assign]
    bench = Bench()
    with open_device(parse_device("cpu?capacity=1MiB"), registry, observer) as store:
        bench.put(store, 1, 1)
    assert [event.kind for event in observer.events] == [event.kind for event in hooked] == [EventKind.STORED]


def test_an_observer_that_raises_does_not_keep_events_from_plugins(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry({}, [])
    hooked: list[TierEvent] = []
    registry._observers.append(("listener", None))
    registry.emit = lambda events: hooked.extend(events)  # type: ignore[method-assign]

    def broken(events: Sequence[TierEvent]) -> None:
        raise RuntimeError("the observer's own fault")

    with open_device(parse_device("cpu?capacity=1MiB"), registry, broken) as store:
        Bench().put(store, 1, 1)
    assert len(hooked) == 1
    assert "the observer's own fault" in caplog.text


def test_who_wants_events_of_a_bare_backend_gets_a_store_over_it() -> None:
    observer = Observer()
    with CreateStorageBackend("cpu", on_events=observer) as store:
        assert isinstance(store, TieredStore)
        Bench().put(store, 1, 1)
        store.remove(Bench.key(1))
    assert [e.kind for e in observer.events] == [EventKind.STORED, EventKind.REMOVED, EventKind.GONE]
    with CreateStorageBackend("cpu") as bare:
        assert type(bare) is LMSLocalBackend


def test_a_backend_that_cannot_be_a_tier_has_no_events(tmp_path: Path) -> None:
    class NoRemove(LMSLocalBackend):
        capabilities = Capabilities()

    registry = Registry({}, [])
    make: Callable[..., Any] = lambda location, capacity, options: NoRemove()  # noqa: E731
    registry.backends._specs["noremove"] = BackendSpec(name="noremove", factory=make)
    with pytest.raises(ConfigError, match="cannot remove"):
        open_device(parse_device("noremove"), registry, Observer())
