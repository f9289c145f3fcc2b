"""What benchmarks/getter.py measures with: a lower tier of next to nothing, stores over it, and spreads of seconds."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash

from lms_tiers.device import parse_tier
from lms_tiers.factory import open_backend
from lms_tiers.interface import Capabilities, LMSBackendInterface
from lms_tiers.messages import ChunkMeta, ClientCommand, ClientMetaMessage, LMSMemoryObj, MemoryFormat, OpaqueKey
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore

MIB = 1 << 20
BLOCK = 256 << 10

#: Bytes written by one call where chunks lie beside each other.
_RUN = 8 * MIB

clock = time.perf_counter


class ExtentFile(LMSBackendInterface):
    """One flat file of equal extents and a dictionary: no allocator, no durability, checksums only."""

    capabilities = Capabilities(remove=True, persistent=False)

    def __init__(self, path: Path, extent: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._extent = extent
        self._index: dict[str, tuple[int, ChunkMeta, int]] = {}
        self._free: list[int] = []
        self._end = 0

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        self._end += self._extent
        return self._end - self._extent

    def put(self, client_meta: Any, kv_chunk_bytes: Any) -> None:
        self.put_many([(client_meta, kv_chunk_bytes)])

    def put_many(self, items: Any) -> None:
        placed = sorted(((self._place(), meta, data) for meta, data in items), key=lambda item: item[0])
        at = 0
        while at < len(placed):
            end = at + 1
            first = placed[at][0]
            size = len(placed[at][2])
            while end < len(placed) and placed[end][0] == first + size and size < _RUN:
                size += len(placed[end][2])
                end += 1
            os.pwritev(self._fd, [data for _, _, data in placed[at:end]], first)
            at = end
        for offset, meta, data in placed:
            text = meta.key.to_string()
            old = self._index.get(text)
            self._index[text] = offset, ChunkMeta.of(meta, len(data)), xxhash.xxh3_64_intdigest(data)
            if old is not None:
                self._free.append(old[0])

    def get(self, key: Any) -> LMSMemoryObj | None:
        found = self._index.get(key.to_string())
        if found is None:
            return None
        offset, meta, checksum = found
        data = bytearray(meta.length)
        os.preadv(self._fd, [data], offset)
        return meta.memory_obj(data) if xxhash.xxh3_64_intdigest(data) == checksum else None

    def get_many(self, keys: Sequence[Any]) -> list[LMSMemoryObj | None]:
        found = [self._index.get(key.to_string()) for key in keys]
        objs: list[LMSMemoryObj | None] = []
        at = 0
        while at < len(found):
            first = found[at]
            if first is None:
                objs.append(None)
                at += 1
                continue
            run = [first]
            size = first[1].length
            for item in found[at + 1 :]:
                if item is None or item[0] != first[0] + size or size >= MIB:
                    break
                run.append(item)
                size += item[1].length
            datas = [bytearray(meta.length) for _, meta, _ in run]
            os.preadv(self._fd, datas, first[0])
            for (_, meta, checksum), data in zip(run, datas, strict=True):
                objs.append(meta.memory_obj(data) if xxhash.xxh3_64_intdigest(data) == checksum else None)
            at += len(run)
        return objs

    def contains(self, key: Any) -> bool:
        return key.to_string() in self._index

    def list_keys(self) -> list[Any]:
        return [OpaqueKey(text) for text in self._index]

    def remove(self, key: Any) -> None:
        found = self._index.pop(key.to_string(), None)
        if found is not None:
            self._free.append(found[0])

    def close(self) -> None:
        os.close(self._fd)


class Machine:
    """Where a run lies, and what it makes its tiers of."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self._folder = folder
        self._count = itertools.count()

    def path(self) -> Path:
        return self._folder / str(next(self._count))

    def lower(self, capacity: int, extent: int) -> LMSBackendInterface:
        path = self.path()
        if self.options.lower == "lmdb":
            path.mkdir()
            return open_backend(parse_tier(f"lmdb:{path}?capacity={capacity}B&codec=raw&sync=none"))
        return ExtentFile(path, extent)

    def store(self, ram: int, disk: int, extent: int) -> TieredStore:
        return TieredStore(
            [
                TierConfig("cpu", LMSLocalBackend(), ram, Lru(ram, time.monotonic)),
                TierConfig("disk", self.lower(disk, extent), disk, Lru(disk, time.monotonic)),
            ]
        )


def key(i: int) -> OpaqueKey:
    return OpaqueKey(f"{i:016x}")


def meta(i: int, size: int) -> ClientMetaMessage:
    shape = torch.Size((2, 1, 512, size // 2048))
    return ClientMetaMessage(ClientCommand.PUT, key(i), size, MemoryFormat.KV_2LTD, torch.bfloat16, shape)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Microseconds."""
    ordered = sorted(seconds)
    n = len(ordered)
    return {
        "mean": 1e6 * sum(ordered) / n, "p50": 1e6 * ordered[n // 2], "p99": 1e6 * ordered[99 * n // 100],
        "worst": 1e6 * ordered[-1],
    }  # fmt: skip


def each_timed(call: Callable[[Any], Any], over: Sequence[Any]) -> list[float]:
    took = []
    for x in over:
        started = clock()
        found = call(x)
        took.append(clock() - started)
        assert found is not None
    return took
