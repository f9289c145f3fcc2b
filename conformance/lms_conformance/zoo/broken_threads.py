"""Mutants that race."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, List, Optional

from lms_conformance.zoo.memory import EvictingReference, MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.buffers import own_bytes
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
    OpaqueKey,
    key_text,
)

#: Long enough for another thread to come between.
GAP = 3e-4


@mutant("lists-while-others-write", "LST-04")
class ListsLive(MemoryReference):
    """Walks its dictionary while others change it."""

    def list_keys(self) -> List[CacheEngineKey]:
        """Live."""
        self._check_open()
        found: list[CacheEngineKey] = []
        for text in self._chunks:
            found.append(CacheEngineKey.from_string(text))
            if len(found) % 10 == 0:
                time.sleep(GAP)
        return found


@mutant("removes-before-it-stores", "CON-01")
class RemovesBeforeStoring(Wrapper):
    """Overwrites by removing and then storing."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """In two steps."""
        if text_of(client_meta.key) and self.inner.contains(client_meta.key):
            self.inner.remove(client_meta.key)
            time.sleep(GAP)
        self.inner.put(client_meta, kv_chunk_bytes)


@mutant("races-without-a-gap", "CON-01")
class Races(MemoryReference):
    """Reads what is there and pops it in two steps of plain Python: a race that only preemption shows."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Without the lock."""
        self._check_open()
        key, data = key_text(client_meta.key), own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data))
        if key in self._chunks:
            del self._chunks[key]
        self._chunks[key] = data, meta

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Without the lock."""
        self._check_open()
        found = self._chunks.get(key_text(key))
        return None if found is None else found[1].memory_obj(memoryview(found[0]).toreadonly())


@mutant("writes-back-what-it-read", "CON-02")
class WritesBack(Wrapper):
    """Puts what a get read back a moment later, as a promotion without a generation does."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """And write it back."""
        obj = self.inner.get(key)
        if obj is not None and obj.dtype is not None:
            time.sleep(GAP)
            meta = ChunkMeta(obj.length, obj.fmt, str(obj.dtype).removeprefix("torch."), tuple(obj.shape))
            self.inner.put(meta.message(key), bytearray(obj.data))
        return obj


@mutant("mixes-large-chunks", "CON-03")
class MixesLarge(Wrapper):
    """Writes a large chunk into its buffer in two halves, beside readers."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._buffers: dict[str, bytearray] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """In two halves."""
        data = own_bytes(kv_chunk_bytes)
        buffer = self._buffers.get(text_of(client_meta.key))
        self.inner.put(client_meta, bytearray(data))
        if buffer is not None and len(buffer) == len(data) > 65536:
            half = len(data) // 2
            buffer[:half] = data[:half]
            time.sleep(GAP)
            buffer[half:] = data[half:]
        else:
            self._buffers[text_of(client_meta.key)] = data

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """A copy of the buffer."""
        obj, buffer = self.inner.get(key), self._buffers.get(text_of(key))
        if obj is None or buffer is None or len(buffer) != obj.length:
            return obj
        return dataclasses.replace(obj, data=bytearray(buffer))


@mutant("empties-a-batch-first", "CON-04")
class EmptiesBatchFirst(Wrapper):
    """Removes a batch's keys before it stores the batch."""

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """After removing."""
        for message, _ in items:
            self.inner.remove(message.key)
        time.sleep(GAP)
        self.inner.put_many(items)


@mutant("shares-a-scratch-buffer", "CON-05")
class SharesScratch(Wrapper):
    """Passes each put through one attribute."""

    _scratch: Any = None

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """By way of the attribute."""
        self._scratch = client_meta, kv_chunk_bytes
        time.sleep(GAP)
        message, data = self._scratch
        self.inner.put(message, bytearray(data))


@mutant("keeps-a-second-list", "CON-06")
class KeepsSecondList(Wrapper):
    """Keeps the keys in a set of its own and updates it a moment later."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._keys: set[str] = set()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And then into the set."""
        self.inner.put(client_meta, kv_chunk_bytes)
        time.sleep(GAP)
        self._keys.add(text_of(client_meta.key))

    def remove(self, key: CacheEngineKey) -> None:
        """And then out of the set."""
        self.inner.remove(key)
        time.sleep(GAP)
        self._keys.discard(text_of(key))

    def list_keys(self) -> List[CacheEngineKey]:
        """What the set says."""
        self.inner.list_keys()
        return [OpaqueKey(text) for text in list(self._keys)]


@mutant("evicts-beneath-a-reader", "CON-07", base="lru")
class EvictsBeneathReader(EvictingReference):
    """Copies a chunk in two halves, while a put may take its memory."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._memory = bytearray(8 << 20)

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Into the one memory."""
        super().put(client_meta, bytearray(own_bytes(kv_chunk_bytes)))
        self._memory[: len(kv_chunk_bytes)] = kv_chunk_bytes
        self._newest = key_text(client_meta.key)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """In two halves."""
        obj = super().get(key)
        if obj is None or obj.length < 1 << 20 or key_text(key) != self._newest:
            return obj
        half = obj.length // 2
        first = bytes(self._memory[:half])
        time.sleep(0.004)
        return dataclasses.replace(obj, data=bytearray(first + bytes(self._memory[half : obj.length])))
