"""Thin adapters: each gives a foreign store the five methods and `remove`, and adds nothing that could hide a fault.

Where a store keeps one value per key, the value is the packed metadata followed by the bytes. Nothing here locks,
retries, verifies or copies more than the store's own interface asks for. Use after close is the adapter's own answer,
for none of these stores promises one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lms_tiers.errors import BackendClosedError, UnsupportedError
from lms_tiers.interface import Capabilities, LMSBackendInterface
from lms_tiers.keys import CacheEngineKey, key_text
from lms_tiers.messages import ChunkMeta, ClientMetaMessage, LMSMemoryObj


class Foreign(LMSBackendInterface):
    """The five methods and `remove` over a store's own get, set, delete and list."""

    capabilities = Capabilities(remove=True)

    def __init__(self) -> None:
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise BackendClosedError(type(self).__name__)

    @abc.abstractmethod
    def _set(self, text: str, meta: bytes, data: Any) -> None: ...

    @abc.abstractmethod
    def _get(self, text: str) -> tuple[ChunkMeta, Any] | None: ...

    @abc.abstractmethod
    def _delete(self, text: str) -> None: ...

    @abc.abstractmethod
    def _texts(self) -> Iterable[str]: ...

    def _has(self, text: str) -> bool:
        return self._get(text) is not None

    def _shut(self) -> None:
        return

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self._open()
        meta = ChunkMeta.of(client_meta, memoryview(kv_chunk_bytes).nbytes)
        self._set(key_text(client_meta.key), meta.pack(), kv_chunk_bytes)

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        self._open()
        found = self._get(key_text(key))
        return None if found is None else found[0].memory_obj(found[1])

    def contains(self, key: CacheEngineKey) -> bool:
        self._open()
        return self._has(key_text(key))

    def list_keys(self) -> list[CacheEngineKey]:
        self._open()
        return [CacheEngineKey.from_string(text) for text in self._texts()]

    def remove(self, key: CacheEngineKey) -> None:
        self._open()
        self._delete(key_text(key))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shut()


def _split(value: Any) -> tuple[ChunkMeta, Any]:
    meta, size = ChunkMeta.unpack(value)
    return meta, memoryview(value)[size:]


class Mapping(Foreign):
    """A mutable mapping from text to bytes, such as zict's."""

    def __init__(self, mapping: Any, shut: Callable[[], None]) -> None:
        super().__init__()
        self._mapping = mapping
        self._close_mapping = shut

    def _set(self, text: str, meta: bytes, data: Any) -> None:
        self._mapping[text] = meta + bytes(data)

    def _get(self, text: str) -> tuple[ChunkMeta, Any] | None:
        try:
            return _split(self._mapping[text])
        except KeyError:
            return None

    def _has(self, text: str) -> bool:
        return text in self._mapping

    def _delete(self, text: str) -> None:
        self._mapping.pop(text, None)

    def _texts(self) -> Iterable[str]:
        return list(self._mapping)

    def _shut(self) -> None:
        self._close_mapping()


def zict_file(path: str) -> Foreign:
    """zict: a least-recently-used buffer in memory over one file per key."""
    import zict

    slow = zict.File(Path(path) / "zict", memmap=False)
    buffer = zict.Buffer({}, slow, 1 << 20, weight=lambda key, value: len(value))
    return Mapping(buffer, lambda: (buffer.flush(), buffer.close())[0])


def zict_lmdb(path: str) -> Foreign:
    """zict: a least-recently-used buffer in memory over LMDB."""
    import zict

    slow = zict.LMDB(Path(path) / "zict", map_size=1 << 30)
    buffer = zict.Buffer({}, slow, 1 << 20, weight=lambda key, value: len(value))
    return Mapping(buffer, lambda: (buffer.flush(), buffer.close())[0])


