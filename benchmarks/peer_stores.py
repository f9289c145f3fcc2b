"""Small adapters: every store of the comparison behind the same five calls. No code of theirs stands here.

A store gets RAM and disk capacities in bytes; where it has no RAM tier of its own, `RamLru` is put above it. What a
store cannot do is left undone: none of them is made better than it is.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Store(Protocol):
    """What the worker calls. Keys are texts; `takes` is the type of value that `put` wants, made before it is timed."""

    takes: Callable[[bytearray], Any]

    def get(self, key: str) -> Any: ...
    def put(self, key: str, data: bytearray) -> None: ...
    def in_ram(self, key: str) -> bool: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def bytearray_itself(data: bytearray) -> bytearray:
    return data


class RamLru:
    """Least recently used chunks in memory above a store on disk; puts go through to it."""

    def __init__(self, lower: Any, capacity: int) -> None:
        self._lower = lower
        self.takes: Callable[[bytearray], Any] = getattr(lower, "takes", bytearray_itself)
        self._capacity = capacity
        self._held: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0

    def in_ram(self, key: str) -> bool:
        return key in self._held

    def get(self, key: str) -> Any:
        data = self._held.get(key)
        if data is not None:
            self._held.move_to_end(key)
            return data
        data = self._lower.get(key)
        if data is not None:
            self._keep(key, data)
        return data

    def put(self, key: str, data: bytearray) -> None:
        self._lower.put(key, data)
        self._keep(key, data)

    def _keep(self, key: str, data: Any) -> None:
        old = self._held.pop(key, None)
        self._bytes += len(data) - (len(old) if old is not None else 0)
        self._held[key] = data
        while self._bytes > self._capacity:
            self._bytes -= len(self._held.popitem(last=False)[1])

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._lower.close()


class PlainFiles:
    """One file a chunk, least recently used ones deleted before a write; found again by their names and times."""

    def __init__(self, folder: Path, capacity: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._capacity = capacity
        found = sorted((entry.stat().st_mtime_ns, entry.name, entry.stat().st_size) for entry in os.scandir(folder))
        self._sizes = OrderedDict((name, size) for _, name, size in found)
        self._bytes = sum(self._sizes.values())

    def get(self, key: str) -> Any:
        if key not in self._sizes:
            return None
        self._sizes.move_to_end(key)
        with open(self._folder / key, "rb", buffering=0) as file:
            return file.read()

    def put(self, key: str, data: bytearray) -> None:
        self._bytes += len(data) - self._sizes.pop(key, 0)
        while self._bytes > self._capacity and self._sizes:
            victim, size = self._sizes.popitem(last=False)
            os.unlink(self._folder / victim)
            self._bytes -= size
        with open(self._folder / key, "wb", buffering=0) as file:
            file.write(data)
        self._sizes[key] = len(data)

    def close(self) -> None:
        pass


def plain_files(folder: Path, ram: int, disk: int, block: int) -> Store:
    return RamLru(PlainFiles(folder, disk), ram)


class _Zict:
    takes: Callable[[bytearray], Any] = staticmethod(bytearray_itself)

    def __init__(self, slow: Any, ram: int, disk: int) -> None:
        import zict

        self._slow = slow
        lower = zict.LRU(disk, slow, weight=lambda key, value: len(value))
        self._buffer = zict.Buffer({}, lower, ram, weight=lambda key, value: len(value))

    def in_ram(self, key: str) -> bool:
        return key in self._buffer.fast

    def get(self, key: str) -> Any:
        return self._buffer.get(key)

    def put(self, key: str, data: bytearray) -> None:
        self._buffer[key] = data

    def flush(self) -> None:
        self._buffer.flush()

    def close(self) -> None:
        self._buffer.flush()
        for key in list(self._buffer.fast):  # what is only in memory goes down, as its users do before they leave
            self._buffer.fast.evict(key)
        self._slow.close()


def zict_files(folder: Path, ram: int, disk: int, block: int) -> Store:
    import zict

    return _Zict(zict.File(folder, memmap=False), ram, disk)


def zict_lmdb(folder: Path, ram: int, disk: int, block: int) -> Store:
    import zict

    # Its LRU counts values, LMDB needs pages and free runs of them: the map is larger than the capacity.
    store = _Zict(zict.LMDB(folder, map_size=2 * disk), ram, disk)
    store.takes = bytes
    return store


class _DiskCache:
    takes = bytes  # it pickles a bytearray, and keeps bytes as they are

    def __init__(self, folder: Path, disk: int) -> None:
        import diskcache

        self._cache = diskcache.Cache(
            str(folder), size_limit=disk, eviction_policy="least-recently-used", disk_min_file_size=1 << 15
        )

    def get(self, key: str) -> Any:
        return self._cache.get(key)

    def put(self, key: str, data: bytes) -> None:
        self._cache.set(key, data)

    def close(self) -> None:
        self._cache.close()


def diskcache_files(folder: Path, ram: int, disk: int, block: int) -> Store:
    return RamLru(_DiskCache(folder, disk), ram)


class _SGLang:
    def __init__(self, folder: Path, disk: int, block: int) -> None:
        import torch
        from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig

        self._torch = torch
        self._block = block
        config = HiCacheStorageConfig(
            tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=False,
            enable_storage_metrics=False, is_page_first_layout=False, model_name="peer",
            extra_config={"file_storage_path": str(folder), "max_size": disk, "eviction_ratio": 1.0},
        )  # fmt: skip
        self._store = HiCacheFile(config)

    def get(self, key: str) -> Any:
        if not self._store.exists(key):  # a get of what is absent logs a warning
            return None
        target = self._torch.empty(self._block, dtype=self._torch.uint8)
        found = self._store.get(key, target)
        return None if found is None else memoryview(found.numpy())

    def put(self, key: str, data: bytearray) -> None:
        self._store.set(key, self._torch.frombuffer(data, dtype=self._torch.uint8))

    def close(self) -> None:
        pass


def sglang_files(folder: Path, ram: int, disk: int, block: int) -> Store:
    return RamLru(_SGLang(folder, disk, block), ram)


class _LMCache:
    """LMCache's StorageManager with its CPU and local disk backends, driven as its engine does."""

    takes: Callable[[bytearray], Any] = staticmethod(bytearray_itself)

    def __init__(self, folder: Path, ram: int, disk: int, block: int) -> None:
        import torch
        from lmcache.utils import CacheEngineKey
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.event_manager import EventManager
        from lmcache.v1.memory_management import MemoryFormat
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.storage_manager import StorageManager

        folder.mkdir(parents=True, exist_ok=True)
        tokens = 512
        hidden = block // (2 * 2 * tokens)
        self._shape = torch.Size((2, 1, tokens, hidden))
        self._torch, self._key_type, self._fmt = torch, CacheEngineKey, MemoryFormat.KV_2LTD
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=tokens, local_cpu=True, max_local_cpu_size=ram / 2**30, local_disk=f"file://{folder}/",
            max_local_disk_size=disk / 2**30,
        )  # fmt: skip
        metadata = LMCacheMetadata(
            model_name="peer", world_size=1, local_world_size=1, worker_id=0, local_worker_id=0,
            kv_dtype=torch.bfloat16, kv_shape=(1, 2, tokens, 1, hidden), chunk_size=tokens, role="worker",
        )  # fmt: skip
        self._manager = StorageManager(config, metadata, EventManager())

    def _key(self, key: str) -> Any:
        return self._key_type("peer", 1, 0, int(key, 16), self._torch.bfloat16)

    def in_ram(self, key: str) -> bool:
        return bool(self._manager.storage_backends["LocalCPUBackend"].contains(self._key(key)))

    def get(self, key: str) -> Any:
        found = self._manager.get(self._key(key))
        if found is None:
            return None
        data = bytes(found.byte_array)  # its buffer is reused once it is given back
        found.ref_count_down()
        return data

    def put(self, key: str, data: bytearray) -> None:
        obj = self._manager.allocate(self._shape, self._torch.bfloat16, self._fmt)
        if obj is None:
            raise MemoryError("LMCache allocated nothing")
        obj.tensor.view(self._torch.uint8).reshape(-1).copy_(self._torch.frombuffer(data, dtype=self._torch.uint8))
        self._manager.batched_put([self._key(key)], [obj])

    def flush(self) -> None:
        disk = self._manager.storage_backends["LocalDiskBackend"]
        import time

        while any(disk.exists_in_put_tasks(key) for key in list(getattr(disk.disk_worker, "put_tasks", ()))):
            time.sleep(0.001)

    def close(self) -> None:
        self.flush()
        self._manager.close()


