"""Wherever a thread of the store is when another one gives it work or ends it, the work is done and the thread ends."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.tiered.life import loading
from lms_tiers.tiered.paths import mover, worker
from tests.stepping import each_stop
from tests.tiered.slow import Slow

#: Where a mover's thread waits, or is about to.
WHERE = pytest.mark.parametrize(("file", "function"), [(worker.__file__, "_run"), (mover.__file__, "_timeout")])


def moving(bench: Any, stop: Any) -> Any:
    """A store whose mover has just been poked; whatever is put is given to it once."""
    store = bench.store(250, 4000, write="through")
    bench.put(store, 1, 1)
    bench.put(store, 2, 2)
    store.drain(60)
    stop.arm()
    with store._h.lock:
        store._movers[1].poke()
    return store


@WHERE
def test_a_mover_does_what_it_is_given_at_any_moment(bench: Any, file: str, function: str) -> None:
    for stop in each_stop(file, (function,), "lms-tiers-t1", armed=False):
        store = moving(bench, stop)
        stop.beside(lambda store=store: bench.put(store, 3, 3))  # type: ignore[misc]  # bound here
        # Not `drain`, which would wake the mover once more.
        bench.until(partial(bench.weights()[1].contains, bench.key(3)))
        bench.done(store)


@WHERE
def test_a_mover_ends_wherever_it_is(bench: Any, file: str, function: str) -> None:
    for stop in each_stop(file, (function,), "lms-tiers-t1", armed=False):
        store = moving(bench, stop)
        stop.beside(store.close)
        bench.stores.remove(store)


def test_a_thread_that_cannot_be_started_costs_no_put_and_is_tried_again(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    store = bench.store(250, 4000, write="through", on_events=told.extend)

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        bench.put(store, 1, 1)
    bench.put(store, 2, 2)
    store.drain(60)
    assert store.tiers_of(bench.key(1)) == store.tiers_of(bench.key(2)) == ("t0", "t1")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        bench.done(store)
    assert {event.key for event in told} == {bench.key(i).to_string() for i in (1, 2)}


def test_a_store_whose_thread_cannot_be_started_says_which_and_leaves_none_behind(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = set(threading.enumerate())
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(StorageUnavailableError) as raised:
        bench.store(250, 4000, on_events=lambda batch: None)
    assert raised.value.where == "lms-tiers-events"
    assert "can't start new thread" in raised.value.reason
    assert set(threading.enumerate()) == before


@pytest.mark.usefixtures("in_the_background")
def test_a_loader_that_cannot_be_started_leaves_no_thread_of_events_behind(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, start = Slow(bench, 3), threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith("lms-tiers-start"):
            raise RuntimeError("can't start new thread")
        start(thread)

    before = set(threading.enumerate())
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(StorageUnavailableError) as raised:
        bench.store(4000, backends=[slow.backend], on_events=lambda batch: None)
    assert raised.value.where == "lms-tiers-start-t0"
    assert set(threading.enumerate()) == before


def being_loaded(bench: Any, stop: Any) -> Any:
    """A store whose loader has just been told of three chunks."""
    slow = Slow(bench, 3)
    store = bench.store(4000, backends=[slow.backend], close_timeout=60.0)
    stop.arm()
    slow.allow()
    return store


@pytest.mark.usefixtures("in_the_background")
@pytest.mark.parametrize("function", ["_run", "_read", "_take_batch", "_finish"])
def test_the_loader_of_the_lowest_tier_ends_wherever_it_is(bench: Any, function: str) -> None:
    for stop in each_stop(loading.__file__, (function,), "lms-tiers-start-t0", stride=3, armed=False):
        store = being_loaded(bench, stop)
        stop.beside(store.close)
        bench.stores.remove(store)


@pytest.mark.usefixtures("in_the_background")
@pytest.mark.parametrize("function", ["_run", "_read", "_take_batch", "_finish"])
def test_who_waits_for_the_loader_is_woken_wherever_it_is(bench: Any, function: str) -> None:
    for stop in each_stop(loading.__file__, (function,), "lms-tiers-start-t0", stride=3, armed=False):
        store = being_loaded(bench, stop)
        stop.beside(lambda store=store: store.flush(60))  # type: ignore[misc]  # bound here
        assert [bench.get(store, i) for i in range(3)] == [0, 1, 2]
        store.close()
        bench.stores.remove(store)
