"""An open backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from tests.plugins.arena_chunks import MIB


@pytest.fixture
def pinned() -> Iterator[PinnedBackend]:
    with PinnedBackend(64 * MIB, PinnedOptions(threads=2)) as backend:
        yield backend
