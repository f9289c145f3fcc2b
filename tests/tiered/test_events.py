"""Events reach the observer in batches, the last ones too, wherever the thread that hands them over is at the end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from lms_tiers.tiered.watch import events
from lms_tiers.tiered.watch.events import EventKind, EventLog, EventReason, TierEvent
from tests.stepping import each_stop
from tests.tiered.interrupts import interrupted


def add(log: EventLog, key: str) -> None:
    log.add(EventKind.STATE, EventReason.BREAKER_OPEN, "t0", key, 0)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_GATHER", 0.0)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("late", [False, True])
def test_wherever_the_thread_is_close_ends_it_and_no_event_is_lost(late: bool) -> None:
    for stop in each_stop(events.__file__, ("_run",), "lms-tiers-events"):
        seen: list[TierEvent] = []
        log = EventLog(seen.extend)
        log.start()
        add(log, "first")

        def end(log: EventLog = log) -> bool:
            if late:
                add(log, "last")
            return log.close(30)

        assert stop.beside(end), "the thread was left behind"
        assert [event.key for event in seen] == ["first", "last"][: 1 + late]
        assert log.lost == 0


@pytest.mark.usefixtures("_at_once")
def test_wherever_the_thread_is_an_event_added_then_is_handed_over(bench: Any) -> None:
    for stop in each_stop(events.__file__, ("_run",), "lms-tiers-events"):
        seen: list[TierEvent] = []
        log = EventLog(seen.extend)
        log.start()
        add(log, "first")
        stop.beside(lambda log=log: add(log, "second"))  # type: ignore[misc]  # bound here
        bench.until(lambda seen=seen: len(seen) == 2)
        assert log.close(30)


def test_an_event_after_close_starts_nothing_and_is_counted() -> None:
    log = EventLog(lambda batch: None)
    assert log.close(1)
    add(log, "late")
    assert log.lost == 1
    assert log._thread is None


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_observer_that_raises_anything_is_told_of_later_events(
    bench: Any, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    seen: list[str] = []

    def observer(batch: Sequence[TierEvent]) -> None:
        seen.extend(event.key for event in batch)
        if "first" in seen[-1]:
            raise error("the observer's own fault")

    log = EventLog(observer)
    log.start()
    add(log, "first")
    bench.until(lambda: seen)
    add(log, "second")
    assert log.close(60)
    assert seen == ["first", "second"]
    assert "the observer's own fault" in caplog.text


def test_an_observer_may_close_the_log() -> None:
    seen: list[bool] = []
    log = EventLog(lambda batch: seen.append(log.close(30)))
    log.start()
    add(log, "first")
    assert log.close(30)
    assert seen == [True]


def test_wherever_adding_an_event_is_interrupted_the_next_one_is_handed_over_and_close_returns() -> None:
    for at in itertools.count(1):
        seen: list[TierEvent] = []
        log = EventLog(seen.extend)
        log.start()
        with interrupted(at, (events.__file__, threading.__file__)) as interrupt:
            add(log, "first")
        add(log, "second")
        assert log.close(30), interrupt.where
        keys = [event.key for event in seen]
        assert keys == ["first", "second"][-len(keys) :], interrupt.where
        assert "second" in keys, interrupt.where
        if not interrupt.where:
            assert at > 25
            return
