"""A pass proves something only where it reached the states that its property names; cuts in examples are told."""

from __future__ import annotations

import datetime
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lms_conformance import Waiver, reports, run_properties
from lms_conformance.history import History
from lms_conformance.marks import OVERLAPPED, Overlap
from lms_conformance.outcome import Report, Result, Status
from lms_conformance.record import Record
from lms_conformance.run import judge
from lms_conformance.spec import Property
from lms_conformance.trial import Trial
from lms_conformance.zoo.harnesses import ReferenceHarness

from lms_tiers.interface import LMSBackendInterface
from tests.conformance.test_run import TODAY, engine

STATE = "evicted while read"


def made(check: Callable[..., None], since: str = "1.0", marks: tuple[str, ...] = (STATE,)) -> Property:
    return Property(id="KEY-99", sentence="Made up.", check=check, since=since, marks=marks)


def passes(trial: Trial) -> None:
    trial.open().contains("a")


def reaches(trial: Trial) -> None:
    passes(trial)
    trial.mark(STATE)
    trial.mark("something that it does not name")


def has_none(trial: Trial) -> None:
    passes(trial)
    trial.cannot(STATE, "nothing ever leaves it")


def reaches_one_of_two(trial: Trial) -> None:
    reaches(trial)
    trial.cannot("full", "no bound")


def weigh(p: Property, spec: str = "1.0", *, waiver: Waiver | None = None, strict: bool = False) -> Result:
    return judge(p, engine(), frozenset(), spec, waiver, TODAY, strict=strict)


def test_a_pass_that_reached_its_states_says_so() -> None:
    result = weigh(made(reaches), strict=True)
    assert result.status is Status.PASSED
    assert result.marks == {STATE: 1}


def test_a_pass_that_did_not_is_vacuous_and_red_once_marks_gate() -> None:
    for since, spec, strict in (("1.0", "1.2", False), ("1.1", "1.2", False), ("1.0", "1.0", True)):
        result = weigh(made(passes, since), spec, strict=strict)
        assert result.status is Status.VACUOUS
        assert result.red
        assert STATE in result.reason


@pytest.mark.parametrize("since", ["1.0", "1.1"])
def test_it_warns_under_the_spec_that_marks_came_with_so_that_an_old_backend_stays_green(since: str) -> None:
    for spec in ("1.0", "1.1"):
        result = weigh(made(passes, since), spec)
        assert result.status is Status.WARNED_VACUOUS
        assert not result.red
        assert STATE in result.reason
        assert "1.1" in result.reason


def test_a_medium_without_such_a_state_is_not_judged_by_it() -> None:
    result = weigh(made(has_none), strict=True)
    assert result.status is Status.NOT_APPLICABLE
    assert result.reason == f"never {STATE}: nothing ever leaves it"
    both = weigh(made(reaches_one_of_two, marks=(STATE, "full")), strict=True)
    assert both.status is Status.PASSED
    assert both.reason == "never full: no bound"
    half = weigh(made(has_none, marks=(STATE, "full")), strict=True)
    assert half.status is Status.VACUOUS
    assert half.reason.endswith("never reached: full")


def test_a_waiver_of_what_turns_out_not_to_apply_is_stale() -> None:
    waiver = Waiver("KEY-99", "known", datetime.date(2031, 1, 1))
    assert weigh(made(has_none), waiver=waiver).status is Status.STALE_WAIVER
    assert weigh(made(passes), waiver=waiver).status is Status.WAIVED


class Rounds:
    """A check that repeats itself, and whose time is up at once."""

    def __call__(self, trial: Trial) -> None:
        for _ in trial.rounds(9, least=4, seconds=-1):
            trial.open().contains("a")


def test_repetitions_that_there_was_no_time_for_are_told() -> None:
    result = engine().run(made(Rounds(), marks=()))
    assert (result.status, result.examples, result.wanted, result.cut) == (Status.PASSED, 4, 9, True)
    assert result.effort == "4 of 9"


def test_drawn_examples_that_there_was_no_time_for_are_told_and_those_that_there_are_not_are_not() -> None:
    from hypothesis import strategies as st

    def check(trial: Trial, drawn: object) -> None:
        passes(trial)

    def drawn(strategy: Callable[[], st.SearchStrategy[object]]) -> Property:
        return Property(id="KEY-99", sentence="Made up.", check=check, given=strategy)

    hurried = engine(example_seconds=-1.0).run(drawn(lambda: st.integers()))
    assert (hurried.examples, hurried.wanted, hurried.cut) == (8, 20, True)
    patient = engine(example_seconds=math.inf).run(drawn(lambda: st.integers()))
    assert (patient.examples, patient.cut) == (20, False)
    few = engine(example_seconds=math.inf).run(drawn(lambda: st.booleans()))
    assert (few.examples, few.wanted, few.cut) == (2, 2, False)


@pytest.fixture
def report() -> Report:
    report = Report("cpu", "m.Backend", "dist 1.2", "1.1", "0.1.0", "ci", 20, {}, {})
    report.results = [
        Result("KEY-01", "One.", Status.PASSED, examples=60, wanted=60, calls=9, marks={STATE: 7}),
        Result("KEY-10", "Two.", Status.PASSED, examples=23, wanted=60, calls=9),
        Result("CON-07", "Three.", Status.WARNED_VACUOUS, examples=1, wanted=1, calls=9, reason="never: full"),
    ]
    return report


