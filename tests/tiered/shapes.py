"""Stores of several shapes, and buffers whose edges are watched, for batches into buffers and out of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lms_tiers.plugins.lmdb.backend import LmdbBackend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from tests.tiered.straight import Straight

CANARY = b"\xa5" * 7


class Room:
    """Buffers of `sizes` inside one array, with canaries around each."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.whole = bytearray(CANARY + b"".join(bytes(size) + CANARY for size in sizes))
        self.buffers = []
        at = len(CANARY)
        for size in sizes:
            self.buffers.append(memoryview(self.whole)[at : at + size])
            at += size + len(CANARY)

    @property
    def data(self) -> bytes:
        return b"".join(self.buffers)

    @property
    def intact(self) -> bool:
        at = 0
        for size in (*self.sizes, 0):
            if self.whole[at : at + len(CANARY)] != CANARY:
                return False
            at += len(CANARY) + size
        return True

    @property
    def untouched(self) -> bool:
        return self.intact and not any(self.data)


def lmdb_at(path: Path, capacity: int = 64 << 20) -> LmdbBackend:
    return LmdbBackend(path, capacity, LmdbOptions.model_validate({"codec": "raw", "sync": "none"}))


def pinned(capacity: int) -> PinnedBackend:
    return PinnedBackend(capacity, PinnedOptions(pin="off", page=4096, threads=1))


MEMORY = 20_000
SHAPES: dict[str, Callable[[Any, Path], Any]] = {
    "memory": lambda bench, path: bench.store(MEMORY),
    "memory that writes": lambda bench, path: bench.store(MEMORY, backends=[Straight()]),
    "memory over memory that writes": lambda bench, path: bench.store(500, MEMORY, backends=[bench.weighed(), Straight()]),
    "an arena over a disk": lambda bench, path: bench.store(
        8 * 4096, 64 << 20, backends=[pinned(8 * 4096), lmdb_at(path)]
    ),
    "a disk": lambda bench, path: bench.store(64 << 20, backends=[lmdb_at(path)]),
    "memory over a disk, never rising": lambda bench, path: bench.store(
        500, 64 << 20, backends=[bench.weighed(), lmdb_at(path)], promote={1: "never"}
    ),
    "with a deadline": lambda bench, path: bench.store(
        500, 64 << 20, backends=[bench.weighed(), lmdb_at(path)], read_deadline=60.0
    ),
}  # fmt: skip
