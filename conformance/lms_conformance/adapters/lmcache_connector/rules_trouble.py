"""What fails, is damaged, killed or closed: a doubtful chunk is a miss, and no reference is lost."""

from __future__ import annotations

import threading
import time
from typing import Final

from lms_conformance import gauges
from lms_conformance.adapters.driven import tries
from lms_conformance.adapters.lmcache_connector import RULES
from lms_conformance.adapters.lmcache_connector.drive import Drive
from lms_conformance.adapters.lmcache_connector.layouts import LAYOUTS, key
from lms_conformance.adapters.lmcache_connector.loop import Call, Make
from lms_conformance.adapters.lmcache_connector.rules_chunks import Step, programs, stored
from lms_conformance.adapters.lmcache_connector.rules_memory import settle
from lms_conformance.adapters.trial import PATIENCE, AdapterTrial, NotApplicable
from lms_conformance.violation import expect

#: Bytes up to which files may grow where the medium takes no more: less than a wide chunk.
ROOM: Final = 64 * 1024


def _right(drive: Drive, numbers: list[int], why: str) -> list[str]:
    states = [drive.get(n) for n in numbers]
    bad = [state for state in states if state not in ("whole", "miss")]
    expect(not bad, f"a miss, or the chunk as it was put, {why}", states)
    return states


@RULES(16, "A put that failed is not seen: no look-up, no get; it keeps no memory, and with room again it works.")
def _full(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(layout="wide")
    stored(drive, [1])
    trial.keeps(drive)
    with trial.full(drive, ROOM):
        good = {n: drive.put(n) for n in (2, 3)}
        for n, held in good.items():
            there = drive.exists(n)  # before the get, which may remove what is doubtful
            (state,) = _right(drive, [n], "on a medium that takes no more")
            right = (True, "whole") if held else (False, "miss")
            expect((there, state) == right, f"chunk {n}, whose put {'succeeded' if held else 'failed'}: {right}",
                   (there, state))  # fmt: skip
        drive.returned("by puts that failed")
    if all(good.values()):
        raise NotApplicable("its medium took every chunk where no file could grow")
    began = time.monotonic()
    while not drive.put(2):
        late = time.monotonic() - began > PATIENCE * gauges.busy()
        expect(not late, "puts to succeed where there is room again", f"none for {PATIENCE:g} s")
    states = _right(drive, [2], "where there is room again")
    expect(states == ["whole"], "chunk 2 where there is room again", states)


def _kept(trial: AdapterTrial, numbers: list[int], layout: str = "wide") -> Drive:
    drive: Drive = trial.adapter(layout=layout)
    stored(drive, numbers)
    trial.shut(drive)
    trial.keeps(drive)
    return drive


@RULES(17, "A byte that was flipped on the medium is not read: its chunk is a miss.")
def _flipped(trial: AdapterTrial) -> None:
    drive, layout = _kept(trial, [1, 2, 3, 4]), LAYOUTS["wide"]
    for n in (1, 2):
        done = trial.harness.corrupt(drive.path, layout.content(n, layout.tokens, 0))
        expect(done, "stored bytes to damage", "nothing stored")
        trial.record(f"# bytes of chunk {n} are flipped in its file")
    again: Drive = trial.adapter(drive.path, layout="wide")
    _right(again, [1, 2, 3, 4], "of flipped bytes")
    again.returned("by gets of flipped bytes")


@RULES(18, "Of files cut short nothing wrong is read, nothing is raised and no memory is kept.")
def _cut(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3, 4])
    expect(trial.harness.truncate(drive.path), "files to cut", "nothing stored")
    trial.record("# a third is cut off every file")
    again: Drive = trial.adapter(drive.path, layout="wide")
    _right(again, [1, 2, 3, 4], "of files cut short")
    again.leading([1, 2, 3, 4])
    again.returned("by gets of files cut short")


@RULES(19, "While its medium fails at random not one byte is wrong, gets raise nothing, and no memory is kept.",
       needs=["failing"], given=lambda: programs("put", "get", "get"), weight=2)  # fmt: skip
def _failing(trial: AdapterTrial, case: tuple[str, list[Step]]) -> None:
    layout, steps = case
    drive: Drive = trial.adapter(layout=layout, failing=True)
    for what, numbers in steps:
        if what == "put":
            for n in numbers:
                drive.put(n)
        else:
            _right(drive, numbers, "of a medium that fails")
    drive.returned("by calls that failed")


@RULES(20, "What was put is there when the connector is opened again at its place.")
def _again(trial: AdapterTrial) -> None:
    drive = _kept(trial, [1, 2, 3], "one")
    again: Drive = trial.adapter(drive.path)
    count, states = again.leading([1, 2, 3, 4]), [again.get(n) for n in (3, 1, 2, 4)]
    expect((count, states) == (3, ["whole"] * 3 + ["miss"]), "the three chunks that were put", (count, states))