def test_every_report_tells_marks_cuts_and_vacuous_passes(report: Report) -> None:
    assert not report.failures()
    assert report.badge == "spec 1.1 · 2/3 · 0 waived · 1 vacuous · 1 cut"
    assert json.loads(reports.badge_json(report))["color"] == "yellow"
    data = json.loads(reports.to_json(report))
    assert [(r["examples"], r["wanted"]) for r in data["results"]] == [(60, 60), (23, 60), (1, 1)]
    assert data["results"][0]["marks"] == {STATE: 7}
    assert reports.from_json(json.dumps(data)) == report
    page = reports.to_html(report)
    for told in ("23 of 60 ×", f"{STATE} (7 ×)", "Cut down in examples", "vacuous"):
        assert told in page
    root = ElementTree.fromstring(reports.to_junit(report).encode())
    noted = {(p.get("name"), p.get("value")) for p in root.iterfind(".//testcase/properties/property")}
    assert {("examples", "23 of 60"), (f"reached: {STATE}", "7")} <= noted
    assert root[0].get("skipped") == "1"
    report.results[2].status = Status.VACUOUS
    assert [r.id for r in report.failures()] == ["CON-07"]
    assert json.loads(reports.badge_json(report))["color"] == "red"
    suite = ElementTree.fromstring(reports.to_junit(report).encode())[0]
    assert suite.get("failures") == "1"


def test_a_report_of_the_kit_before_marks_is_read(report: Report) -> None:
    data = json.loads(reports.to_json(report))
    for result in data["results"]:
        del result["marks"], result["wanted"]
    del data["only"], data["strict"]
    assert [r.cut for r in reports.from_json(json.dumps(data)).results] == [False] * 3


def test_calls_overlap_only_where_they_are_on_their_way_at_one_time() -> None:
    record = Record()
    overlap = Overlap(record)
    for thread in (1, 2, 1):
        with overlap.call(thread):
            pass
    assert not record.marks
    with overlap.call(1), overlap.call(2):
        pass
    assert record.marks == {OVERLAPPED: 1}


def test_a_history_knows_whether_calls_overlapped_and_whether_a_chunk_left() -> None:
    one_by_one, beside, evicted = History(), History(), History()
    for history, shared in ((one_by_one, False), (beside, True)):
        began = history.now()
        other = history.now() if shared else None
        history.add(0, "put", "a", 1, began)
        history.add(1, "get", "a", 1, history.now() if other is None else other)
    assert (one_by_one.overlapped(), beside.overlapped()) == (False, True)
    assert not beside.missed()
    evicted.add(0, "put", "a", 1, evicted.now())
    evicted.add(0, "get", "a", None, evicted.now())
    assert evicted.missed()
    evicted.add(0, "remove", "a", None, evicted.now())
    assert not evicted.missed()


def test_a_backend_without_a_bound_is_not_judged_when_it_is_full() -> None:
    report = run_properties(ReferenceHarness("bare"), profile="quick", only=["EVI-05"], strict=True)
    (result,) = report.results
    assert result.status is Status.NOT_APPLICABLE
    assert "without a capacity" in result.reason
    assert not report.ok, "nothing was required"


class OneForAll(ReferenceHarness):
    """Hands one instance of a place out to everybody."""

    def __init__(self) -> None:
        super().__init__("shared")
        self.opened: dict[Path, LMSBackendInterface] = {}

    def open(self, path: Path, capacity: int | None) -> LMSBackendInterface:
        return self.opened.setdefault(path, super().open(path, capacity))


def test_one_instance_under_two_names_proves_nothing_of_a_shared_place() -> None:
    only = ["SHR-01", "SHR-02", "SHR-03", "SHR-04", "SHR-05"]
    report = run_properties(OneForAll(), profile="quick", only=only, strict=True)
    assert [r.status for r in report.results] == [Status.VACUOUS] * 5, [r.message() for r in report.results]
    report = run_properties(ReferenceHarness("shared"), profile="quick", only=[*only, "SHR-06", "SHR-10"], strict=True)
    assert report.ok, [r.message() for r in report.results if r.red]


@pytest.mark.deep
def test_releases_that_open_each_others_places_were_seen_to_do_so() -> None:
    report = run_properties(ReferenceHarness("files"), profile="quick", only=["UPG"], strict=True)
    assert report.ok, [r.message() for r in report.results if r.red]


def test_puts_of_threads_meet_where_nothing_but_the_kit_makes_them() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1)  # as on a machine too busy to hand the interpreter on within a call
    try:
        report = run_properties(ReferenceHarness("memory"), profile="quick", only=["CAP-07"], strict=True)
    finally:
        sys.setswitchinterval(before)
    assert report.results[0].status is Status.PASSED, report.results[0].message()


def test_threads_that_begin_when_others_are_done_turn_no_backend_red(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = Trial.threads

    def late(trial: Trial, calls: Sequence[Callable[[], Any]], seconds: float, what: str) -> list[Any]:
        parts = (calls[:2], calls[2:])  # as on a machine too busy to begin them all
        return [answer for part in parts for answer in at_once(trial, part, seconds, what)]

    monkeypatch.setattr(Trial, "threads", late)
    report = run_properties(ReferenceHarness("shared"), profile="quick", only=["SHR-10"], strict=True)
    assert report.ok, [r.message() for r in report.results if r.red]
