"""Jobs of a door: loads first, results once, no buffer touched after a result or after close."""

from __future__ import annotations

import itertools
import mmap
import os
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from lms_tiers.doors.jobs import Jobs, Queue, Result, State
from lms_tiers.errors import BackendClosedError, DeadlineExceededError, ForkedProcessError, StorageUnavailableError
from tests.doors.gated import PATIENCE, Gated

LOAD, STORE = Queue.LOAD, Queue.STORE


@pytest.fixture
def opened() -> Iterator[Any]:
    """Makes `Jobs` that are closed at the end."""
    made: list[Jobs] = []

    def make(**options: Any) -> Jobs:
        made.append(Jobs("test-door", **options))
        return made[-1]

    yield make
    for jobs in made:
        jobs.close(PATIENCE)


def test_a_job_that_did_every_key_is_done_and_its_result_is_given_once(opened: Any) -> None:
    jobs = opened(workers=1)
    work = Gated(3, open_=True)
    number = jobs.submit(LOAD, work, 3, tag="a")
    jobs.drain(PATIENCE)
    assert jobs.state(number) is State.DONE
    (result,) = jobs.poll()
    assert (result.job, result.tag, result.state, result.succeeded) == (number, "a", State.DONE, (True,) * 3)
    assert (result.nbytes, result.error) == (30, None)
    assert jobs.poll() == []
    assert jobs.take(number) is None
    assert jobs.state(number) is None


def test_results_come_in_the_order_in_which_jobs_ended(opened: Any) -> None:
    jobs = opened(workers=1)
    numbers = [jobs.submit(STORE, Gated(open_=True), 1) for _ in range(5)]
    jobs.drain(PATIENCE)
    assert jobs.take(numbers[2]).state is State.DONE
    assert [r.job for r in jobs.poll()] == [n for n in numbers if n != numbers[2]]


def test_a_job_that_leaves_keys_out_has_failed_and_tells_which_succeeded(opened: Any) -> None:
    def work() -> Generator[tuple[Any, int], None, None]:
        yield (0, 3), 2

    jobs = opened()
    number = jobs.submit(LOAD, work, 4)
    jobs.drain(PATIENCE)
    result = jobs.take(number)
    assert (result.state, result.succeeded, result.error) == (State.FAILED, (True, False, False, True), None)


@pytest.mark.parametrize("error", [StorageUnavailableError("disk", "is gone"), ValueError("?"), KeyboardInterrupt()])
def test_whatever_the_work_raises_the_job_has_a_result_and_the_thread_goes_on(
    opened: Any, error: BaseException
) -> None:
    jobs = opened(workers=1)
    failing, next_ = Gated(2, error, open_=True), Gated(open_=True)
    first, second = jobs.submit(LOAD, failing, 2), jobs.submit(LOAD, next_, 1)
    jobs.drain(PATIENCE)
    result = jobs.take(first)
    assert (result.state, result.succeeded, result.error) == (State.FAILED, (True, False), error)
    assert failing.ended
    assert jobs.take(second).state is State.DONE


def test_a_failed_job_keeps_no_buffer_of_the_engine_alive(opened: Any) -> None:
    memory = mmap.mmap(-1, 4096)

    def work() -> Generator[tuple[Any, int], None, None]:
        view = memoryview(memory)
        try:
            view[5000] = 1
        except IndexError as error:
            raise ValueError("chained") from error
        yield (0,), 1

    jobs = opened()
    jobs.submit(LOAD, work, 1)
    jobs.drain(PATIENCE)
    (result,) = jobs.poll()
    assert isinstance(result.error, ValueError)
    del work
    memory.close()  # a BufferError where a frame of the traceback still holds the view


def test_loads_that_wait_come_before_stores_that_wait(opened: Any) -> None:
    jobs = opened(workers=1)
    first = Gated()
    jobs.submit(STORE, first, 1, "first")
    assert first.begun.wait(PATIENCE)
    for tag in ("store 1", "store 2"):
        jobs.submit(STORE, Gated(open_=True), 1, tag)
    for tag in ("load 1", "load 2"):
        jobs.submit(LOAD, Gated(open_=True), 1, tag)
    first.gate.set()
    jobs.drain(PATIENCE)
    assert [r.tag for r in jobs.poll()] == ["first", "load 1", "load 2", "store 1", "store 2"]


@pytest.mark.parametrize("options", [{"workers": 3}, {"workers": 5, "stores": 2}, {"workers": 3, "stores": 9}])
def test_stores_that_are_stuck_leave_a_thread_for_loads(opened: Any, options: dict[str, int]) -> None:
    jobs = opened(**options)
    stuck = [Gated() for _ in range(4)]
    stores = [jobs.submit(STORE, work, 1) for work in stuck]
    assert stuck[0].begun.wait(PATIENCE)
    assert stuck[1].begun.wait(PATIENCE)
    for _ in range(3):
        load = jobs.submit(LOAD, Gated(open_=True), 1)
        while (result := jobs.take(load)) is None:
            threading.Event().wait(0.001)
        assert result.state is State.DONE
    assert not stuck[2].begun.is_set(), "more stores run than may"
    assert [jobs.state(n) for n in stores] == [State.RUNNING] * 2 + [State.QUEUED] * 2
    for work in stuck:
        work.gate.set()
    jobs.drain(PATIENCE)
    assert sorted(r.job for r in jobs.poll()) == stores


