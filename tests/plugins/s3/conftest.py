from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.s3.engine import S3Server


@pytest.fixture(scope="session", autouse=True)
def runtime() -> None:
    """The threads and descriptors of obstore's runtime, which the process keeps from the first request on."""
    if importlib.util.find_spec("obstore") is not None:
        import obstore

        obstore.put(obstore.store.MemoryStore(), "x", b"")


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for all tests of a process, which keep to prefixes of their own and leave it as it was."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[S3Server]:
    """A server of a test's own, to be hung, killed and emptied."""
    with S3Server(tmp_path) as server:
        yield server
