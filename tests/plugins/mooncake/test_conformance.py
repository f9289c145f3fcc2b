"""The kit over a real Mooncake Store; no waivers."""

from __future__ import annotations

import pytest

from tests.depth import nightly
from tests.plugins.mooncake.engine import needs_server
from tests.plugins.redis.test_conformance import conforms

pytestmark = [needs_server, pytest.mark.leaks_allowed, pytest.mark.deep]

FAMILIES = [
    "KEY-01",
    "PUT-01",
    "OVR-01",
    "RMV-01",
    "BAT-07",
    "CON-01",
    "SHR-01",
    "SHR-02",
    "SHR-03",
    "LIV-01",
    "LIV-02",
    "LIV-03",
]


def test_it_keeps_what_overwrites_removals_threads_others_and_sick_days_promise() -> None:
    conforms("mooncake", "quick", FAMILIES)


@nightly
def test_it_keeps_the_contract() -> None:
    conforms("mooncake", "ci")
