from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.plugins.redis.engine import RedisCluster, RedisServer


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of a process, which keep to prefixes of their own and leave it as it was."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries and three replicas, likewise."""
    with ExitStack() as stack:
        yield RedisCluster(tmp_path_factory.mktemp("redis-cluster"), stack)


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of a test's own, to be hung, killed and filled."""
    with RedisServer(tmp_path / "redis") as server:
        yield server
