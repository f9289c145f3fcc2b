"""Jobs of a door: loads first, results once, no buffer touched after a result or after close."""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import pytest

from lms_tiers.doors import job as job_module
from lms_tiers.doors import jobs as jobs_module
from lms_tiers.doors.jobs import Jobs, Queue, Result, State
from lms_tiers.errors import BackendClosedError, DeadlineExceededError, ForkedProcessError, StorageUnavailableError
from tests.depth import drawn
from tests.stepping import each_stop
from tests.tiered.interrupts import interrupted

PATIENCE = 60
LOAD, STORE = Queue.LOAD, Queue.STORE
FILES = (jobs_module.__file__, job_module.__file__)


class Gated:
    """Work of some steps, each of which marks its slot, and waits first until it is let go."""

    def __init__(self, keys: int = 1, error: BaseException | None = None, open_: bool = False) -> None:
        self.slots = bytearray(keys)
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.error = error
        self.ended = False
        if open_:
            self.gate.set()

    def __call__(self) -> Generator[tuple[Any, int], None, None]:
        try:
            for at in range(len(self.slots)):
                self.begun.set()
                assert self.gate.wait(PATIENCE)
                if self.error is not None and at == len(self.slots) - 1:
                    raise self.error
                self.slots[at] += 1
                yield (at,), 10
        finally:
            self.ended = True


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


def test_stores_that_are_stuck_leave_a_thread_for_loads(opened: Any) -> None:
    jobs = opened(workers=3)
    stuck = [Gated() for _ in range(4)]
    stores = [jobs.submit(STORE, work, 1) for work in stuck]
    assert stuck[0].begun.wait(PATIENCE)
    assert stuck[1].begun.wait(PATIENCE)
    for _ in range(3):
        load = jobs.submit(LOAD, Gated(open_=True), 1)
        while (result := jobs.take(load)) is None:
            threading.Event().wait(0.001)
        assert result.state is State.DONE
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


# -- at every opcode ---------------------------------------------------------------------------------------------------


def settled(jobs: Jobs, works: dict[int, Gated], given: list[Result]) -> None:
    """After close: every job has ended once, tells the truth of its slots, and nothing is written any more."""
    jobs.close(PATIENCE)
    given += jobs.poll()
    assert sorted(r.job for r in given) == sorted(works)
    for result in given:
        slots = works[result.job].slots
        assert [bool(s) for s in slots] == list(result.succeeded)
        assert max(slots, default=0) <= 1, "a step was done twice"
        assert result.nbytes == 10 * sum(result.succeeded)
        if slots:  # a job of no keys that is dropped is cancelled
            assert (result.state is State.DONE) == all(result.succeeded)
    assert jobs.counts() == (0, 0)


CALLS: dict[str, Any] = {
    "poll": lambda jobs, number: jobs.poll(),
    "take": lambda jobs, number: [jobs.take(number)],
    "cancel": lambda jobs, number: jobs.cancel(number) and [],
    "drain": lambda jobs, number: jobs.drain(PATIENCE),
    "close": lambda jobs, number: jobs.close(PATIENCE),
    "submit": lambda jobs, number: jobs.submit(LOAD, Gated(0), 0),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.deep)])
@pytest.mark.parametrize("file", FILES, ids=["jobs", "job"])
def test_beside_a_thread_that_stops_at_any_opcode_every_call_is_right(call: str, file: str, stride: int) -> None:
    names = {"_run", "_next", "_perform", "_end", "_settle", "_tell", "perform", "ended"}
    for stop in each_stop(file, names, "test-door", stride=stride, armed=False):
        jobs = Jobs("test-door", workers=1)
        given: list[Result] = []
        works = {}
        stop.arm()
        for keys in (2, 1):
            work = Gated(keys, open_=True)
            works[jobs.submit(STORE, work, keys)] = work
        answer = stop.beside(functools.partial(CALLS[call], jobs, 1))
        if call == "submit":
            works[answer] = Gated(0)
        else:
            given += [r for r in answer or [] if r is not None]
        settled(jobs, works, given)


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_at_any_opcode_of_a_call_loses_no_job_and_no_thread(call: str) -> None:
    at = 0
    while True:
        at += 1
        jobs = Jobs("test-door", workers=1)
        running, waiting = Gated(1), Gated(2, open_=True)
        works = {jobs.submit(STORE, running, 1): running}
        assert running.begun.wait(PATIENCE)
        number = jobs.submit(STORE, waiting, 2)
        works[number] = waiting
        if call in ("poll", "take"):
            assert jobs.cancel(number)
        if call in ("drain", "close"):
            running.gate.set()
        given: list[Result] = []
        with interrupted(at, FILES) as interrupt:
            answer = CALLS[call](jobs, number)
            if call != "submit":
                given = [r for r in answer or [] if r is not None]
        if call == "cancel":  # what is down is for ever
            given += jobs.poll()
        running.gate.set()
        jobs.drain(PATIENCE)
        jobs.close(PATIENCE)
        results = given + jobs.poll()
        if call == "submit":
            assert {r.job for r in results} - works.keys() <= {3}
            results = [r for r in results if r.job in works]
        numbers = [r.job for r in results]
        assert len(numbers) == len(set(numbers)), interrupt.where
        if not interrupt.where or call not in ("poll", "take"):  # those may have taken some along
            assert sorted(numbers) == sorted(works), interrupt.where
        for result in results:
            assert [bool(s) for s in works[result.job].slots] == list(result.succeeded), interrupt.where
        if not interrupt.where:
            assert at > 5
            return


