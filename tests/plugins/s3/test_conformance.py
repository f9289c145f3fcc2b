"""The kit over a real S3 server; no waivers."""

from __future__ import annotations

import pytest

from tests.depth import nightly
from tests.plugins.redis.test_conformance import conforms
from tests.plugins.s3.engine import needs_server

pytestmark = [needs_server, pytest.mark.leaks_allowed, pytest.mark.deep]


def test_it_keeps_what_keys_reads_writes_and_listings_promise_and_threads_see() -> None:
    conforms("s3", "quick", ["KEY", "PUT", "GET", "OVR", "RMV", "LST", "CON"])


@nightly
def test_it_keeps_the_contract() -> None:
    conforms("s3", "quick")
