"""The kit proves itself: correct backends pass, and each broken one is caught by the property it names."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lms_conformance.gauges import busy, goes_on
from lms_conformance.harness import FactoryHarness
from lms_conformance.outcome import Status
from lms_conformance.prove import plant, prove
from lms_conformance.run import run_properties
from lms_conformance.spec import properties
from lms_conformance.zoo.hunt import DEAR, Catch, asked_of_all, caught, hunt, references, run_reference, zoo_profile
from lms_conformance.zoo.markdown import to_markdown
from lms_conformance.zoo.memory import MemoryReference
from lms_conformance.zoo.mutant import mutants
from lms_conformance.zoo.notes import Notes

from tests.depth import DEPTH, some

#: One broken backend of each so many is hunted in a deep run, and one of each so many of these in every run; all of them
#: at a greater depth, and by `make zoo`.
EACH_DEEP, EACH = 12 if DEPTH == 1 else 1, 48

#: As many tries on a busy machine as on an idle one: the hunt ends with the first catch.
HUNT = dataclasses.replace(zoo_profile("ci"), example_seconds=60.0)


@pytest.mark.deep
@pytest.mark.parametrize("name", references() if DEPTH > 1 else ["memory"])
def test_correct_backends_pass_everything_that_applies_to_them(name: str) -> None:
    red = [r for r in run_reference(name, zoo_profile("quick"), 20, spread=True) if r.red]
    assert not red, "\n\n".join(r.message() for r in red)


@pytest.mark.leaks_allowed
@pytest.mark.parametrize("name", some(list(mutants())[::EACH_DEEP], lambda name: name in list(mutants())[::EACH]))
def test_a_broken_backend_is_caught_by_name(name: str) -> None:
    mutant = mutants()[name]
    known = {p.id: p for p in properties()}
    catch = hunt(mutant, [known[k] for k in mutant.kills], HUNT, 20)
    assert not catch.missed, {k: catch.results[k].message() for k in catch.missed if k in catch.results}


def test_every_property_has_a_mutant_of_its_own() -> None:
    named = {k for m in mutants().values() for k in m.kills}
    assert named == {p.id for p in properties()}


def test_a_hunt_that_is_noted_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant, state = mutants()["folds-case"], tmp_path / "state"
    first = Notes(state).hunt(mutant.name, ["KEY-02", "KEY-06"], zoo_profile("quick"), 20)
    assert caught(first.results["KEY-02"])
    monkeypatch.setattr("lms_conformance.zoo.notes.hunt", None)
    again = Notes(state).hunt(mutant.name, ["KEY-02", "KEY-06"], zoo_profile("quick"), 20)
    assert again.results == first.results
    page = to_markdown([again], {20: [again]}, "ci", "1.0", ["KEY-02"], "0123abcd")
    assert "| 20 | 1 of 1 | " in page
    assert "the digest `0123abcd`" in page
    assert "| KEY-02 | Keys that differ only in case are different keys. | **folds-case** | none |" in page
    assert "| KEY-06 * |" in page, "not every mutant was asked"


def test_what_another_kit_noted_is_hunted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    with monkeypatch.context() as before:
        before.setattr("lms_conformance.zoo.notes.code", lambda: "another")
        Notes(state).hunt("folds-case", ["KEY-02"], zoo_profile("quick"), 20)
    monkeypatch.setattr("lms_conformance.zoo.notes.hunt", lambda *_: Catch(mutants()["folds-case"]))
    assert not Notes(state).hunt("folds-case", ["KEY-02"], zoo_profile("quick"), 20).results


def test_a_hunt_does_not_ask_which_distribution_the_backend_came_with_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_all() -> None:
        raise AssertionError("what every installed distribution holds was read once more")

    known = {p.id: p for p in properties()}
    hunt(mutants()["folds-case"], [known["KEY-02"]], zoo_profile("quick"), 20)
    monkeypatch.setattr("importlib.metadata.packages_distributions", read_all)
    assert not hunt(mutants()["folds-nfc"], [known["KEY-01"]], zoo_profile("quick"), 20).missed


@pytest.mark.deep
def test_the_command_hunts_in_several_processes_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "zoo.md"
    command = [sys.executable, "-m", "lms_conformance.zoo", "--only", "folds-case,raises-on-a-miss", "--seeds", "1,2"]
    done = subprocess.run(
        [*command, "--profile", "quick", "--jobs", "2", "--output", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "seed 2: 2 of 2 mutants caught by name" in done.stdout
    told = page.read_text(encoding="utf-8")
    assert "| GET-01 | A key that is not held is answered with None, not with an error. | **raises-on-a-miss**" in told


def descendants(pid: int) -> set[int]:
    """The processes below `pid`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text("ascii", "replace").rpartition(")")[2].split()[1])
    below, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found} - below
        below |= found
    return below - {pid}


def until(condition: Callable[[], bool]) -> None:
    deadline, gate = time.monotonic() + 60.0 * busy(), threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        gate.wait(0.05)


@pytest.mark.deep
def test_nobody_hunts_on_when_the_command_is_killed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-m", "lms_conformance.zoo", "--named", "--jobs", "2", "--state", str(state)]
    zoo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(state.exists)  # the first hunt is noted, and the next one has begun
        below = descendants(zoo.pid)
        assert len(below) >= 3, "the one that forks, and two that hunt"
    finally:
        zoo.kill()
        zoo.wait()
    try:
        until(lambda: not any(map(goes_on, below)))
    finally:
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_what_the_matrix_leaves_out_are_properties_and_few_of_each_family() -> None:
    known = {p.id for p in properties()}
    assert known >= DEAR
    assert set(asked_of_all()) == known - DEAR


def test_planted_bugs_are_caught_in_a_users_own_backend() -> None:
    harness = FactoryHarness(MemoryReference)
    report = run_properties(harness, profile="quick", only=["OVR-01", "OVR-02", "KEY-02", "BAT-01"])
    proofs = plant(harness, report)
    assert {p.id for p in proofs} == {"OVR-01", "OVR-02", "KEY-02", "BAT-01"}
    assert all(p.caught for p in proofs)


@pytest.mark.deep
def test_bugs_that_cannot_be_planted_are_told_with_the_reason() -> None:
    harness = FactoryHarness(MemoryReference)
    report = run_properties(harness, profile="quick", only=["KEY-02", "GET-01", "CAP-03", "PER-05"])
    next(r for r in report.results if r.id == "KEY-02").status = Status.VACUOUS
    told: list[str] = []
    assert prove(harness, report, told.append)
    reasons = "\n".join(told)
    assert "KEY-02 is vacuous: nothing to compare with: folds-case (KEY-02)" in reasons
    assert "PER-05 does not apply: the backend does not declare `persistent`" in reasons
    assert "which no wrapper can plant: empties-itself-for-the-impossible (CAP-03)" in reasons
    assert told[-1].startswith("planted ")