def lmcache_manager(folder: Path, ram: int, disk: int, block: int) -> Store:
    return _LMCache(folder, ram, disk, block)


class _Ours:
    takes: Callable[[bytearray], Any] = staticmethod(bytearray_itself)

    def __init__(self, folder: Path, ram: int, disk: int, block: int, options: str) -> None:
        import torch

        from lms_tiers import CreateStorageBackend
        from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey

        self._device = f"cpu?capacity={ram}B > lmdb:{folder}?capacity={disk}B{options}"
        self._store: Any = CreateStorageBackend(self._device)
        self._key_type, self._message, self._put = OpaqueKey, ClientMetaMessage, ClientCommand.PUT
        self._meta = (block, MemoryFormat.KV_2LTD, torch.bfloat16, torch.Size((2, 1, 512, block // 2048)))

    def in_ram(self, key: str) -> bool:
        return "cpu" in self._store.tiers_of(self._key_type(key))

    def get(self, key: str) -> Any:
        found = self._store.get(self._key_type(key))
        return None if found is None else found.data

    def put(self, key: str, data: bytearray) -> None:
        self._store.put(self._message(self._put, self._key_type(key), *self._meta), data)

    def flush(self) -> None:
        self._store.flush()

    def close(self) -> None:
        self._store.close()


def ours_raw(folder: Path, ram: int, disk: int, block: int) -> Store:
    return _Ours(folder, ram, disk, block, "&codec=raw")


def ours_auto(folder: Path, ram: int, disk: int, block: int) -> Store:
    return _Ours(folder, ram, disk, block, "&codec=auto")


def ours_raw_unsynced(folder: Path, ram: int, disk: int, block: int) -> Store:
    return _Ours(folder, ram, disk, block, "&codec=raw&sync=none")


def ours_auto_unsynced(folder: Path, ram: int, disk: int, block: int) -> Store:
    return _Ours(folder, ram, disk, block, "&codec=auto&sync=none")


#: Name in the table → how it is opened, in the order of the table.
STORES: dict[str, tuple[str, Callable[[Path, int, int, int], Store]]] = {
    "ours-raw-unsynced": ("lms_tiers, codec=raw, sync=none", ours_raw_unsynced),
    "ours-auto-unsynced": ("lms_tiers, codec=auto, sync=none", ours_auto_unsynced),
    "ours-raw": ("lms_tiers, codec=raw", ours_raw),
    "ours-auto": ("lms_tiers, codec=auto", ours_auto),
    "plain": ("plain files, RAM LRU", plain_files),
    "sglang": ("SGLang's file store, RAM LRU", sglang_files),
    "zict-lmdb": ("zict over LMDB", zict_lmdb),
    "diskcache": ("diskcache, RAM LRU", diskcache_files),
    "zict-files": ("zict over files", zict_files),
    "lmcache": ("LMCache StorageManager", lmcache_manager),
}
