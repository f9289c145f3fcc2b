"""A medium that stalls, dies and heals: which harness can be asked, and that what does not keep its deadline is caught."""

from __future__ import annotations

import pytest
from lms_conformance.check import explain
from lms_conformance.devices import harness_for
from lms_conformance.harness import IMPATIENT
from lms_conformance.outcome import Status
from lms_conformance.run import run_properties
from lms_conformance.zoo.harnesses import MutantHarness, ReferenceHarness

pytestmark = pytest.mark.leaks_allowed


def test_a_device_declares_a_deadline_by_its_text() -> None:
    assert harness_for("lm").deadline == IMPATIENT
    assert harness_for("lm:{server}").deadline is None
    report = run_properties(harness_for("lm:{server}"), profile="quick", only=["LIV-01"])
    assert report.results[0].status is Status.NOT_APPLICABLE
    assert "{deadline}" in report.results[0].reason


@pytest.mark.deep
def test_a_backend_that_keeps_its_deadline_passes_and_its_medium_did_stall() -> None:
    report = run_properties(ReferenceHarness("shared"), profile="quick", only=["LIV"], strict=True)
    assert report.ok, explain(report)
    assert all(result.marks for result in report.results)


@pytest.mark.parametrize(
    ("mutant", "by"), [("says-stored-before-it-is", "LIV-02"), ("asks-one-after-the-other", "LIV-07")]
)
def test_one_that_loses_a_put_and_one_that_queues_are_caught(mutant: str, by: str) -> None:
    report = run_properties(MutantHarness(mutant), profile="quick", only=["LIV-02", "LIV-07"], strict=True)
    assert [result.id for result in report.results if result.red] == [by], explain(report)