@RULES(21, "Chunks whose puts had been answered when the process was killed are there afterwards, whole.")
def _killed(trial: AdapterTrial) -> None:
    _kept(trial, [1], "one")
    path = trial.directory()
    trial.killed([f"put({n})" for n in (1, 2, 3)], path)
    drive: Drive = trial.adapter(path)
    states = [drive.get(n) for n in (1, 2, 3, 4)]
    expect(states == ["whole"] * 3 + ["miss"], "the three chunks that were put", states)


class Closing:
    """Closes a connector, once, from whatever thread, and looks at LMCache's memory as soon as that is done.

    Attributes
    ----------
    overlapped : bool
        Whether a call was still under way.
    before : torch.Tensor
        The memory when `close` had returned.
    """

    def __init__(self, drive: Drive, calls: list[Call]) -> None:
        self._drive = drive
        self._calls = calls
        self._lock = threading.Lock()
        self._close = Call(drive.loop.loop)
        self.overlapped = False
        self.before = drive.memory.arena.buffer

    def begin(self) -> None:
        """Close it, but once."""
        with self._lock:
            if self._drive.ended:
                return
            self._drive.ended = True
        self._drive.loop.loop.call_soon_threadsafe(self._close.start, self._closed)

    async def _closed(self) -> None:
        self.overlapped = not all(call.done for call in self._calls)
        await self._drive.connection.close()
        self.before = self._drive.memory.arena.buffer.clone()  # before the loop lets any other call go on

    def wait(self) -> None:
        """Until it is closed."""
        self._close.wait("close beside calls")


def _closing(trial: AdapterTrial, at_memory: int) -> tuple[Drive, list[Call], Closing]:
    """A connector that is closed while 8 gets and 4 puts are under way; `at_memory`: when a get has taken some."""
    drive: Drive = trial.adapter(layout="wide", chunks=16)
    stored(drive, list(range(8)))
    drive.returned("by puts")
    drive.memory.wipe()
    objs = [drive.own(n) for n in range(8, 12)]
    when = "where a get takes memory" if at_memory else "after their first steps"
    trial.record(f"# 8 gets and 4 puts of 1 MiB are begun, and the connector is closed {when}")
    makes: list[Make] = [lambda n=n: drive.connection.get(key(n)) for n in range(8)]  # type: ignore[misc]
    makes += [drive.putting(key(n), obj) for n, obj in enumerate(objs, 8)]
    calls = [Call(drive.loop.loop) for _ in makes]
    closing = Closing(drive, calls)

    def start() -> None:
        for call, make in zip(calls, makes, strict=True):
            call.start(make)
        if not at_memory:
            closing.begin()

    drive.memory.watcher = closing.begin
    drive.loop.loop.call_soon_threadsafe(start)
    for call in calls:
        call.settled(call.stepped, "the first step of a call")
    while not (drive.ended or all(call.done for call in calls)):
        drive.loop.turn()
    closing.begin()
    closing.wait()
    for obj in objs:
        obj.ref_count_down()
    return drive, calls, closing


@RULES(22, "`close` returns while calls are under way, and when it has, no memory is written any more.")
def _closed(trial: AdapterTrial) -> None:
    overlapped: list[Drive] = []
    for n in tries(4, overlapped):
        drive, calls, closing = _closing(trial, n % 2)
        got = [call.left("a call beside close") for call in calls]
        settle()
        changed = int((drive.memory.arena.buffer != closing.before).sum())
        for obj in got:
            if obj is not None:
                obj.ref_count_down()
        expect(not changed, "memory to be left alone once close has returned", f"{changed} bytes were written")
        overlapped += [drive] * closing.overlapped
        trial.shut(drive)
    if not overlapped:
        raise NotApplicable("no call was still under way when close was called")


@RULES(23, "Calls that are under way when `close` is called come to an end, whichever, and keep no memory.")
def _ended(trial: AdapterTrial) -> None:
    overlapped: list[Drive] = []
    for i in tries(4, overlapped):
        drive, calls, closing = _closing(trial, i % 2)
        for n, call in enumerate(calls):
            obj = call.left(f"a {'get' if n < 8 else 'put'} beside close")
            if obj is not None:
                state = drive.state(obj, n)
                obj.ref_count_down()
                expect(state == "whole", f"chunk {n} as it was put, or none", state)
        drive.returned("by calls beside close")
        overlapped += [drive] * closing.overlapped
        trial.shut(drive)
    if not overlapped:
        raise NotApplicable("no call was still under way when close was called")
