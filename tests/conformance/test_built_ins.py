"""Every built-in backend, and the tiered store over them, keeps the contract: the kit's own spec, no waivers, nothing vacuous.

What is newer than the spec that gates, and only warns over the backends of others, is red here.

`gpu`, `pinned` and the arena have files of their own in tests/plugins. The kit starts a server for `lm`.
"""

from __future__ import annotations

import os

import pytest
from lms_conformance import run_properties
from lms_conformance.check import explain
from lms_conformance.devices import harness_for
from lms_conformance.prove import prove

from tests.depth import DEPTH, nightly, some

pytestmark = pytest.mark.leaks_allowed

#: More examples of the same properties: LMS_CONFORMANCE_PROFILE=ci or nightly.
PROFILE = os.environ.get("LMS_CONFORMANCE_PROFILE", "quick")


#: A busy machine is no hung tier: by default one that is in a call for 2 s is left alone for a while, and flush says so.
PATIENT = "store?stall=60s > "

#: Families that ask how tiers work together, and what a caller sees of it: not what one tier below them was asked alone.
OF_TIERS = ("PUT", "GET", "OVR", "RMV", "BAT", "OPT", "LIF", "CAP", "EVI", "CON", "SHR", "LIV")

#: Of each subject the families that nothing else here was asked for; none named: all. `DEPTH=2` asks all of all.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "lmdb": (),
    PATIENT + "cpu?capacity={capacity} > lmdb:{tmp}/kv?capacity={capacity}": (),
    "cpu?capacity={capacity}": (),
    # What overwrites, batches, other ways and threads find in a store of one tier is asked of one in memory.
    "lmdb:{tmp}/kv?capacity={capacity}": ("LIF", "CAP", "EVI", "PER"),
    # How a store syncs decides what of it is there after a crash and a reopening.
    "lmdb:{tmp}/kv?capacity={capacity}&sync=none": ("CRA", "PER", "OVR"),
    "lmdb:{tmp}/kv?capacity={capacity}&sync=commit": ("CRA", "PER", "OVR"),
    PATIENT + "pinned?capacity={capacity} > lmdb:{tmp}/kv?capacity={capacity}": (*OF_TIERS, "ALI", "TEN", "RES", "FRK"),
    "faulty": (),
    "lm": (),
    PATIENT + "cpu?capacity={capacity} > lm:{server}?timeout=30&deadline=60s": (*OF_TIERS, "CNT", "PER", "CRA"),
}


#: The one that every run tries: it kills no process and writes no file, which is what takes long.
ALWAYS = "cpu"


@pytest.mark.parametrize("subject", some(SUBJECTS, ALWAYS.__eq__))
def test_it_keeps_the_contract(subject: str) -> None:
    only = SUBJECTS[subject] if DEPTH == 1 else ()
    report = run_properties(harness_for(subject), profile=PROFILE, only=only, strict=True)
    assert report.ok, explain(report)


@pytest.mark.deep
@nightly
@pytest.mark.parametrize("subject", ["cpu", "lm"])
def test_known_bugs_are_caught_in_it(subject: str) -> None:
    harness, told = harness_for(subject), list[str]()
    report = run_properties(harness, profile="quick")
    assert prove(harness, report, told.append), "\n".join(told)
