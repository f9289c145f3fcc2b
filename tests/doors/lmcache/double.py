"""A double of what the door takes of LMCache: the shapes of its objects, and the duties of its base class.

So the door's logic is tested where LMCache is not installed; where it is, the same tests run against its own classes.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import math
import os
import sys
import types
from abc import ABC, abstractmethod
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class ObjectKey:
    chunk_hash: bytes
    model_name: str
    kv_rank: int
    object_group_id: int = 0
    cache_salt: str = ""

    def to_encoded_object_key(self) -> EncodedObjectKey:
        return EncodedObjectKey(
            self.chunk_hash.hex(), self.model_name, self.kv_rank, self.object_group_id, self.cache_salt
        )


@dataclasses.dataclass(frozen=True)
class EncodedObjectKey:
    chunk_hash_hex: str
    model_name: str
    kv_rank: int
    object_group_id: int
    cache_salt: str


@dataclasses.dataclass(frozen=True)
class KeyEntry:
    key: EncodedObjectKey
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class KeyListPage:
    entries: tuple[KeyEntry, ...]
    next_page_token: str | None


@dataclasses.dataclass(frozen=True)
class MemoryLayoutDesc:
    shapes: list[torch.Size]
    dtypes: list[torch.dtype]


class MemoryFormat(enum.Enum):
    KV_2LTD = 1


class Bitmap:
    def __init__(self, size: int) -> None:
        self._bits = [False] * size

    def batched_set(self, indices: list[int]) -> None:
        for i in indices:
            if i < len(self._bits):
                self._bits[i] = True

    def test(self, index: int) -> bool:
        return self._bits[index]

    def __len__(self) -> int:
        return len(self._bits)


class L2StoreResult(int):
    def __new__(cls, success: bool, bytes_transferred: int) -> L2StoreResult:
        return super().__new__(cls, bytes_transferred if success else -1)

    def is_successful(self) -> bool:
        return self >= 0

    def bytes_transferred(self) -> int:
        return max(0, int(self))


class Notifier:
    """An eventfd; as LMCache's, -1 once it is closed."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def notify(self) -> None:
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def consume_fd(fd: int) -> None:
    os.eventfd_read(fd)


@dataclasses.dataclass(frozen=True)
class Usage:
    total_bytes_used: int
    total_capacity_bytes: int
    bytes_by_cache_salt: dict[str, int]


class L2AdapterInterface(ABC):
    """Counts usage by what it is told, and passes it on to listeners."""

    def __init__(self, max_capacity_bytes: int = 0) -> None:
        self._listeners: list[Any] = []
        self._capacity = max_capacity_bytes
        self._by_salt: dict[str, int] = {}

    @abstractmethod
    def get_store_event_fd(self) -> int: ...
    @abstractmethod
    def get_lookup_and_lock_event_fd(self) -> int: ...
    @abstractmethod
    def get_load_event_fd(self) -> int: ...
    @abstractmethod
    def submit_store_task(self, keys: Any, objects: Any) -> int: ...
    @abstractmethod
    def pop_completed_store_tasks(self) -> dict[int, Any]: ...
    @abstractmethod
    def submit_lookup_and_lock_task(self, keys: Any, group_layout_descs: Any) -> int: ...
    @abstractmethod
    def query_lookup_and_lock_result(self, task_id: int) -> Any: ...
    @abstractmethod
    def submit_unlock(self, keys: Any) -> None: ...
    @abstractmethod
    def submit_load_task(self, keys: Any, objects: Any) -> int: ...
    @abstractmethod
    def query_load_result(self, task_id: int) -> Any: ...
    @abstractmethod
    def close(self) -> None: ...

    def register_listener(self, listener: Any) -> None:
        self._listeners.append(listener)

    def _notify_keys_stored(self, keys: list[ObjectKey], sizes: list[int]) -> None:
        self._count(keys, sizes, 1)
        for listener in self._listeners:
            listener.on_l2_keys_stored(keys, sizes)

    def _notify_keys_accessed(self, keys: list[ObjectKey]) -> None:
        for listener in self._listeners:
            listener.on_l2_keys_accessed(keys)

    def _notify_keys_deleted(self, keys: list[ObjectKey], sizes: list[int]) -> None:
        self._count(keys, sizes, -1)
        for listener in self._listeners:
            listener.on_l2_keys_deleted(keys)

    def _count(self, keys: list[ObjectKey], sizes: list[int], sign: int) -> None:
        for key, size in zip(keys, sizes, strict=True):
            self._by_salt[key.cache_salt] = self._by_salt.get(key.cache_salt, 0) + sign * size

    def get_usage(self) -> Usage:
        used = {salt: nbytes for salt, nbytes in self._by_salt.items() if nbytes}
        return Usage(sum(used.values()), self._capacity, used)


@dataclasses.dataclass
class MemoryObjMetadata:
    shape: torch.Size
    dtype: torch.dtype
    address: int
    phy_size: int
    ref_count: int
    fmt: MemoryFormat = MemoryFormat.KV_2LTD
    shapes: list[torch.Size] | None = None
    dtypes: list[torch.dtype] | None = None


class TensorMemoryObj:
    """Lends its memory as a ctypes array, whose format is not plain "B"."""

    def __init__(self, raw_data: torch.Tensor, metadata: MemoryObjMetadata, parent_allocator: None) -> None:
        self.raw_data = raw_data
        self.metadata = metadata

    def get_size(self) -> int:
        meta = self.metadata
        groups = zip(meta.shapes or [meta.shape], meta.dtypes or [meta.dtype], strict=True)
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in groups)

    def get_memory_format(self) -> MemoryFormat:
        return self.metadata.fmt

    @property
    def byte_array(self) -> memoryview:
        return memoryview((ctypes.c_ubyte * self.get_size()).from_address(self.raw_data.data_ptr()))


#: Where the door, and the tests, look for what.
PLACES: dict[str, list[Any]] = {
    "lmcache": [],
    "lmcache.lmcache_native": [Bitmap],
    "lmcache.v1": [],
    "lmcache.v1.memory_management": [MemoryFormat, MemoryObjMetadata, TensorMemoryObj],
    "lmcache.v1.platform": [consume_fd],
    "lmcache.v1.distributed": [],
    "lmcache.v1.distributed.api": [KeyEntry, KeyListPage, MemoryLayoutDesc, ObjectKey],
    "lmcache.v1.distributed.internal_api": [L2StoreResult],
    "lmcache.v1.distributed.l2_adapters": [],
    "lmcache.v1.distributed.l2_adapters.base": [L2AdapterInterface],
}


def install() -> None:
    """Stand in for LMCache in this process."""
    for name, things in PLACES.items():
        module = types.ModuleType(name)
        module.__path__ = []
        for thing in things:
            setattr(module, thing.__name__, thing)
        if name == "lmcache.v1.platform":
            module.create_event_notifier = Notifier  # type: ignore[attr-defined]
        sys.modules[name] = module