# -- drawn programs ----------------------------------------------------------------------------------------------------


def preempting(seed: int, often: float) -> Any:
    seeds = random.Random(seed)

    def enter_thread(frame: FrameType, event: str, arg: Any) -> Any:
        rng = random.Random(seeds.random())

        def inside(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode" and rng.random() < often:
                time.sleep(rng.choice((0.0, 0.0, 1e-5, 1e-4)))
            return inside

        def enter(frame: FrameType, event: str, arg: Any) -> Any:
            if frame.f_code.co_filename in FILES:
                frame.f_trace_opcodes = True
                return inside
            return None

        sys.settrace(enter)
        return enter(frame, event, arg)

    return enter_thread


RANK = {State.QUEUED: 0, State.RUNNING: 1, State.DONE: 2, State.FAILED: 2, State.CANCELLED: 2, None: 3}


def program(seed: int) -> None:
    """Four threads over one pool: of every job, what calls told one after the other never goes back."""
    rng = random.Random(seed)
    told: list[str] = []
    jobs = Jobs("test-door", workers=rng.randint(1, 3), notify=told.append)
    works: dict[int, Gated] = {}
    given: list[Result] = []
    seen: list[tuple[int, int, float, float]] = []  # job, rank, from, to
    snapshots: list[tuple[int, bytes]] = []
    closed = rng.random() < 0.3

    def thread(rng: random.Random) -> None:
        for _ in range(8):
            began = time.monotonic()
            what = rng.choice(("submit", "submit", "poll", "take", "cancel", "state", "state", "drain"))
            some = rng.choice(list(works) or [0])
            results: list[Result] = []
            if what == "submit":
                keys = rng.randint(0, 3)
                error = StorageUnavailableError("drawn", "fault") if rng.random() < 0.3 else None
                work = Gated(keys, error, open_=True)
                try:
                    works[jobs.submit(rng.choice((LOAD, STORE)), work, keys, "tag")] = work
                except BackendClosedError:
                    assert closed
            elif what == "poll":
                results = jobs.poll()
            elif what == "take":
                results = [r for r in [jobs.take(some)] if r is not None]
            elif what == "cancel":
                ended = not jobs.cancel(some)
                if ended and some:
                    seen.append((some, 2, began, time.monotonic()))
            elif what == "state":
                state = jobs.state(some)
                if some:
                    seen.append((some, RANK[state], began, time.monotonic()))
            else:
                before = list(works)
                jobs.drain(PATIENCE)
                seen.extend((n, 2, began, time.monotonic()) for n in before)
            for result in results:
                given.append(result)
                seen.append((result.job, 3, began, time.monotonic()))
                if result.job in works:
                    snapshots.append((result.job, bytes(works[result.job].slots)))

    threads = [threading.Thread(target=thread, args=(random.Random(rng.random()),)) for _ in range(4)]
    for one in threads:
        one.start()
    if closed:
        jobs.close(PATIENCE)
        stood = {n: bytes(w.slots) for n, w in list(works.items())}
    for one in threads:
        one.join(PATIENCE)
        assert not one.is_alive()
    if closed:
        assert all(bytes(works[n].slots) == slots for n, slots in stood.items())
    settled(jobs, works, given)
    assert len(told) == len(works)
    for number, slots in snapshots:
        assert bytes(works[number].slots) == slots, "written after the result was given"
    for (job, rank, _, ended), (other, later, began, _) in itertools.permutations(seen, 2):
        if job == other and ended < began:
            # a rank of 2 that a drain or cancel told is "ended at least"; who was given the result said 3 once
            assert later >= min(rank, 2), f"job {job} went back from {rank} to {later}"


@pytest.mark.parametrize("seeds", drawn(60, 2000))
def test_drawn_programs_give_every_result_once_and_never_go_back(seeds: range) -> None:
    for seed in seeds:
        threading.settrace(preempting(seed, 0.05))
        try:
            program(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            threading.settrace(None)