def test_a_cancelled_job_that_waits_never_runs_and_has_its_result_at_once(opened: Any) -> None:
    jobs = opened(workers=1)
    running, waiting = Gated(), Gated(2, open_=True)
    jobs.submit(LOAD, running, 1)
    assert running.begun.wait(PATIENCE)
    number = jobs.submit(LOAD, waiting, 2)
    assert jobs.state(number) is State.QUEUED
    assert jobs.cancel(number)
    assert jobs.take(number) == Result(number, None, State.CANCELLED, (False, False))
    assert not jobs.cancel(number)
    running.gate.set()
    jobs.drain(PATIENCE)
    assert not any(waiting.slots)


def test_a_cancelled_job_that_runs_ends_after_its_step_and_tells_what_succeeded(opened: Any) -> None:
    jobs = opened(workers=1)
    work = Gated(3)
    number = jobs.submit(LOAD, work, 3)
    assert work.begun.wait(PATIENCE)
    assert jobs.cancel(number)
    assert jobs.take(number) is None
    assert jobs.state(number) is State.RUNNING
    work.gate.set()
    jobs.drain(PATIENCE)
    result = jobs.take(number)
    assert (result.state, result.succeeded) == (State.CANCELLED, (True, False, False))
    assert work.ended
    assert bytes(work.slots) == b"\1\0\0"


def test_a_job_that_is_cancelled_in_its_last_step_is_done(opened: Any) -> None:
    jobs = opened(workers=1)
    work = Gated(1)
    number = jobs.submit(LOAD, work, 1)
    assert work.begun.wait(PATIENCE)
    assert jobs.cancel(number)
    work.gate.set()
    jobs.drain(PATIENCE)
    assert jobs.take(number).state is State.DONE


def test_who_is_notified_finds_the_result_and_no_lock_held() -> None:
    seen: list[tuple[str, Any]] = []
    numbers: dict[str, int] = {}
    handed_in = threading.Event()

    def notify(tag: str) -> None:
        assert handed_in.wait(PATIENCE)
        seen.append((tag, jobs.take(numbers[tag])))

    jobs = Jobs("test-door", workers=1, notify=notify)
    work = Gated()
    numbers["ran"] = jobs.submit(LOAD, work, 1, "ran")
    assert work.begun.wait(PATIENCE)
    numbers["dropped"] = jobs.submit(LOAD, Gated(), 1, "dropped")
    handed_in.set()
    assert jobs.cancel(numbers["dropped"])
    work.gate.set()
    jobs.drain(PATIENCE)
    jobs.close(PATIENCE)
    assert [(tag, result.state) for tag, result in seen] == [("dropped", State.CANCELLED), ("ran", State.DONE)]
    assert jobs.poll() == []


def test_one_who_is_notified_and_fails_costs_nothing_but_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def notify(tag: str) -> None:
        raise ValueError("deaf")

    jobs = Jobs("test-door", workers=1, notify=notify)
    numbers = [jobs.submit(LOAD, Gated(open_=True), 1) for _ in range(2)]
    jobs.close(PATIENCE)
    assert sorted(r.job for r in jobs.poll()) == numbers
    assert "deaf" in caplog.text


def test_drain_gives_up_after_its_time_and_the_jobs_go_on(opened: Any) -> None:
    jobs = opened(workers=1)
    work = Gated()
    number = jobs.submit(STORE, work, 1)
    with pytest.raises(DeadlineExceededError, match="test-door of 1 jobs"):
        jobs.drain(0.01)
    work.gate.set()
    jobs.drain(PATIENCE)
    assert jobs.take(number).state is State.DONE


def test_close_drops_what_waits_and_lets_what_runs_end_after_its_step() -> None:
    jobs = Jobs("test-door", workers=1)
    running, waiting = Gated(3), Gated(1, open_=True)
    numbers = [jobs.submit(STORE, running, 3)]
    assert running.begun.wait(PATIENCE)
    numbers.append(jobs.submit(LOAD, waiting, 1))
    with pytest.raises(DeadlineExceededError, match="still use buffers"):
        jobs.close(0.01)
    running.gate.set()
    jobs.close(PATIENCE)
    assert bytes(running.slots + waiting.slots) == b"\1\0\0\0"
    found = {r.job: (r.state, r.succeeded) for r in jobs.poll()}
    assert found == {
        numbers[0]: (State.CANCELLED, (True, False, False)),
        numbers[1]: (State.CANCELLED, (False,)),
    }
    with pytest.raises(BackendClosedError):
        jobs.submit(LOAD, Gated(), 1)
    jobs.close()


def test_a_thread_that_cannot_be_started_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    count = itertools.count()

    def scarce(thread: threading.Thread) -> None:
        if next(count) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    with pytest.raises(RuntimeError, match="new thread"):
        Jobs("test-door", workers=4)


def test_a_forked_child_is_told(opened: Any) -> None:
    jobs = opened(workers=1)
    told = 0
    child = os.fork()
    if child == 0:
        for call in (jobs.poll, jobs.drain, jobs.close, lambda: jobs.submit(LOAD, Gated(), 1)):
            try:
                call()
            except ForkedProcessError:
                told += 1
        os._exit(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
