"""LMCache's memory and its loop: references are given back once, only what is lent is written, nothing blocks."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from lms_conformance import gauges
from lms_conformance.adapters.driven import CANARY, tries
from lms_conformance.adapters.lmcache_connector import RULES
from lms_conformance.adapters.lmcache_connector.drive import SOON, Drive
from lms_conformance.adapters.lmcache_connector.gate import Gate
from lms_conformance.adapters.lmcache_connector.layouts import key
from lms_conformance.adapters.lmcache_connector.loop import Call
from lms_conformance.adapters.lmcache_connector.rules_chunks import stored
from lms_conformance.adapters.trial import AdapterTrial, NotApplicable
from lms_conformance.violation import expect

#: Seconds that a turn of the loop takes only where something holds it up.
_HELD_UP: Final = 0.5
#: Turns of the loop in which a call that was cancelled, and waits for nothing, has ended.
_TURNS: Final = 20


@RULES(9, "Each reference to memory is given back once: after puts, again and again, gets, misses and look-ups.")
def _references(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    for n in (1, 2, 1):
        obj = drive.own(n)
        trial.record(f"# chunk {n} is put from memory that has one reference of LMCache's own")
        drive.run(drive.putting(key(n), obj), "a put")
        _only(drive, obj, "after a put")
        expect(drive.state(obj, n) == "whole", "the memory of a put to be as it was", drive.state(obj, n))
        obj.ref_count_down()
        drive.returned("after a put")
    for n in (1, 2, 77, 1):
        trial.record(f"# chunk {n} is got")
        obj = drive.run(lambda n=n: drive.connection.get(key(n)), "a get")  # type: ignore[misc]
        state, right = drive.state(obj, n), "miss" if n == 77 else "whole"
        expect(state == right, right, state)
        if obj is not None:
            _only(drive, obj, "of what was got")
            obj.ref_count_down()
        drive.returned("after a get")
    drive.leading([1, 2, 77])
    drive.returned("after a look-up")


def _only(drive: Drive, obj: Any, why: str) -> None:
    """The object has one reference, now or soon, and keeps it."""
    began = time.monotonic()
    while (count := obj.get_ref_count()) > 1 and time.monotonic() - began < drive.patience / SOON * gauges.busy():
        time.sleep(0.002)
    expect(count == 1, f"one reference {why}", count)
    drive.loop.turn()
    expect(obj.get_ref_count() == 1, f"one reference {why}", obj.get_ref_count())


@RULES(10, "Where a get has been answered its memory is LMCache's: nothing is written there any more.")
def _answered(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(layout="wide", chunks=4)
    stored(drive, [1, 2])
    trial.record("# chunks 1 and 2 are got, and what is got is overwritten")
    objs = [drive.run(lambda n=n: drive.connection.get(key(n)), "a get") for n in (1, 2)]  # type: ignore[misc]
    expect(None not in objs, "both chunks", "a miss")
    for obj in objs:
        drive.fill(obj, bytes([CANARY]) * obj.get_size())
    settle()
    changed = [n for n, obj in zip((1, 2), objs, strict=True) if bytes(obj.byte_array).strip(bytes([CANARY]))]
    for obj in objs:
        obj.ref_count_down()
    expect(not changed, "memory of an answered get to be left alone", f"that of chunks {changed} was written")


@RULES(11, "Where no memory can be had a get is a miss that raises nothing, and the chunk is got when there is some.")
def _no_memory(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1])
    trial.record(f"{drive.var}.memory.empty = True")
    drive.memory.empty = True
    states = [drive.get(1), *drive.get_leading([1])]
    expect(states == ["miss"], "a miss where no memory can be had", states)
    drive.returned("where no memory can be had")
    trial.record(f"{drive.var}.memory.empty = False")
    drive.memory.empty = False
    state = drive.get(1)
    expect(state == "whole", "the chunk where there is memory", state)


@RULES(12, "A get that is cancelled, wherever it was, gives back the memory that it took, and writes there no more.")
def _cancelled_get(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(layout="wide", chunks=4)
    stored(drive, [1])
    cancelled: list[Call] = []
    for n in tries(6, cancelled):
        where = ["after its first step", "where it takes memory", "a millisecond after it took memory"][n % 3]
        trial.record(f"# chunk 1 is got, and cancelled {where}")
        called: list[Call] = []
        if n % 3:
            drive.memory.watcher = lambda called=called, after=n % 3 // 2 / 1000: called[0].cancel(after)
        call = drive.begin(lambda: drive.connection.get(key(1)), called, cancel=n % 3 == 0)
        obj = call.left("a get that was cancelled")
        drive.memory.watcher = lambda: None
        cancelled += [call] * call.cancelled
        if obj is not None:  # it was done before it was told
            obj.ref_count_down()
        drive.returned("by a get that was cancelled")
        arena, lent = drive.memory.arena, len(drive.memory.arena.lent)
        drive.memory.wipe()
        settle()
        changed = int((arena.buffer != CANARY).sum())
        again = len(arena.lent) > lent  # a thread came to the memory only now: what it writes there is its own
        expect(again or not changed, "memory that was given back to be left alone", f"{changed} bytes were written")
        drive.returned("by a get that was cancelled")
    if not cancelled:
        raise NotApplicable("every get was done before it could be cancelled")
    state = drive.get(1)
    expect(state == "whole", "the chunk after all that", state)


@RULES(13, "Of a put that is cancelled the memory is held as long as it is read, and given back once.")
def _cancelled_put(trial: AdapterTrial) -> None:
    if "stalling" in trial.have:
        _stalled_put(trial)
    _held_up_put(trial)
    drive: Drive = trial.adapter(layout="wide", chunks=4)
    cancelled: list[Call] = []
    other = drive.layout.content(99, drive.layout.tokens, 9)
    numbers = []
    for n in tries(6, cancelled):
        obj = drive.own(n)
        trial.record(f"# chunk {n} is put, and cancelled after its first step; then its memory is overwritten")
        call = drive.begin(drive.putting(key(n), obj), cancel=True)
        call.left("a put that was cancelled")
        cancelled += [call] * call.cancelled
        numbers.append(n)
        _only(drive, obj, "after a put that was cancelled")
        drive.fill(obj, other)
        obj.ref_count_down()
        drive.returned("by a put that was cancelled")
    settle()
    for n in numbers:
        state = drive.get(n)
        expect(state in ("whole", "miss"), f"chunk {n} as it was, or a miss", state)
    if not cancelled:
        raise NotApplicable("every put was done before it could be cancelled")


def _held_up_put(trial: AdapterTrial) -> None:
    """A thread that comes to the bytes of a put is held up there until the put is cancelled: it needs a reference.

    However fast it would read, and however busy the machine is.
    """
    drive: Drive = trial.adapter()
    obj = drive.own(1)
    trial.record("# chunk 1 is put and cancelled after its first step; who reads its memory is held up until then")
    gate = Gate(obj, [drive.loop.thread, threading.current_thread()])
    try:
        call = drive.begin(drive.putting(key(1), obj), cancel=True)
        for _ in range(_TURNS):  # one that waits for its thread does not end in these, and need have no reference
            drive.loop.turn()
        if call.cancelled and obj.get_ref_count() == 1:
            came = gate.came.wait(_HELD_UP * gauges.busy())
            expect(
                not came, "who reads the memory of a put that was cancelled to have a reference to it", "it has none"
            )
    finally:
        gate.open()
    call.left("a put that was cancelled")
    _only(drive, obj, "after a put that was cancelled")
    obj.ref_count_down()
    drive.returned("by a put that was cancelled")
    trial.shut(drive)


def _stalled_put(trial: AdapterTrial) -> None:
    """The same where a put is cancelled while it waits for its medium, and reads its memory afterwards, if at all."""
    drive: Drive = trial.adapter(stalling=True)
    obj = drive.own(1)
    trial.record("# chunk 1 is put, and cancelled while it waits; when its memory is LMCache's it is overwritten")
    call = drive.begin(drive.putting(key(1), obj))
    call.cancel(0.1)
    call.left("a put that was cancelled")
    _only(drive, obj, "after a put that was cancelled")
    drive.fill(obj, drive.layout.content(99, drive.layout.tokens, 9))
    obj.ref_count_down()
    for _ in range(3):  # each waits for the medium as well: the last is behind the put
        state = drive.get(1)
        expect(state in ("whole", "miss"), "chunk 1 as it was, or a miss", state)
    drive.returned("by a put that was cancelled")
    trial.shut(drive)


@RULES(14, "A call is handed over: puts and gets are not done in the first step that they take on LMCache's loop.")
def _handed(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(layout="wide")
    objs = [drive.own(n) for n in range(8)]
    trial.record("# 8 puts of 1 MiB are begun, then 8 gets")
    puts = [drive.begin(drive.putting(key(n), obj)) for n, obj in enumerate(objs)]
    for put in puts:
        put.wait("a put")
    gets = [drive.begin(lambda n=n: drive.connection.get(key(n))) for n in range(8)]  # type: ignore[misc]
    got = [get.wait("a get") for get in gets]
    states = [drive.state(obj, n) for n, obj in enumerate(got)]
    for obj in [*objs, *got]:
        if obj is not None:
            obj.ref_count_down()
    for what, calls in (("put", puts), ("get", gets)):
        expect(not all(c.at_once for c in calls), f"a {what} to leave the loop to others", "all were done in one step")
    expect(states == ["whole"] * 8, "every chunk", states)


@RULES(15, "While its medium does not answer LMCache's loop turns, whatever was called.", needs=["stalling"])
def _stalled(trial: AdapterTrial) -> None:
    failed: list[str] = []
    for _ in range(3):  # what a busy machine holds up is not held up three times
        waited, failed = _turns(trial)
        if not failed:
            break
    expect(not failed, "LMCache's loop to turn while the medium keeps calls waiting", f"it stood still in {failed}")
    if not waited:
        raise NotApplicable("no call waited for its medium")


def _turns(trial: AdapterTrial) -> tuple[list[str], list[str]]:
    """Which calls were left to wait, and which the loop waited for."""
    drive: Drive = trial.adapter(stalling=True)
    obj = drive.own(1)
    makes = {
        "put": drive.putting(key(1), obj),
        "get": lambda: drive.connection.get(key(2)),
        "exists": lambda: drive.connection.exists(key(3)),
        "batched_async_contains": lambda: drive.connection.batched_async_contains("lookup", [key(4), key(5)]),
        "batched_get_non_blocking": lambda: drive.connection.batched_get_non_blocking("lookup", [key(6)]),
    }
    trial.record(f"# {', '.join(makes)} are begun, and the loop is to turn after each")
    calls, waited, failed = [], [], []
    for name, make in makes.items():
        longest, began = 0.0, time.monotonic()
        calls.append(drive.begin(make))
        for _ in range(5):
            now = time.monotonic()
            longest, began = max(longest, now - began), now
            drive.loop.turn()
        longest = max(longest, time.monotonic() - began)
        if not calls[-1].done:
            waited.append(name)
        elif longest > _HELD_UP:
            failed.append(name)
    for call in calls:
        call.left("a call")
    obj.ref_count_down()
    trial.shut(drive)
    return waited, failed


def settle() -> None:
    """Let every thread that was running go on for a while: what has still to be written is written by then."""
    still = threading.Event()
    for _ in range(20):
        still.wait(0.005)