class DiskCache(Foreign):
    """diskcache: SQLite for small values, files for large ones."""

    capabilities = Capabilities(remove=True, persistent=True)

    def __init__(self, path: str) -> None:
        import diskcache

        super().__init__()
        self._cache = diskcache.Cache(str(Path(path) / "diskcache"), size_limit=1 << 40)

    def _set(self, text: str, meta: bytes, data: Any) -> None:
        self._cache.set(text, meta + bytes(data))

    def _get(self, text: str) -> tuple[ChunkMeta, Any] | None:
        value = self._cache.get(text)
        return None if value is None else _split(value)

    def _has(self, text: str) -> bool:
        return text in self._cache

    def _delete(self, text: str) -> None:
        self._cache.delete(text)

    def _texts(self) -> Iterable[str]:
        return list(self._cache)

    def _shut(self) -> None:
        self._cache.close()


class ObstoreMemory(Foreign):
    """obstore's store in memory; metadata travels as an attribute of the object, the bytes are handed over as given."""

    def __init__(self) -> None:
        from obstore.store import MemoryStore

        super().__init__()
        self._store = MemoryStore()

    def _set(self, text: str, meta: bytes, data: Any) -> None:
        import obstore

        obstore.put(self._store, text, data, attributes={"lms-meta": meta.hex()}, use_multipart=False)

    def _get(self, text: str) -> tuple[ChunkMeta, Any] | None:
        import obstore

        try:
            found = obstore.get(self._store, text)
        except FileNotFoundError:
            return None
        return ChunkMeta.unpack(bytes.fromhex(found.attributes["lms-meta"]))[0], memoryview(found.bytes())

    def _delete(self, text: str) -> None:
        import obstore

        obstore.delete(self._store, text)

    def _texts(self) -> Iterable[str]:
        import obstore

        return [entry["path"] for entry in obstore.list(self._store).collect()]


def obstore_memory(path: str) -> Foreign:
    """obstore's store in memory, which needs no place."""
    return ObstoreMemory()


class ObstoreLocal(Foreign):
    """obstore's store over a directory."""

    capabilities = Capabilities(remove=True, persistent=True)

    def __init__(self, path: str) -> None:
        from obstore.store import LocalStore

        super().__init__()
        self._store = LocalStore(Path(path) / "obstore", mkdir=True)

    def _set(self, text: str, meta: bytes, data: Any) -> None:
        import obstore

        obstore.put(self._store, text, meta + bytes(data))

    def _get(self, text: str) -> tuple[ChunkMeta, Any] | None:
        import obstore

        try:
            return _split(obstore.get(self._store, text).bytes())
        except FileNotFoundError:
            return None

    def _delete(self, text: str) -> None:
        import obstore

        try:
            obstore.delete(self._store, text)
        except FileNotFoundError:
            return

    def _texts(self) -> Iterable[str]:
        import obstore

        return [entry["path"] for entry in obstore.list(self._store).collect()]


class SGLangFile(Foreign):
    """SGLang's HiCacheFile; it reads into a tensor of known size, so the adapter keeps sizes and metadata by key."""

    capabilities = Capabilities()

    def __init__(self, path: str) -> None:
        from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig

        super().__init__()
        folder = str(Path(path) / "hicache")
        config = HiCacheStorageConfig(
            tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=False,
            enable_storage_metrics=False, is_page_first_layout=False, model_name="m",
            extra_config={"file_storage_path": folder},
        )  # fmt: skip
        self._store = HiCacheFile(config)
        self._metas: dict[str, bytes] = {}

    def _set(self, text: str, meta: bytes, data: Any) -> None:
        import torch

        value = torch.frombuffer(bytearray(data) or bytearray(1), dtype=torch.uint8)[: memoryview(data).nbytes]
        if self._store.set(text, value):
            self._metas[text] = meta

    def _get(self, text: str) -> tuple[ChunkMeta, Any] | None:
        import torch

        packed = self._metas.get(text)
        if packed is None:
            return None
        meta, _ = ChunkMeta.unpack(packed)
        found = self._store.get(text, torch.empty(meta.length, dtype=torch.uint8))
        return None if found is None else (meta, memoryview(found.numpy()))

    def _has(self, text: str) -> bool:
        return bool(self._store.exists(text))

    def _delete(self, text: str) -> None:
        raise UnsupportedError("HiCacheFile", "remove")  # it offers `clear` only

    def _texts(self) -> Iterable[str]:
        return list(self._metas)


