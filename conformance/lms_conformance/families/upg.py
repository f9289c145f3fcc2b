"""UPG: the release before wrote, and this one opens, and back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lms_conformance.chunks import KIB, Chunk
from lms_conformance.damage import files_below
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.upgrade.predecessor import CHUNKS, OldRelease, old_release
from lms_conformance.violation import expect, violate
from lms_tiers.errors import FormatError

_NEEDS = ("local", "persistent", "predecessor")


def _capacity(trial: Trial) -> int | None:
    return 64 * KIB * KIB if trial.harness.takes_capacity else None


def _opened(trial: Trial, old: OldRelease, path: Path) -> dict[str, Any]:
    """The release before opens the place; what it raised, where it did."""
    predecessor = trial.harness.predecessor
    assert predecessor is not None
    trial.record(f"# {predecessor.name}, in a process of its own, opens the place")
    told = trial.harness.told(path, _capacity(trial))
    if predecessor.opener is not None:
        told = {"opener": predecessor.opener, "arity": 2}
    assert told is not None
    trial.ran(1)
    return old.ask(do="open", path=str(path), capacity=_capacity(trial), **told)


def _must_open(trial: Trial, old: OldRelease, path: Path) -> None:
    answer = _opened(trial, old, path)
    if answer:
        violate("the release before to open a place", f"{answer['raised']}: {answer['message']}")


def _contents(path: Path) -> dict[str, str]:
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files_below(path)}


@prop(
    "UPG-01",
    "What the release before wrote and flushed, when it is killed, is there: keys, bytes, metadata, removals.",
    needs=_NEEDS,
    since="1.1",
    marks=["read what the release before wrote"],
)
def _upgrade(trial: Trial) -> None:
    assert trial.harness.predecessor is not None
    path, model = trial.directory(), dict(CHUNKS)
    with old_release(trial.harness.predecessor) as old:
        _must_open(trial, old, path)
        for k, chunk in model.items():
            old.put(k, chunk)
        old.put("a", Chunk(40, 300))
        old.put("a", model.setdefault("a", Chunk(41, 5000, 1)))
        if trial.caps.remove:
            old.put("gone", Chunk(42, 700))
            old.do(do="flush")
            old.do(do="remove", key="gone")
        old.do(do="flush")
        trial.record("# it put a chunk of every kind, flushed, and is killed with SIGKILL")
        old.kill()
    subject = trial.allows(lambda: trial.open(_capacity(trial), path), "opening what the release before left")
    subject.expect_model(model, ["gone"])
    trial.mark("read what the release before wrote")
    subject.put("new", Chunk(43, 5000, 2))
    subject.put("a", Chunk(44, 70, 3))
    subject.flush()
    subject.close()
    trial.reopen(subject).expect_model({**model, "a": Chunk(44, 70, 3), "new": Chunk(43, 5000, 2)})


@prop(
    "UPG-02",
    "What this release wrote, the one before answers exactly, or it refuses the place with FormatError.",
    needs=_NEEDS,
    since="1.1",
    marks=["answered or refused"],
)
def _downgrade(trial: Trial) -> None:
    assert trial.harness.predecessor is not None
    subject = trial.open(_capacity(trial))
    for k, chunk in CHUNKS.items():
        subject.put(k, chunk)
    subject.close()
    with old_release(trial.harness.predecessor) as old:
        answer = _opened(trial, old, subject.path)
        if not answer:
            old.expect(dict(CHUNKS), ("absent",))
            old.do(do="close")
        else:
            refused = answer["raised"] == "FormatError"
            expect(refused, "FormatError, or what this release wrote", f"{answer['raised']}: {answer['message']}")
        trial.mark("answered or refused")
    trial.reopen(subject).expect_model(dict(CHUNKS))


@prop(
    "UPG-03",
    "A release that refuses a place for its format leaves it untouched, byte for byte.",
    needs=_NEEDS,
    since="1.1",
    marks=["refused"],
)
def _untouched(trial: Trial) -> None:
    assert trial.harness.predecessor is not None
    subject = trial.open(_capacity(trial))
    subject.put("a", Chunk(11, 5000, 1))
    subject.close()
    before = _contents(subject.path)
    with old_release(trial.harness.predecessor) as old:
        refused = _opened(trial, old, subject.path).get("raised") == "FormatError"
    if refused:
        trial.mark("refused")
        after = _contents(subject.path)
        touched = sorted(k for k in before | after if before.get(k) != after.get(k))
        expect(not touched, "the refused place as it was", touched)
        trial.reopen(subject).expect_model({"a": Chunk(11, 5000, 1)})
    path = trial.directory()
    with old_release(trial.harness.predecessor) as old:
        _must_open(trial, old, path)
        old.put("a", Chunk(12, 5000, 1))
        old.do(do="close")
        before = _contents(path)
        try:
            trial.open(_capacity(trial), path).expect_model({"a": Chunk(12, 5000, 1)})
        except FormatError:
            trial.mark("refused")
            expect(_contents(path) == before, "the refused place as it was", "changed files")
            _must_open(trial, old, path)
            old.expect({"a": Chunk(12, 5000, 1)})
    if not trial.marks["refused"]:
        trial.cannot("refused", "each release opens what the other wrote")


@prop(
    "UPG-04",
    "Where both releases open a place each sees what the other did: overwritten, removed, put anew.",
    needs=_NEEDS,
    since="1.1",
    marks=["opened by both in turn"],
)
def _back_and_forth(trial: Trial) -> None:
    assert trial.harness.predecessor is not None
    subject = trial.open(_capacity(trial))
    model: dict[str, Chunk] = {}
    with old_release(trial.harness.predecessor) as old:
        for turn in range(3):
            for i, k in enumerate("abc"):
                model[k] = Chunk(11 + 10 * turn + i, 700 + turn, turn)
                subject.put(k, model[k])
            if trial.caps.remove and turn:
                subject.remove("c")
                del model["c"]
            subject.close()
            if _opened(trial, old, subject.path):
                trial.cannot("opened by both in turn", "the release before refuses what this one wrote, as UPG-03 sees")
                return
            old.expect(model, ("absent",) if "c" in model else ("c",))
            for i, k in enumerate("ab"):
                model[k] = Chunk(51 + 10 * turn + i, 900 + turn, turn)
                old.put(k, model[k])
            old.do(do="close")
            subject = trial.reopen(subject)
            subject.expect_model(model)
            trial.mark("opened by both in turn")
