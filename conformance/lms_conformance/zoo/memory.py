"""The correct in-memory references: a dictionary under a lock, with a budget; a full one refuses, or evicts."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, List, Optional

from lms_tiers.buffers import own_bytes
from lms_tiers.errors import BackendClosedError, CapacityError, ValueTooLargeError
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text


class BareReference(LMSBackendInterface):
    """The five methods and nothing else: what the documentation's first example is."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        self._chunks: dict[str, tuple[bytearray, ChunkMeta]] | None = {}

    def _open(self) -> dict[str, tuple[bytearray, ChunkMeta]]:
        chunks = self._chunks
        if chunks is None:
            raise BackendClosedError("bare reference")
        return chunks

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk."""
        chunks, key = self._open(), key_text(client_meta.key)
        data = own_bytes(kv_chunk_bytes)
        chunks[key] = data, ChunkMeta.of(client_meta, len(data))

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the key is held."""
        return key_text(key) in self._open()

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk."""
        found = self._open().get(key_text(key))
        return None if found is None else found[1].memory_obj(memoryview(found[0]).toreadonly())

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key."""
        return [CacheEngineKey.from_string(text) for text in list(self._open())]

    def close(self) -> None:
        """Forget everything."""
        self._chunks = None


class MemoryReference(LMSBackendInterface):
    """Chunks in memory, least recently used first.

    Parameters
    ----------
    path : str
        Not used.
    capacity : int or None
        Bytes of chunks held at most; a full one refuses, or evicts where the class declares it.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, forkable=True, max_value_bytes=40 * 1024 * 1024)

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        self.capacity = capacity
        self._chunks: OrderedDict[str, tuple[bytearray, ChunkMeta]] = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._used = 0
        self._peak = 0
        self._state: bytes | None = None

    def _guard(self) -> threading.Lock:
        if self._pid != os.getpid():
            # The thread that held the lock when the process was forked is not here to give it back.
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock

    def _check_open(self) -> None:
        if self._closed:
            raise BackendClosedError("memory reference")

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk, making room first where the class evicts."""
        self._check_open()
        key = key_text(client_meta.key)
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data))
        limit = self.capabilities.max_value_bytes
        if limit is not None and len(data) > limit:
            raise ValueTooLargeError(key, len(data), limit, "memory reference")
        with self._guard():
            self._check_open()
            self._make_room(key, len(data))
            self._drop(key)
            self._chunks[key] = data, meta
            self._used += len(data)
            self._peak = max(self._peak, self._used)

    def _make_room(self, key: str, size: int) -> None:
        if self.capacity is None:
            return
        if size > self.capacity:
            raise ValueTooLargeError(key, size, self.capacity, "memory reference")
        old = len(self._chunks[key][0]) if key in self._chunks else 0
        if self._used - old + size <= self.capacity:
            return
        if not self.capabilities.evicts:
            raise CapacityError("memory reference", size, self.capacity - self._used)
        while self._used - old + size > self.capacity:
            self._drop(next(k for k in self._chunks if k != key))

    def _drop(self, key: str) -> None:
        found = self._chunks.pop(key, None)
        if found is not None:
            self._used -= len(found[0])

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the key is held; not a use."""
        text = key_text(key)
        with self._guard():
            self._check_open()
            return text in self._chunks

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk, read-only; it becomes the most recently used."""
        text = key_text(key)
        with self._guard():
            self._check_open()
            found = self._chunks.get(text)
            if found is None:
                return None
            self._chunks.move_to_end(text)
        return found[1].memory_obj(memoryview(found[0]).toreadonly())

    def remove(self, key: CacheEngineKey) -> None:
        """Forget the key."""
        text = key_text(key)
        with self._guard():
            self._check_open()
            self._drop(text)

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key, least recently used first."""
        with self._guard():
            self._check_open()
            return [CacheEngineKey.from_string(text) for text in self._chunks]

    def close(self) -> None:
        """Forget everything."""
        with self._guard():
            self._closed = True
            self._chunks.clear()

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """The chunk's length."""
        text = key_text(key)
        with self._guard():
            self._check_open()
            found = self._chunks.get(text)
        return None if found is None else len(found[0])

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk, least recently used first."""
        with self._guard():
            self._check_open()
            held = list(self._chunks.items())
        for text, (data, meta) in held:
            yield ChunkInfo(CacheEngineKey.from_string(text), meta, len(data))

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """Make `keys` the most recently used."""
        with self._guard():
            self._check_open()
            for key in keys:
                if key_text(key) in self._chunks:
                    self._chunks.move_to_end(key_text(key))

    def stats(self) -> BackendStats:
        """Keys and bytes."""
        with self._guard():
            return BackendStats(keys=len(self._chunks), bytes_used=self._used, bytes_peak=self._peak)

    def save_state(self, state: bytes) -> None:
        """Keep it until close."""
        self._check_open()
        self._state = bytes(state)

    def load_state(self) -> bytes | None:
        """What was kept."""
        self._check_open()
        return self._state


class EvictingReference(MemoryReference):
    """The same, evicting the least recently used chunk when full."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, forkable=True, evicts=True, policy="lru", max_value_bytes=40 * 1024 * 1024
    )


class TensorReference(MemoryReference):
    """The same, for tensors: copies in and out without an intermediate buffer."""

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, forkable=True, tensors=True)

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Store the tensor's bytes in C order."""
        import torch

        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self.put(client_meta, bytearray(memoryview(flat.numpy())))
