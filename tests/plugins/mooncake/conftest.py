from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.mooncake.engine import MooncakeServer


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MooncakeServer]:
    """A store for all tests of a process, which keep to prefixes of their own."""
    with MooncakeServer(tmp_path_factory.mktemp("mooncake") / "own") as server:
        yield server


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[MooncakeServer]:
    """A store of a test's own, to be hung and killed."""
    with MooncakeServer(tmp_path / "doomed") as server:
        yield server
