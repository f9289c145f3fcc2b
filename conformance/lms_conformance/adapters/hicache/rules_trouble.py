"""What fails, is damaged or closed: a doubtful page is a miss, and nothing is raised into SGLang's threads."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Final

import torch

from lms_conformance import gauges
from lms_conformance.adapters.driven import content, tries
from lms_conformance.adapters.hicache import RULES
from lms_conformance.adapters.hicache.drive import Drive
from lms_conformance.adapters.hicache.harness import HiCacheHarness
from lms_conformance.adapters.hicache.rules_pages import Case, cases, opened, stored
from lms_conformance.adapters.trial import PATIENCE, AdapterTrial, NotApplicable
from lms_conformance.violation import expect, violate

#: Width of a head where pages are to be of some hundred KiB.
WIDE: Final = 4096
#: Bytes up to which files may grow where the medium takes no more: less than such a page.
ROOM: Final = 64 * 1024


def _right(drive: Drive, keys: list[int], why: str) -> list[bool]:
    """Load pages into the first slots; what came is right. Which came."""
    there = drive.load(keys, range(len(keys)))
    wrong = [key for slot, key in enumerate(keys) if there[slot] and not drive.holds(slot, key)]
    expect(not wrong, f"a miss, or the page as it was stored, {why}", f"other bytes for pages {wrong}")
    expect(not drive.touched(*range(len(keys))), "no slot beside to be written", drive.touched(*range(len(keys))))
    drive.wipe()
    return there


@RULES(9, "A store that failed is not seen: no `exists`, no load; with room again it works.")
def _full(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(width=WIDE)
    stored(drive, [1])
    trial.keeps(drive)
    with trial.full(drive, ROOM):
        said = {key: drive.save([key])[0] for key in (2, 3)}
        for key, good in said.items():
            # Before the load, which may remove what is doubtful.
            told = drive.exist([key]), drive.leading([key])
            there = _right(drive, [key], "on a medium that takes no more")[0]
            expect(there or not good, f"page {key}, whose store succeeded, to be loaded", "a miss")
            if not good:
                expect(told == ([False], 0), f"page {key}, whose store failed, not to exist", told)
                expect(not there, f"page {key}, whose store failed, to be a miss", "a hit")
        _right(drive, [1], "on a medium that takes no more")
    if all(said.values()):
        raise NotApplicable("its medium took every page where no file could grow")
    began = time.monotonic()
    while not drive.save([2])[0]:
        late = time.monotonic() - began > PATIENCE * gauges.busy()
        expect(not late, "stores to succeed where there is room again", f"none for {PATIENCE:g} s")
    expect(_right(drive, [2], "where there is room again") == [True], "page 2 to be loaded", "a miss")


def _kept(trial: AdapterTrial, keys: list[int], **how: Any) -> Drive:
    """Pages in the files of a backend that is closed."""
    drive: Drive = trial.adapter(**how)
    stored(drive, keys)
    trial.shut(drive)
    trial.keeps(drive)
    return drive


@RULES(10, "A byte that was flipped on the medium is not read: its page is a miss.")
def _flipped(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3, 4], width=1024)
    for key in (1, 2):
        done = trial.harness.corrupt(drive.path, content(key, drive.nbytes))
        expect(done, "stored bytes to damage", "nothing stored")
        trial.record(f"# bytes of page {key} are flipped in its file")
    again = trial.adapter(drive.path, width=1024)
    there = _right(again, [1, 2, 3, 4], "of flipped bytes")
    told = again.exist([1, 2, 3, 4])
    bad = [key for key, here, said in zip((1, 2, 3, 4), there, told, strict=True) if said and not here]
    expect(not bad, "a page that could not be read not to exist any more", f"pages {bad} exist")


@RULES(11, "Of files cut short nothing wrong is read, and nothing is raised.")
def _cut(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3, 4], width=1024)
    expect(trial.harness.truncate(drive.path), "files to cut", "nothing stored")
    trial.record("# a third is cut off every file")
    again = trial.adapter(drive.path, width=1024)
    _right(again, [1, 2, 3, 4], "of files cut short")
    again.exist([1, 2, 3, 4])


@RULES(12, "While its medium fails at random, not one byte is wrong and no slot beside is written.", needs=["failing"],
       given=lambda: cases("save", "load", "look", "load"), weight=2)  # fmt: skip
def _failing(trial: AdapterTrial, case: Case) -> None:
    drive = opened(trial, case, failing=True)
    for kind, keys, slots in case.steps:
        if kind == "save":
            drive.save(keys, slots)
        elif kind == "look":
            drive.leading(keys)
        else:
            there = drive.load(keys, slots)
            for key, slot, good in zip(keys, slots, there, strict=True):
                expect(not good or drive.holds(slot, key), f"a miss, or page {key} in slot {slot}", "other bytes")
            expect(not drive.touched(*slots), f"only slots {list(slots)} to be written", drive.touched(*slots))
            drive.wipe()


# -- from one opening to the next --------------------------------------------------------------------------------------


@RULES(13, "What was stored is there when the backend is opened again at its place.")
def _again(trial: AdapterTrial) -> None:
    harness = trial.harness
    assert isinstance(harness, HiCacheHarness)
    drive = _kept(trial, [1, 2, 3])
    for way in harness.ways:
        again: Drive = trial.adapter(drive.path, way=way)
        expect(again.leading([1, 2, 3, 4]) == 3, "3 leading pages, whichever way stored them", again.leading([1, 2, 3]))
        expect(all(_right(again, [3, 1, 2], "after opening again")), "every page to be loaded", "misses")
        trial.shut(again)


@RULES(14, "Pages whose stores had been answered when the process was killed are there afterwards, whole.")
def _killed(trial: AdapterTrial) -> None:
    _kept(trial, [1])
    path = trial.directory()
    trial.killed(["save([1, 2, 3, 4])", "save([5, 6])"], path)
    drive: Drive = trial.adapter(path)
    there = _right(drive, [1, 2, 3, 4, 5, 6, 7], "after the kill")
    if not any(there):
        raise NotApplicable("nothing that is stored reaches its medium before the end")
    expect(there == [True] * 6 + [False], "the six pages that were stored", there)


# -- the end -----------------------------------------------------------------------------------------------------------


def _indexed(trial: AdapterTrial) -> str:
    harness = trial.harness
    assert isinstance(harness, HiCacheHarness)
    for way in harness.ways:
        if way != "flat":
            return way
    raise NotApplicable("it moves flat tensors only, which SGLang copies")


@RULES(15, "When `close` has returned, no slot is written any more.", needs=["close"])
def _closed(trial: AdapterTrial) -> None:
    way, keys = _indexed(trial), list(range(12))
    overlapped: list[Drive] = []
    for _ in tries(max(3, trial.profile.rounds // 8), overlapped):
        drive: Drive = trial.adapter(way=way, width=WIDE)
        stored(drive, keys)
        memory = drive.pool.kv_buffer.view(torch.uint8).view(-1)  # as bytes: what is no number equals nothing
        step = memory.numel() // 64
        clean = memory[::step].clone()
        loading = threading.Thread(target=_quietly, args=(drive, keys), daemon=True)
        loading.start()
        while loading.is_alive() and torch.equal(memory[::step], clean):
            """Until the first byte of the load is seen."""
        overlapped += [drive] * loading.is_alive()
        trial.shut(drive)
        before = memory.clone()
        loading.join(PATIENCE)
        expect(
            torch.equal(memory, before),
            "host memory to be left alone once close has returned",
            "a slot was written afterwards",
        )
    if not overlapped:
        raise NotApplicable("no load was still under way when close was called")


def _quietly(drive: Drive, keys: list[int]) -> None:
    record, drive.record = drive.record, None
    with contextlib.suppress(Exception):  # a call that close overtook may say so
        drive.load(keys, keys)
    drive.record = record


@RULES(16, "After `close` nothing is found and no slot is written, and closing once more is harmless.", needs=["close"])
def _after(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1, 2])
    trial.shut(drive)
    trial.record(f"{drive.var}.close()")
    trial.within(PATIENCE, lambda: trial.allows(drive.close, "closing once more"), "closing once more")
    drive.record, found = None, [False, False]
    with contextlib.suppress(Exception):  # saying so is fair: SGLang has left by then
        found = drive.load([1, 2], [5, 6])
    expect(found == [False, False], "misses after close", found)
    expect(not drive.touched(), "no slot to be written after close", drive.touched())


@RULES(17, "After `clear` none of this run's pages is found, and new ones are stored.", needs=["clear"])
def _cleared(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1, 2, 3])
    drive.clear()
    expect(drive.exist([1, 2, 3]) == [False] * 3, "no page to exist", "one does")
    expect(_right(drive, [1, 2, 3], "after clear") == [False] * 3, "misses", "a hit")
    stored(drive, [2, 4])
    expect(_right(drive, [2, 4, 1], "after clear") == [True, True, False], "the new pages, and no other", "others")


@RULES(18, "Backups and prefetches beside each other read no byte that was not stored.")
def _threads(trial: AdapterTrial) -> None:
    harness = trial.harness
    assert isinstance(harness, HiCacheHarness)
    rounds = trial.profile.rounds * 4
    for way in harness.ways:
        drive: Drive = trial.adapter(way=way)
        wrong: list[int] = []

        def backup(drive: Drive = drive) -> None:
            for i in range(rounds):
                keys = [(i + j) % 8 for j in range(4)]
                for slot, key in enumerate(keys):
                    drive.fill(slot, content(key, drive.nbytes))
                drive.put(keys, range(4))

        def prefetch(drive: Drive = drive, wrong: list[int] = wrong) -> None:
            record, drive.record = drive.record, None
            for i in range(rounds):
                keys = [(i * 3 + j) % 8 for j in range(4)]
                slots = range(8, 12)
                there = drive.load(keys, slots)
                wrong += [k for k, s, t in zip(keys, slots, there, strict=True) if t and not drive.holds(s, k)]
            drive.record = record

        trial.record(f"# {rounds} backups and as many prefetches of 4 of 8 pages, a thread each, by {way}")
        try:
            trial.threads([backup, prefetch], 120, "backups and prefetches")
        except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
            violate("nothing to be raised into SGLang's threads", f"{type(error).__name__}: {error}")
        expect(not wrong, "every page as it was stored", f"other bytes for pages {sorted(set(wrong))}")
