"""PWR: the power goes. What was written and not synced is there, is not, or is torn at 512 bytes."""

from __future__ import annotations

from lms_conformance.chunks import KIB
from lms_conformance.power.runs import Run, Step, after, drawn
from lms_conformance.spec import prop
from lms_conformance.trial import Trial

_FILES = ("local", "persistent", "recorder")

#: Places were opened that lack something which the power took with it.
_LOST = "lost something"


def _lose(trial: Trial, program: list[Step], promise: str | None, *, works: bool = False) -> None:
    run = Run(trial, program)
    if run.unseen:
        trial.cannot(_LOST, f"the recorder cannot see all that it writes: {run.unseen}")
    elif after(trial, run, promise, works=works):
        trial.mark(_LOST)


@prop(
    "PWR-01",
    "Whatever a loss of power leaves, no key holds wrong bytes: a chunk that was put there, whole, or none.",
    needs=_FILES,
    since="1.1",
    marks=[_LOST],
)
def _nothing_wrong(trial: Trial) -> None:
    kinds = ("put", "put", "put", "flush", *(("remove",) if trial.caps.remove else ()))
    # One large chunk that stays: where only the names of files are synced it may be torn to the end.
    _lose(trial, [("put", "d", 7, 100 * KIB, 2), *drawn(trial.rng, kinds), ("close",)], None)


@prop(
    "PWR-02",
    "What was flushed and not touched since is there after a loss of power; the rest is old, new or a miss.",
    needs=[*_FILES, "power"],
    since="1.1",
    marks=[_LOST],
)
def _flushed(trial: Trial) -> None:
    program = drawn(trial.rng, ("put", "put", "flush"))
    _lose(trial, [*program, ("flush",), ("put", "d", 40, 5000, 1)], "flush")


@prop(
    "PWR-03",
    "Where that is declared, what put returned for is there after a loss of power, without a flush.",
    needs=[*_FILES, "power_put"],
    since="1.1",
    marks=[_LOST],
)
def _put(trial: Trial) -> None:
    _lose(trial, drawn(trial.rng, ("put",), keys="abcde", steps=8), "put")


@prop(
    "PWR-04",
    "A removal that was flushed holds after a loss of power.",
    needs=[*_FILES, "power", "remove"],
    since="1.1",
    marks=[_LOST],
)
def _removed(trial: Trial) -> None:
    put: list[Step] = [("put", k, 11 + i, 5000 + i, i) for i, k in enumerate("abc")]
    _lose(trial, [*put, ("flush",), ("remove", "a"), ("flush",), ("remove", "b"), ("put", "a", 21, 700, 1)], "flush")


@prop(
    "PWR-05",
    "After a loss of power the place opens and works: every key can be put anew, and is there.",
    needs=[*_FILES, "power"],
    since="1.1",
    marks=[_LOST],
)
def _works(trial: Trial) -> None:
    _lose(trial, drawn(trial.rng, ("put", "put", "flush"), steps=6), "flush", works=True)
