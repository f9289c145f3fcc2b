"""LIF, overlapped: each method stopped in the middle while close runs, and close stopped while each method runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from lms_conformance.chunks import Chunk, difference
from lms_conformance.overlap import Stopped
from lms_conformance.preempt import own_files
from lms_conformance.programs import Op
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.ways import Ways
from lms_tiers.errors import BackendClosedError, LmsTiersError

OLD, NEW = Chunk(3, 300, 1), Chunk(4, 500, 2)

WRITES = (
    Op("put", ("new",), (NEW,)), Op("put", ("a",), (NEW,)), Op("put_many", ("new", "a"), (NEW, NEW)),
    Op("put_tensor", ("new",), (NEW,), 1), Op("put_from", ("new", "a"), (NEW, NEW)), Op("remove", ("a",)),
    Op("remove_many", ("a", "b")), Op("state", ()), Op("touch", ("a", "absent")), Op("flush"),
)  # fmt: skip
READS = tuple(
    Op(kind, ("a", "absent", "b"))
    for kind in ("get", "get_many", "get_into", "get_scattered", "get_many_into", "view", "get_tensor", "contains",
                 "contains_many", "contains_prefix", "listed", "scan")
)  # fmt: skip
POOL = ("a", "b", "new", "absent")

#: Calls that are stopped, however long it takes to open and close.
LEAST = 5


def _open(trial: Trial) -> Ways:
    trial.anew()
    ways = Ways(trial.open())
    for k in ("a", "b"):
        ways.put(Op("put", (k,), (OLD,)))
    return ways


def _fits(trial: Trial, op: Op) -> bool:
    return trial.caps.remove or not op.kind.startswith("remove")


class Place(NamedTuple):
    """Where in a call it is stopped: a part of its opcodes, or of those before which it enters a frame."""

    part: float
    entering: bool

    def at(self, stopped: Stopped) -> int:
        """The opcode, by a call that nobody stopped."""
        entries = stopped.entries
        return entries[int(self.part * len(entries))] if self.entering and entries else int(self.part * stopped.opcodes)


def _rounds(trial: Trial, ops: tuple[Op, ...], check: Callable[[Trial, Op, Place], None]) -> None:
    """Each operation stopped at another place each round, as often as there is time for."""
    began, done = time.monotonic(), 0
    for i in range(max(6, trial.profile.rounds // 5)):
        for j, op in enumerate(trial.rng.sample(ops, len(ops))):
            if done >= LEAST and time.monotonic() - began > 3 * trial.profile.example_seconds:
                return
            if _fits(trial, op):
                part = (i * 0.618034 + j * 0.38 + trial.rng.random() / 8) % 1
                # What is checked first is checked early; what is checked and what is done are often calls.
                check(trial, op, Place(part if i % 4 == 3 else part * part, entering=i % 2 == 0))
                done += 1


#: Calls that nobody stopped, each made once in a trial.
_lengths: WeakKeyDictionary[Trial, dict[Op | None, Stopped]] = WeakKeyDictionary()


def _unstopped(trial: Trial, op: Op | None) -> Stopped:
    """What there is to an operation, or to `close`."""
    known = _lengths.setdefault(trial, {})
    if op not in known:
        ways = _open(trial)
        stopped = known[op] = Stopped(own_files(ways.backend), -1, lambda: None)
        stopped.run(ways.backend.close if op is None else lambda: ways.step(op))
        trial.release(ways.subject)
    return known[op]


def _outcome(ways: Ways, op: Op) -> bool:
    """Do it; whether it was done, and not refused."""
    try:
        ways.step(op)
    except BackendClosedError:
        return False
    except LmsTiersError as error:
        violate(
            f"{op.kind} beside close to be done, or to raise BackendClosedError", f"{type(error).__name__}: {error}"
        )
    return True


def _is_closed(ways: Ways) -> None:
    backend = ways.subject
    backend.rejects(BackendClosedError, lambda: backend.get("a"), "get after that close")
    ways.still()


def _kept(trial: Trial, ways: Ways, op: Op, done: bool) -> None:
    """What is at the place afterwards: all that was done; what was refused is as it was, or done whole."""
    if not (trial.caps.persistent or trial.caps.shared):
        trial.release(ways.subject)
        return
    again: Subject = trial.reopen(ways.subject)
    for k in POOL:
        want = ways.model.get(k)
        obj = again.get(k)
        right = obj is None if want is None else difference(want, obj) is None
        named = dict(zip(op.keys, op.chunks, strict=False)).get(k)
        if not right and not done and k in op.keys:
            gone = op.kind.startswith("remove") and obj is None
            right = gone or (named is not None and difference(named, obj) is None) or op.kind == "put_tensor"
        what = "was done" if done else "was refused"
        expect(right, f"{want!r} under {k!r} after reopening: {op.kind} of {op.keys!r} beside close {what}", obj)
    trial.release(again)
    trial.release(ways.subject)


def _method_stopped(trial: Trial, op: Op, place: Place) -> None:
    length, at = _unstopped(trial, op).opcodes, place.at(_unstopped(trial, op))
    ways = _open(trial)
    trial.record(f"# {op.kind} of {op.keys!r} is stopped before opcode {at} of {length}, and close() runs")
    stopped = Stopped(own_files(ways.backend), at, ways.backend.close)
    done = stopped.run(lambda: _outcome(ways, op))
    _ended(stopped, "close beside a call that was stopped and goes on")
    _is_closed(ways)
    _kept(trial, ways, op, done)


def _close_stopped(trial: Trial, op: Op, place: Place) -> None:
    length, at = _unstopped(trial, None).opcodes, place.at(_unstopped(trial, None))
    ways = _open(trial)
    trial.record(f"# close() is stopped before opcode {at} of {length}, and {op.kind} of {op.keys!r} runs")
    outcome: list[bool] = []
    stopped = Stopped(own_files(ways.backend), at, lambda: outcome.append(_outcome(ways, op)))
    stopped.run(ways.subject.close)
    _ended(stopped, f"{op.kind} beside close")
    _is_closed(ways)
    _kept(trial, ways, op, outcome[0])


def _ended(stopped: Stopped, what: str) -> None:
    expect(stopped.ended(20), f"{what} to return", "it did not")
    if stopped.error is not None:
        raise stopped.error


@prop(
    "LIF-10",
    "A write that close overtakes at any point is kept, or refused with BackendClosedError; never lost in silence.",
    since="1.1",
)
def _write_overtaken(trial: Trial) -> None:
    _rounds(trial, WRITES, _method_stopped)


@prop(
    "LIF-11",
    "A write that comes in at any point of close is kept, or refused with BackendClosedError; never lost in silence.",
    since="1.1",
)
def _write_within(trial: Trial) -> None:
    _rounds(trial, WRITES, _close_stopped)


@prop(
    "LIF-12",
    "A read that close overtakes, or that comes in at any point of close, is right or raises BackendClosedError.",
    since="1.1",
)
def _reads(trial: Trial) -> None:
    _rounds(trial, READS, _method_stopped)
    _rounds(trial, READS, _close_stopped)
