"""The kit over two real S3 servers; no waivers."""

from __future__ import annotations

import pytest

from tests.depth import nightly
from tests.plugins.redis.test_conformance import conforms
from tests.plugins.s3.engine import needs_s3rver, needs_server, s3rver_harness

pytestmark = [needs_server, pytest.mark.leaks_allowed, pytest.mark.deep]


def test_it_keeps_what_keys_reads_writes_and_listings_promise_and_threads_see() -> None:
    conforms("s3", "quick", ["KEY", "PUT", "GET", "OVR", "RMV", "LST", "CON", "LIV"])


@nightly
def test_it_keeps_the_contract() -> None:
    conforms("s3", "ci")


#: Few of them: s3rver fails to list thousands of objects, an object is several files to it, and of a put whose
#: client goes away it stores what has come, over the object that was there.
@needs_s3rver
def test_over_another_server_it_keeps_what_its_engine_decides() -> None:
    conforms(
        s3rver_harness(),
        "quick",
        ["KEY-01", "PUT-01", "OVR-01", "RMV-01", "LST-01", "LST-02", "BAT-01", "SHR-01", "SHR-02"],
    )
