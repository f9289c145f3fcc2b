"""Whose pages they are: what the bytes depend on and SGLang's keys leave out."""

from __future__ import annotations

import contextlib
from typing import Any

from lms_conformance.adapters.hicache import RULES
from lms_conformance.adapters.hicache.drive import Drive
from lms_conformance.adapters.hicache.harness import HiCacheHarness
from lms_conformance.adapters.hicache.rules_pages import stored
from lms_conformance.adapters.trial import AdapterTrial, NotApplicable
from lms_conformance.violation import Violation, expect


def _foreign(trial: AdapterTrial, *others: dict[str, Any], **ours: Any) -> None:
    """Pages of one run are misses for each of the others at the same place, and stay there for their own."""
    try:
        drive: Drive = trial.adapter(**ours)
    except Violation as refused:
        if ours:
            raise NotApplicable(f"it does not open with {ours}") from refused
        raise
    stored(drive, [1, 2])
    last: Drive = trial.again(drive, **ours)
    if last.leading([1, 2]) != 2:
        raise NotApplicable("it keeps nothing from one opening to the next")
    for other in others:
        trial.shut(last)
        try:
            theirs: Drive = trial.adapter(drive.path, **{**ours, **other})
        except Violation as refused:  # to refuse is to keep apart
            trial.record(f"# refused: {refused.got}".replace("\n", " "))
            theirs = trial.adapter(drive.path, **ours)
        else:
            _misses(theirs, other)
        last = theirs
    back: Drive = trial.again(last, **ours)
    expect(back.load([1, 2], [3, 4]) == [True, True], "the pages to be there for their own run", "misses")
    expect(back.holds(3, 1) and back.holds(4, 2), "the pages as they were stored", "other bytes")


def _misses(theirs: Drive, other: dict[str, Any]) -> None:
    what = ", ".join(f"{key}={value!r}" for key, value in other.items())
    seen = theirs.exist([1, 2]), theirs.leading([1, 2])
    expect(seen == ([False, False], 0), f"no page of another run to exist with {what}", seen)
    there = theirs.load([1, 2], [3, 4])
    expect(there == [False, False], f"misses with {what}", there)
    expect(not theirs.touched(), "no slot to be written", theirs.touched())


@RULES(19, "Pages of another dtype are a miss.")
def _dtype(trial: AdapterTrial) -> None:
    _foreign(trial, {"dtype": "float16"}, {"dtype": "float32"})


@RULES(20, "Pages of another layout of host memory are a miss.")
def _layout(trial: AdapterTrial) -> None:
    harness = trial.harness
    assert isinstance(harness, HiCacheHarness)
    first, *others = harness.layouts
    if not others:
        raise NotApplicable("it takes one layout only")
    _foreign(trial, *({"layout": other} for other in others), layout=first)


@RULES(21, "Pages of another number of tokens, layers or values a head are a miss.")
def _shape(trial: AdapterTrial) -> None:
    _foreign(trial, {"page_size": 2}, {"page_size": 8}, {"layers": 4}, {"layers": 2}, {"width": 16})


@RULES(22, "Pages of another model are a miss, and of none that is named.")
def _model(trial: AdapterTrial) -> None:
    _foreign(trial, {"model_name": "qwen"}, {"model_name": None}, {"model_name": "llama/"})


@RULES(23, "Pages of another topology are a miss: of another number of ranks, or another rank.")
def _topology(trial: AdapterTrial) -> None:
    with contextlib.suppress(NotApplicable):
        _foreign(trial, {"tp_rank": 1}, tp_size=2)
    _foreign(
        trial, {"tp_size": 2}, {"tp_size": 2, "tp_rank": 1}, {"pp_size": 2, "pp_rank": 1},
        {"attn_cp_size": 2, "attn_cp_rank": 1},
    )  # fmt: skip
