from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from lms_conformance import reports
from lms_conformance.outcome import Report, Result, Status


@pytest.fixture
def report() -> Report:
    report = Report("cpu", "m.Backend", "dist 1.2", "1.0", "0.1.0", "ci", 20, {"remove": True}, {"python": "3.11"})
    report.results = [
        Result("KEY-01", "One.", Status.PASSED, 0.5, 60, 300),
        Result(
            "KEY-02", "Two <&>.", Status.FAILED, expected="a", got="\x00\ud800", program="print(1)", kind="assertion"
        ),
        Result("RMV-07", "Three.", Status.NOT_APPLICABLE, reason="declares remove"),
        Result("OVR-01", "Four.", Status.WAIVED, reason="known (until 2030-01-01)"),
        Result("LIF-03", "Five.", Status.HUNG, trace="stack"),
    ]
    return report


def test_json_comes_back_as_it_was(report: Report) -> None:
    text = reports.to_json(report)
    data = json.loads(text)
    assert data["ok"] is False
    assert data["badge"] == "spec 1.0 · 1/4 · 1 waived · 0 vacuous"
    assert data["plugin"] == "dist 1.2"
    assert reports.from_json(text) == report


def test_junit_counts_and_survives_control_characters(report: Report) -> None:
    root = ElementTree.fromstring(reports.to_junit(report).encode())
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "5",
        "1",
        "1",
        "2",
    )
    failure = suite.find(".//failure")
    assert failure is not None
    assert "print(1)" in (failure.text or "")


def test_the_page_stands_alone_and_escapes(report: Report) -> None:
    page = reports.to_html(report)
    assert "does not conform" in page
    assert "Two &lt;&amp;&gt;." in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('id="KEY-02"') == 1


def test_the_badge_says_how_many_and_turns_red(report: Report) -> None:
    badge = json.loads(reports.badge_json(report))
    assert badge["message"] == "spec 1.0 · 1/4 · 1 waived · 0 vacuous"
    assert badge["color"] == "red"
    report.results = report.results[:1]
    assert json.loads(reports.badge_json(report))["color"] == "brightgreen"
    report.complete = False
    assert json.loads(reports.badge_json(report))["message"].endswith("partial")
