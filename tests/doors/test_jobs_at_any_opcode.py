"""Jobs of a door beside threads that stop anywhere, under interrupts anywhere, and in drawn programs."""

from __future__ import annotations

import functools
import itertools
import random
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from lms_tiers.doors import job as job_module
from lms_tiers.doors import jobs as jobs_module
from lms_tiers.doors.jobs import Jobs, Queue, Result, State
from lms_tiers.errors import BackendClosedError, StorageUnavailableError
from tests.depth import drawn
from tests.doors.gated import PATIENCE, Gated
from tests.stepping import each_stop, undivided
from tests.tiered.interrupts import interrupted

LOAD, STORE = Queue.LOAD, Queue.STORE

FILES = (jobs_module.__file__, job_module.__file__)


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
        with undivided():  # a thread that stands while it has the lock lets nobody submit a second one
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


@pytest.mark.parametrize("seeds", drawn(60, 1000))
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
