from __future__ import annotations

from collections.abc import Iterator

import pytest
from lms_conformance import spawned


@pytest.fixture(scope="session", autouse=True)
def zygote_of_the_session() -> Iterator[None]:
    """One fork server for all tests, started before any of them looks at descriptors."""
    assert spawned.zygote().line  # it is ready, not only started
    yield
    spawned.end()
