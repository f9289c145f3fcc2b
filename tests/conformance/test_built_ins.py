"""Every built-in backend, and the tiered store over them, keeps the contract: spec 1.0, no waivers."""

from __future__ import annotations

import pytest
from lms_conformance import run_properties
from lms_conformance.check import explain
from lms_conformance.harness import Harness, harness_for

pytestmark = pytest.mark.leaks_allowed

SUBJECTS = [
    ("cpu", "ci"),
    ("lmdb", "ci"),
    ("cpu?capacity={capacity} > lmdb:{tmp}/kv?capacity={capacity}", "ci"),
    ("cpu?capacity={capacity}", "quick"),
    ("lmdb:{tmp}/kv?capacity={capacity}", "quick"),
    ("lmdb:{tmp}/kv?capacity={capacity}&sync=none", "quick"),
    ("lmdb:{tmp}/kv?capacity={capacity}&sync=commit", "quick"),
    ("pinned", "ci"),
    ("gpu:cpu?capacity={capacity}", "quick"),
    ("pinned?capacity={capacity} > lmdb:{tmp}/kv?capacity={capacity}", "quick"),
    ("faulty", "quick"),
]


def passes(harness: Harness, profile: str) -> None:
    report = run_properties(harness, profile=profile)
    assert report.ok, explain(report)


@pytest.mark.parametrize(("subject", "profile"), SUBJECTS)
def test_it_keeps_the_contract(subject: str, profile: str) -> None:
    passes(harness_for(subject), profile)
