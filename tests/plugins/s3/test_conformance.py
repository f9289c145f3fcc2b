"""The kit over a real S3 server; no waivers."""

from __future__ import annotations

import pytest

from tests.plugins.redis.test_conformance import conforms
from tests.plugins.s3.engine import needs_server

pytestmark = [needs_server, pytest.mark.leaks_allowed, pytest.mark.deep]


def test_it_keeps_the_contract() -> None:
    conforms("s3", "quick")
