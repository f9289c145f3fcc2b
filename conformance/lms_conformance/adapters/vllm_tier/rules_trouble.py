"""What fails, is damaged, killed or closed, and whose rows they are."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from lms_conformance import gauges
from lms_conformance.adapters.driven import content, tries
from lms_conformance.adapters.trial import PATIENCE, AdapterTrial, NotApplicable
from lms_conformance.adapters.vllm_tier import RULES
from lms_conformance.adapters.vllm_tier.drive import ROW, SLOTS, Drive
from lms_conformance.adapters.vllm_tier.rules_rows import WIDE, Step, programs, stored
from lms_conformance.violation import Violation, expect

#: Bytes up to which files may grow where the medium takes no more: less than a wide row.
ROOM: Final = 64 * 1024


def _right(states: list[str], why: str) -> None:
    expect("wrong" not in states, f"a failure, or the chunk as it was stored, {why}", states)


@RULES(11, "A store that failed is not seen: it comes to MISS, and its load fails; with room again it works.")
def _full(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(row=WIDE)
    stored(drive, [1])
    trial.keeps(drive)
    with trial.full(drive, ROOM):
        good = {key: drive.store([key]) for key in (2, 3)}
        for key, held in good.items():
            found, states = drive.look([key]), drive.load([key], [5], f"load {key}")
            drive.wipe()
            _right(states, "on a medium that takes no more")
            if held:
                expect(states == ["whole"], f"chunk {key}, whose store succeeded", states)
            else:
                expect((found, states) == (["MISS"], ["failed"]), f"chunk {key}, whose store failed, to be a MISS",
                       (found, states))  # fmt: skip
    if all(good.values()):
        raise NotApplicable("its medium took every row where no file could grow")
    began = time.monotonic()
    while not drive.store([2]):
        late = time.monotonic() - began > PATIENCE * gauges.busy()
        expect(not late, "stores to succeed where there is room again", f"none for {PATIENCE:g} s")
    states = drive.load([2], [6], "again")
    expect(states == ["whole"], "chunk 2 where there is room again", states)


def _kept(trial: AdapterTrial, keys: list[int], **how: Any) -> Drive:
    drive: Drive = trial.adapter(**how)
    stored(drive, keys)
    trial.shut(drive)
    trial.keeps(drive)
    return drive


@RULES(12, "A byte that was flipped on the medium is not read: its load fails.")
def _flipped(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3, 4], row=WIDE)
    for key in (1, 2):
        done = trial.harness.corrupt(drive.path, content(key, WIDE))
        expect(done, "stored bytes to damage", "nothing stored")
        trial.record(f"# bytes of chunk {key} are flipped in its file")
    again: Drive = trial.adapter(drive.path, row=WIDE)
    for key in (1, 2, 3, 4):
        _right(again.load([key], [key], f"load {key}"), "of flipped bytes")
        again.wipe()


@RULES(13, "Of files cut short nothing wrong is read, and a chunk whose load failed comes to MISS next.")
def _cut(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3, 4], row=WIDE)
    expect(trial.harness.truncate(drive.path), "files to cut", "nothing stored")
    trial.record("# a third is cut off every file")
    again: Drive = trial.adapter(drive.path, row=WIDE)
    for key in (1, 2, 3, 4):
        again.look([key], f"request {key}")
        states = again.load([key], [key], f"request {key}")
        _right(states, "of files cut short")
        if states == ["failed"]:
            found = again.look([key], f"request {key}")
            expect(
                found == ["MISS"], "MISS for the request whose load has failed, or it would try again for ever", found
            )
        again.end_of(f"request {key}")
        again.wipe()


@RULES(14, "While its medium fails at random, not one byte is wrong and no row beside is written.", needs=["failing"],
       given=lambda: programs("store", "load", "look", "load"), weight=2)  # fmt: skip
def _failing(trial: AdapterTrial, steps: list[Step]) -> None:
    drive: Drive = trial.adapter(failing=True)

    def load(keys: list[int], slots: list[int]) -> None:
        _right(drive.load(keys, slots, f"load {drive.jobs}"), "of a medium that fails")
        drive.wipe()

    for kind, keys, slots in steps:
        if kind == "store":
            drive.store(keys, slots)
        elif kind == "look":
            drive.look(keys)
        else:
            load(keys, slots)
    # What is loaded above is seldom what was stored: of every chunk that may be held a load is tried once more.
    for key in sorted({key for kind, keys, _ in steps if kind == "store" for key in keys}):
        load([key], [key % SLOTS])


@RULES(15, "What was stored is there when the tier is opened again at its place.")
def _again(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3])
    again: Drive = trial.adapter(drive.path)
    found, states = again.look([1, 2, 3, 4]), again.load([3, 1, 2], [5, 6, 7])
    expect(found == ["HIT", "HIT", "HIT", "MISS"], "three hits and a miss", found)
    expect(states == ["whole"] * 3, "every chunk", states)


@RULES(16, "Chunks whose stores had been reported when the process was killed are there afterwards, whole.")
def _killed(trial: AdapterTrial) -> None:
    _kept(trial, [1])
    path = trial.directory()
    trial.killed(["store([1, 2, 3, 4])", "store([5, 6])"], path)
    drive: Drive = trial.adapter(path)
    found = drive.look([1, 2, 3, 4, 5, 6, 7])
    expect(found == ["HIT"] * 6 + ["MISS"], "six hits and a miss", found)
    states = drive.load([6, 5, 4, 3, 2, 1], list(range(6)))
    expect(states == ["whole"] * 6, "the six chunks that were stored", states)


@RULES(17, "When `shutdown` has returned, no row is written any more and no view of the primary tier is kept.")
def _closed(trial: AdapterTrial) -> None:
    overlapped: list[Drive] = []
    for _ in tries(max(3, trial.profile.rounds // 8), overlapped):
        drive: Drive = trial.adapter(row=4 * WIDE)
        stored(drive, list(range(SLOTS)))
        trial.record(f"# {SLOTS} loads of 2 MiB are handed in, and the tier is shut down at the first byte")
        for key in range(SLOTS):
            drive.tier.submit_load(drive.job([key], [key], True))
        began = time.monotonic()
        while not _begun(drive) and time.monotonic() - began < PATIENCE:
            """Until the first byte of a load is seen."""
        overlapped += [drive] * (len(_begun(drive)) < SLOTS)
        trial.record(f"{drive.var}.tier.shutdown()")
        trial.within(PATIENCE, lambda drive=drive: trial.allows(drive.tier.shutdown, "shutdown"), "shutdown")  # type: ignore[misc]
        before = bytes(drive.primary.memory)
        _settle()
        changed = bytes(drive.primary.memory) != before
        drive.tier.shutdown = lambda: None
        expect(not changed, "rows to be left alone once shutdown has returned", "one was written afterwards")
        trial.shut(drive)  # a view that is kept is a violation there
    if not overlapped:
        raise NotApplicable("no load was still under way when shutdown was called")


def _begun(drive: Drive) -> list[int]:
    """Rows of which the last bytes have come."""
    ends = [(slot + 1) * drive.row for slot in range(drive.slots)]
    return [slot for slot, end in enumerate(ends) if drive.primary.memory[end - 4 : end] != b"\xa5" * 4]


def _settle() -> None:
    """Let every thread that was running go on for a while: what has still to be written is written by then."""
    still = threading.Event()
    for _ in range(20):
        still.wait(0.005)


# -- whose rows they are -----------------------------------------------------------------------------------------------


def _foreign(trial: AdapterTrial, *others: dict[str, Any]) -> None:
    """Chunks of one run are misses for each of the others at the same place, and stay there for their own."""
    drive: Drive = trial.adapter()
    stored(drive, [1, 2])
    last: Drive = trial.again(drive)
    if last.look([1, 2]) != ["HIT", "HIT"]:
        raise NotApplicable("it keeps nothing from one opening to the next")
    for other in others:
        trial.shut(last)
        try:
            last = trial.adapter(drive.path, **other)
        except Violation as refused:  # to refuse is to keep apart
            trial.record(f"# refused: {refused.got}".replace("\n", " "))
            last = trial.adapter(drive.path)
            continue
        found, states = last.look([1, 2]), last.load([1, 2], [3, 4])
        expect(found == ["MISS", "MISS"], f"misses with {other}", found)
        expect(states == ["failed", "failed"], f"failures with {other}", states)
    back: Drive = trial.again(last)
    states = back.load([1, 2], [3, 4])
    expect(states == ["whole", "whole"], "the chunks to be there for their own run", states)


@RULES(18, "Chunks of another dtype, or of rows of another length, are a MISS.")
def _dtype(trial: AdapterTrial) -> None:
    _foreign(trial, {"dtype": "float16"}, {"row": ROW + 4096}, {"row": ROW - 4096})


@RULES(19, "Chunks of another layout of the KV cache are a MISS.")
def _layout(trial: AdapterTrial) -> None:
    _foreign(trial, {"kv_cache_layout": "LBHNC"}, {"canonical_layout": True})


@RULES(20, "Chunks of another model, block length or set of layers are a MISS.")
def _model(trial: AdapterTrial) -> None:
    _foreign(trial, {"name": "llama-2"}, {"name": "llama/"}, {"tokens_per_hash": 32}, {"layers": ("l0",)})


@RULES(21, "Chunks of another topology are a MISS.")
def _topology(trial: AdapterTrial) -> None:
    _foreign(trial, {"tp_size": 2, "world_size": 2}, {"pp_size": 2, "world_size": 2})