class LMCacheDisk(Foreign):
    """LMCache's LocalDiskBackend with its own event loop and staging memory, driven as its engine does."""

    def __init__(self, path: str) -> None:
        import asyncio
        import threading

        import torch
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
        from lmcache.v1.storage_backend.local_disk_backend import LocalDiskBackend

        super().__init__()
        folder = Path(path) / "lmcache"
        folder.mkdir(exist_ok=True)
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=256, local_cpu=False, max_local_cpu_size=0.25, local_disk=f"file://{folder}/",
            max_local_disk_size=4.0,
        )  # fmt: skip
        metadata = LMCacheMetadata(
            model_name="m", world_size=1, local_world_size=1, worker_id=0, local_worker_id=0,
            kv_dtype=torch.uint8, kv_shape=(1, 1, 256, 1, 16), chunk_size=256, role="worker",
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lmcache-loop")
        self._thread.start()
        self._cpu = LocalCPUBackend(config, metadata)
        self._disk = LocalDiskBackend(config, self._loop, self._cpu, metadata=metadata)
        self._metas: dict[str, bytes] = {}

    def _key(self, text: str) -> Any:
        import torch
        from lmcache.utils import CacheEngineKey as Theirs

        return Theirs(text, 1, 0, 0, torch.uint8)

    def _set(self, text: str, meta: bytes, data: Any) -> None:
        import threading

        import torch
        from lmcache.v1.memory_management import MemoryFormat

        nbytes = memoryview(data).nbytes
        obj = self._cpu.allocate(torch.Size((1, 1, nbytes, 1)), torch.uint8, MemoryFormat.KV_2LTD)
        if obj is None:
            raise MemoryError(f"LMCache allocated nothing for {nbytes} bytes")
        if nbytes:
            obj.tensor.reshape(-1).copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        key, written = self._key(text), threading.Event()
        self._metas[text] = meta
        if not self._disk.contains(key):
            self._disk.submit_put_task(key, obj, on_complete_callback=lambda _: written.set())
            written.wait(1)  # a write that fails never calls back
        else:
            self._disk.submit_put_task(key, obj)
        obj.ref_count_down()

    def _get(self, text: str) -> tuple[ChunkMeta, Any] | None:
        packed = self._metas.get(text)
        found = self._disk.get_blocking(self._key(text))
        if packed is None or found is None:
            return None
        data = bytes(found.byte_array)
        found.ref_count_down()
        return ChunkMeta.unpack(packed)[0], data

    def _has(self, text: str) -> bool:
        return bool(self._disk.contains(self._key(text)))

    def _delete(self, text: str) -> None:
        self._disk.remove(self._key(text))
        self._metas.pop(text, None)

    def _texts(self) -> Iterable[str]:
        return [key.model_name for key in list(self._disk.dict)]

    def _shut(self) -> None:
        self._disk.close()
        self._cpu.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


#: Distribution it comes from, and how it is opened, by the name in the report.
STORES: dict[str, tuple[str, Callable[[str], LMSBackendInterface]]] = {
    "zict over File": ("zict", zict_file),
    "zict over LMDB": ("zict", zict_lmdb),
    "diskcache": ("diskcache", DiskCache),
    "obstore MemoryStore": ("obstore", obstore_memory),
    "obstore LocalStore": ("obstore", ObstoreLocal),
    "SGLang HiCacheFile": ("sglang", SGLangFile),
    "LMCache LocalDiskBackend": ("lmcache", LMCacheDisk),
}
