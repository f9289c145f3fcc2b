"""Rows there and back, look-ups, results, and what the scheduler may count on."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lms_conformance.adapters.driven import tries
from lms_conformance.adapters.trial import AdapterTrial, NotApplicable
from lms_conformance.adapters.vllm_tier import RULES
from lms_conformance.adapters.vllm_tier.drive import SLOTS, Drive, request
from lms_conformance.violation import expect, violate

Step = tuple[str, list[int], list[int]]

#: Keys of drawn programs: few, so that they meet again.
_KEYS: Final = 10
#: Bytes a row where a transfer is to take a while.
WIDE: Final = 512 * 1024


@st.composite
def _step(draw: Any, kinds: tuple[str, ...]) -> Step:
    keys = draw(st.lists(st.integers(0, _KEYS - 1), min_size=1, max_size=5, unique=True))
    slots = draw(st.lists(st.integers(0, SLOTS - 1), min_size=len(keys), max_size=len(keys), unique=True))
    return draw(st.sampled_from(kinds)), keys, slots


def programs(*kinds: str) -> SearchStrategy[list[Step]]:
    """Steps of these kinds, after one that stores."""
    return st.builds(
        lambda first, more: [first, *more], _step(("store",)), st.lists(_step(kinds), min_size=1, max_size=5)
    )


def stored(drive: Drive, keys: list[int], slots: list[int] | None = None) -> None:
    """Store, and be told that all are held."""
    expect(drive.store(keys, slots), "the store to succeed", "it failed")


@RULES(1, "A chunk that was stored comes back bit for bit to the row it is asked for, and no row beside is written.",
       given=lambda: programs("store", "load"))  # fmt: skip
def _come_back(trial: AdapterTrial, steps: list[Step]) -> None:
    drive, held = trial.adapter(), set[int]()
    for kind, keys, slots in steps:
        if kind == "store":
            stored(drive, keys, slots)
            held |= set(keys)
        elif set(keys) & held:
            here = [(k, s) for k, s in zip(keys, slots, strict=True) if k in held]
            states = drive.load([k for k, _ in here], [s for _, s in here])
            expect(states == ["whole"] * len(here), "every chunk, all of which were stored", states)
            drive.wipe()


@RULES(2, "Of a load with chunks that are not held, none of those is called successful, and what is, is whole.",
       given=lambda: programs("store", "load", "load"))  # fmt: skip
def _partial(trial: AdapterTrial, steps: list[Step]) -> None:
    drive, held = trial.adapter(), set[int]()
    for kind, keys, slots in steps:
        if kind == "store":
            stored(drive, keys, slots)
            held |= set(keys)
            continue
        states = drive.load(keys, slots, f"load {drive.jobs}")
        bad = [
            k for k, state in zip(keys, states, strict=True) if state == "wrong" or (state == "whole" and k not in held)
        ]
        expect(not bad, "whole chunks, and failures of those that are not held", f"{states} of {keys}")
        drive.wipe()


@RULES(3, "A look-up comes to HIT for each chunk that is held and to MISS for each that is not, gaps or none.",
       given=lambda: programs("store", "look", "look"))  # fmt: skip
def _looked(trial: AdapterTrial, steps: list[Step]) -> None:
    drive, held = trial.adapter(), set[int]()
    for kind, keys, slots in steps:
        if kind == "store":
            stored(drive, keys, slots)
            held |= set(keys)
            continue
        expected = ["HIT" if k in held else "MISS" for k in keys]
        found = drive.look(keys)
        expect(found == expected, str(expected), found)


@RULES(4, "Every job is reported, once, whichever order they end in.")
def _once(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    for key in range(4):
        drive.fill(key, key)
    trial.record("# 4 stores of one row each and, when they are done, 12 loads are handed in; then results are taken")
    stores = [drive.job([key], [key], False) for key in range(4)]
    for job in stores:
        drive.tier.submit_store(job)
    ended = [drive.result(job).success for job in stores]
    expect(all(ended), "every store to succeed", "one failed")
    loads = [drive.job([i % 4], [4 + i % 4], True) for i in range(12)]
    for job in loads:
        drive.tier.submit_load(job)
    ended = [drive.result(job).success for job in reversed(loads)]
    expect(all(ended), "every load to succeed", "one failed")
    for _ in range(5):
        drive.step()  # one that is reported again is a violation there
    wrong = [key for key in range(4) if not drive.holds(4 + key, key)]
    expect(not wrong, "every chunk in its row", f"others for {wrong}")


@RULES(5, "A job is handed over: the calls that submit stores and loads do not move the rows themselves.")
def _handed(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(row=WIDE)
    for load in (False, True):
        jobs, done = [], 0
        trial.record(
            f"# {SLOTS} {'loads' if load else 'stores'} of 512 KiB, results taken as soon as each is handed in"
        )
        for key in range(SLOTS):
            if not load:
                drive.fill(key, key)
            jobs.append(drive.job([key], [key], load))
            (drive.tier.submit_load if load else drive.tier.submit_store)(jobs[-1])
            drive.finished()
            done += jobs[-1].job_id in drive.results
        for job in jobs:
            expect(drive.result(job).success, "every job to succeed", "one failed")
        what = "load" if load else "store"
        expect(done < SLOTS, f"a call that submits a {what} to return before it is done", "all were done by then")


@RULES(6, "Storing chunks that are held is a success and changes none.")
def _held(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1, 2])
    stored(drive, [2, 3, 1])
    states = drive.load([1, 2, 3], [5, 6, 7])
    expect(states == ["whole"] * 3, "every chunk", states)


@RULES(
    7, "A new request is answered with a `RequestOffloadingContext`; one that is not known may end; touch is harmless."
)
def _requests(trial: AdapterTrial) -> None:
    from vllm.v1.kv_offload.base import RequestOffloadingContext

    drive: Drive = trial.adapter()
    stored(drive, [1])
    trial.record(f"{drive.var}.tier.on_new_request(request('a'))")
    answer = trial.allows(lambda: drive.tier.on_new_request(request("a")), "on_new_request")
    expect(isinstance(answer, RequestOffloadingContext), "a RequestOffloadingContext", type(answer).__name__)
    trial.record(f"{drive.var}.tier.on_request_finished(request('nobody'))")
    trial.allows(lambda: drive.tier.on_request_finished(request("nobody")), "on_request_finished")
    found = drive.look([1, 2])
    expect(found == ["HIT", "MISS"], "['HIT', 'MISS']", found)


@RULES(8, "After `drain_jobs` every job has its result, and no row is written any more.")
def _drained(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(row=WIDE)
    for first in (0, 8):
        stored(drive, list(range(first, first + 8)))
    waiting: list[Any] = []
    for _ in tries(12, waiting):
        drive.wipe()
        jobs = [drive.job([key], [key], True) for key in range(SLOTS)]
        for job in jobs:
            drive.tier.submit_load(job)
        drive.finished()
        waiting += [job for job in jobs if job.job_id not in drive.results]
        trial.record(f"# {SLOTS} loads are handed in\n{drive.var}.tier.drain_jobs()")
        trial.within(drive.patience, drive.tier.drain_jobs, "drain_jobs")
        before = [drive.slot(slot) for slot in range(SLOTS)]
        drive.finished()
        left = [job.job_id for job in jobs if job.job_id not in drive.results]
        expect(not left, "a result for every job that was drained", f"none for {left}")
        after = [slot for slot in range(SLOTS) if drive.slot(slot) != before[slot]]
        expect(not after, "no row to be written after drain_jobs", f"rows {after}")
        for job, slot in zip(jobs, range(SLOTS), strict=True):
            good = not drive.results[job.job_id].success or drive.holds(slot, slot)
            expect(good, f"row {slot} as its result says", "other bytes")


@RULES(9, "What is told of as stored was stored, and what is told of as gone is not found.")
def _events(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    told: list[tuple[int, bool]] = []
    stored(drive, [1, 2, 3])

    def complete() -> bool:
        told.extend(drive.events())
        return len(told) >= 3

    drive.soon(complete)
    if not told:
        raise NotApplicable("it tells of nothing")
    trial.record(f"# events: {told}")
    expect(sorted(told) == [(1, False), (2, False), (3, False)], "chunks 1, 2 and 3, each stored", told)


@RULES(10, "Every metric that is told was defined.")
def _metrics(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1, 2])
    drive.load([1], [4])
    defined = type(drive.tier).build_metric_definitions({})
    seen: set[str] = set()
    for _ in range(50):
        drive.step()
        stats = drive.tier.get_stats()
        if stats is not None:
            seen |= set(_names(stats))
    trial.record(f"# metrics that were told: {sorted(seen)}")
    if not seen:
        raise NotApplicable("it tells no metrics")
    if not seen <= set(defined):
        violate("metrics by `build_metric_definitions`", f"undefined: {sorted(seen - set(defined))}")


def _names(stats: Any) -> list[str]:
    """Of a record, whatever release it is of."""
    if hasattr(stats, "metric_sections"):
        return list(stats.metric_sections()[1])
    return list(getattr(stats, "_values", None) or {**stats.counters, **stats.gauges})
