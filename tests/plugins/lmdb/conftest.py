"""What the tests of the lmdb backend share: opening stores, chunks by seed, and looking at files."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.plugins.lmdb.history import Walker

#: Random bytes that chunks are cut from: `content(seed, length)` is the same everywhere.
_NOISE = random.Random(20261).randbytes(8 << 20)


def _content(seed: int, length: int) -> bytearray:
    begin = seed * 7919 % (len(_NOISE) - length) if length < len(_NOISE) else 0
    data = bytearray(_NOISE[begin : begin + length])
    if length >= 8:
        data[:8] = seed.to_bytes(8, "little")
    return data


def _message(name: object, length: int) -> ClientMetaMessage:
    return ClientMetaMessage(ClientCommand.PUT, OpaqueKey(str(name)), length, MemoryFormat.BINARY, None, (length,))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def content() -> Callable[[int, int], bytearray]:
    """Bytes by seed and length."""
    return _content


@pytest.fixture(scope="session")
def message() -> Callable[[object, int], ClientMetaMessage]:
    """A put message by key and length."""
    return _message


@pytest.fixture
def tmp_path(shelf: Path) -> Path:
    """In memory, as syncs to a disk that others use take as long as those let them."""
    return shelf


@pytest.fixture(autouse=True)
def _no_checkpoint_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is made because some seconds have passed, on a machine that is busy or not."""
    monkeypatch.setattr(checkpoint, "SECONDS", 1e6)


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[..., LmdbBackend]]:
    """Open a store under the test's folder; closed at the end."""
    with ExitStack() as stack:

        def open_(name: str = "store", capacity: int = 32 << 20, **options: Any) -> LmdbBackend:
            options.setdefault("codec", "raw")
            backend = open_backend(str(tmp_path / name), capacity, LmdbOptions(**options))
            stack.callback(backend.close)
            return backend

        yield open_


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder in memory: thousands of syncs."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


@pytest.fixture
def walker() -> Iterator[Walker]:
    """Walks indexes in a process of its own without a start for each."""
    walker = Walker()
    yield walker
    walker.end()
