"""What fails, is damaged, killed or closed: a doubtful object is a miss, and only lent memory is touched."""

from __future__ import annotations

import threading
import time
from typing import Final

from lms_conformance import gauges
from lms_conformance.adapters.driven import content, tries
from lms_conformance.adapters.lmcache_l2 import RULES
from lms_conformance.adapters.lmcache_l2.drive import EMPTY, GUARD, Drive, Slot, key
from lms_conformance.adapters.lmcache_l2.rules_objects import Step, listening, programs, stored, told_of
from lms_conformance.adapters.trial import PATIENCE, AdapterTrial, NotApplicable
from lms_conformance.violation import expect

#: Bytes up to which files may grow where the medium takes no more: less than a wide object.
ROOM: Final = 64 * 1024


def _right(states: list[str], why: str) -> None:
    bad = [state for state in states if state in ("wrong", "beside")]
    expect(not bad, f"a miss, or the object as it was stored, {why}", states)


@RULES(15, "A store that failed is not seen: no look-up, no load, nothing told; with room again it works.")
def _full(trial: AdapterTrial) -> None:
    drive = listening(trial)
    stored(drive, [1], "wide")
    trial.keeps(drive)
    with trial.full(drive, ROOM):
        good = {n: drive.store([n], "wide") for n in (2, 3)}
        for n, held in good.items():
            there, states = drive.look([n], "wide"), drive.load([n], "wide")
            drive.unlock([n])
            _right(states, "on a medium that takes no more")
            if held:
                expect(states == ["whole"], f"object {n}, whose store succeeded", states)
            else:
                expect(there == [False], f"object {n}, whose store failed, not to be found", there)
                expect("whole" not in states, f"object {n}, whose store failed, to be a miss", states)
                expect(n not in told_of(drive), f"object {n}, whose store failed, not to be told", "it was")
    if all(good.values()):
        raise NotApplicable("its medium took every object where no file could grow")
    began = time.monotonic()
    while not drive.store([2], "wide"):
        late = time.monotonic() - began > PATIENCE * gauges.busy()
        expect(not late, "stores to succeed where there is room again", f"none for {PATIENCE:g} s")
    states = drive.load([2], "wide")
    expect(states == ["whole"], "object 2 where there is room again", states)


def _kept(trial: AdapterTrial, numbers: list[int], kind: str = "wide") -> Drive:
    drive: Drive = trial.adapter()
    stored(drive, numbers, kind)
    trial.shut(drive)
    trial.keeps(drive)
    return drive


@RULES(16, "A byte that was flipped on the medium is not read: its object is a miss.")
def _flipped(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3, 4])
    for n in (1, 2):
        done = trial.harness.corrupt(drive.path, content(n, Slot("wide").nbytes))
        expect(done, "stored bytes to damage", "nothing stored")
        trial.record(f"# bytes of object {n} are flipped in its file")
    again: Drive = trial.adapter(drive.path)
    _right(again.load([1, 2, 3, 4], "wide"), "of flipped bytes")
    _right(again.use([1, 2, 3, 4], "wide"), "of flipped bytes")


@RULES(17, "Of files cut short nothing wrong is read, and nothing is raised.")
def _cut(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3, 4])
    expect(trial.harness.truncate(drive.path), "files to cut", "nothing stored")
    trial.record("# a third is cut off every file")
    again: Drive = trial.adapter(drive.path)
    _right(again.load([1, 2, 3, 4], "wide"), "of files cut short")
    again.use([1, 2, 3, 4], "wide")


@RULES(18, "While its medium fails at random, not one byte is wrong and none beside is written.", needs=["failing"],
       given=lambda: programs("store", "load", "use", "use"), weight=2)  # fmt: skip
def _failing(trial: AdapterTrial, case: tuple[str, list[Step]]) -> None:
    kind, steps = case
    drive: Drive = trial.adapter(failing=True)
    for what, numbers in steps:
        if what == "store":
            drive.store(numbers, kind)
        elif what == "load":
            _right(drive.load(numbers, kind), "of a medium that fails")
        else:
            _right(drive.use(numbers, kind), "of a medium that fails")


@RULES(19, "What was stored is there when the adapter is opened again at its place.")
def _again(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3], "one")
    again: Drive = trial.adapter(drive.path)
    there, states = again.look([1, 2, 3, 4]), again.load([3, 1, 2])
    expect(there == [True, True, True, False], "[True, True, True, False]", there)
    expect(states == ["whole"] * 3, "every object", states)


@RULES(20, "Objects whose stores had been answered when the process was killed are there afterwards, whole.")
def _killed(trial: AdapterTrial) -> None:
    _kept(trial, [1], "one")
    path = trial.directory()
    trial.killed(["store([1, 2, 3, 4])", "store([5, 6])"], path)
    drive: Drive = trial.adapter(path)
    states = drive.use([1, 2, 3, 4, 5, 6, 7])
    expect(states == ["whole"] * 6 + ["absent"], "the six objects that were stored", states)


@RULES(21, "When `close` has returned, no memory is written any more, and none was beside.")
def _closed(trial: AdapterTrial) -> None:
    overlapped: list[Drive] = []
    count = 16
    for _ in tries(max(3, trial.profile.rounds // 8), overlapped):
        drive: Drive = trial.adapter()
        stored(drive, list(range(count)), "wide")
        slots = [Slot("wide") for _ in range(count)]
        trial.record(f"# {count} loads of 1 MiB are handed in, and the adapter is closed at the first byte")
        for n, slot in enumerate(slots):
            drive.adapter.submit_load_task([key(n)], [slot.obj])
        began = time.monotonic()
        while not any(_begun(slot) for slot in slots) and time.monotonic() - began < PATIENCE:
            """Until the first byte of a load is seen."""
        overlapped += [drive] * (not all(_begun(slot) for slot in slots))
        trial.shut(drive)
        before = [slot.memory.clone() for slot in slots]
        _settle()
        changed = [n for n, slot in enumerate(slots) if not bool((slot.memory == before[n]).all())]
        expect(not changed, "memory to be left alone once close has returned", f"objects {changed} were written")
        beside = [n for n, slot in enumerate(slots) if slot.state(n, True) == "beside"]
        expect(not beside, "no byte beside to be written", f"objects {beside}")
    if not overlapped:
        raise NotApplicable("no load was still under way when close was called")


def _begun(slot: Slot) -> bool:
    return int(slot.memory[GUARD]) != EMPTY or int(slot.memory[GUARD + slot.nbytes - 1]) != EMPTY


def _settle() -> None:
    """Let every thread that was running go on for a while: what has still to be written is written by then."""
    still = threading.Event()
    for _ in range(20):
        still.wait(0.005)
