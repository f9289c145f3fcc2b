"""Mutants that count wrongly, hold too much, or let the wrong chunk go."""

from __future__ import annotations

import dataclasses
import time
from typing import ClassVar, Optional

from lms_conformance.zoo.files import EvictingFileReference, FileReference
from lms_conformance.zoo.memory import EvictingReference, MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant, with_data
from lms_tiers.buffers import own_bytes
from lms_tiers.interface import BackendStats, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text


@mutant("counts-overwrites", "CAP-01")
class CountsOverwrites(Wrapper):
    """Counts an overwritten key again."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._count = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And count."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._count += 1

    def remove(self, key: CacheEngineKey) -> None:
        """And count down."""
        self._count -= self.inner.contains(key)
        self.inner.remove(key)

    def stats(self) -> BackendStats:
        """With its own count."""
        return dataclasses.replace(self.inner.stats(), keys=self._count)


@mutant("stores-more-than-it-reserves", "CAP-01")
class StoresMore(Wrapper):
    """Takes more for a chunk than it said it would reserve."""

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """A page more."""
        stored = self.inner.stored_bytes(key)
        return None if stored is None else stored + 1_000_000


@mutant("ignores-its-capacity", "CAP-02", base="lru")
class IgnoresCapacity(EvictingReference):
    """Never evicts."""

    def _make_room(self, key: str, size: int) -> None:
        """None is made."""
        if self.capacity is not None and size > self.capacity:
            super()._make_room(key, size)


@mutant("empties-itself-for-the-impossible", "CAP-03", base="lru")
class EmptiesItself(EvictingReference):
    """Evicts everything for a chunk that can never fit, then refuses it."""

    def _make_room(self, key: str, size: int) -> None:
        """All of it."""
        if self.capacity is not None and size > self.capacity:
            for old in list(self._chunks):
                self._drop(old)
        super()._make_room(key, size)


@mutant("drops-the-old-chunk-when-full", "CAP-04")
class DropsOldWhenFull(MemoryReference):
    """Drops the old chunk before it finds that the new one does not fit."""

    def _make_room(self, key: str, size: int) -> None:
        """After dropping."""
        self._drop(key)
        super()._make_room(key, size)


@mutant("never-gives-room-back", "CAP-05")
class NeverGivesBack(MemoryReference):
    """Does not count down when a chunk is removed."""

    def _drop(self, key: str) -> None:
        """Without counting."""
        self._chunks.pop(key, None)


@mutant("reserves-too-little", "CAP-06", base="files")
class ReservesTooLittle(FileReference):
    """Reserves a chunk's length and forgets pages, header and key."""

    def reserve_bytes(self, length: int) -> int:
        """Too little."""
        return length


@mutant("checks-then-stores", "CAP-07", base="lru")
class ChecksThenStores(EvictingReference):
    """Makes room and takes it in two steps, with others in between."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """In two steps."""
        self._check_open()
        key, data = key_text(client_meta.key), own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data))
        with self._guard():
            self._make_room(key, len(data))
        time.sleep(0.002)
        with self._guard():
            self._drop(key)
            self._chunks[key] = data, meta
            self._used += len(data)
            self._peak = max(self._peak, self._used)


@mutant("evicts-the-newest", "EVI-01", base="lru")
class EvictsNewest(EvictingReference):
    """Evicts the chunk just put when it is full."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And let it go at once."""
        full = self.capacity is not None and self._used + len(kv_chunk_bytes) > self.capacity
        super().put(client_meta, kv_chunk_bytes)
        if full:
            self.remove(client_meta.key)


@mutant("evicts-in-order-of-arrival", "EVI-02", base="lru")
class EvictsByArrival(EvictingReference):
    """Evicts in order of arrival, though it declares least recently used."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Not a use."""
        with self._guard():
            self._check_open()
            found = self._chunks.get(key_text(key))
        return None if found is None else found[1].memory_obj(memoryview(found[0]).toreadonly())


@mutant("forgets-recency-on-restart", "EVI-03", base="files-lru")
class ForgetsRecency(EvictingFileReference):
    """Does not keep the order over a restart."""

    def _sync(self) -> None:
        """Without the order."""


@mutant("evicts-early", "EVI-04", base="lru")
class EvictsEarly(EvictingReference):
    """Holds 64 chunks at most, however much room there is."""

    def _make_room(self, key: str, size: int) -> None:
        """By number."""
        while len(self._chunks) > 64:
            self._drop(next(iter(self._chunks)))
        super()._make_room(key, size)


@mutant("evicts-undeclared", "EVI-05")
class EvictsUndeclared(MemoryReference):
    """Evicts when it is full, and does not declare it."""

    def _make_room(self, key: str, size: int) -> None:
        """Silently."""
        while self.capacity is not None and self._chunks and self._used + size > self.capacity:
            self._drop(next(iter(self._chunks)))


@mutant("contains-what-was-evicted", "EVI-06", base="lru")
class ContainsEvicted(EvictingReference):
    """Answers contains for chunks that were evicted."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._ghosts: set[str] = set()

    def _make_room(self, key: str, size: int) -> None:
        """And remember ghosts."""
        before = set(self._chunks)
        super()._make_room(key, size)
        self._ghosts |= before - set(self._chunks)

    def contains(self, key: CacheEngineKey) -> bool:
        """Ghosts, too."""
        return super().contains(key) or key_text(key) in self._ghosts


@mutant("reuses-evicted-memory", "ALI-07", base="lru")
class ReusesEvicted(EvictingReference):
    """Uses the memory of evicted chunks again while readers may hold it."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._arena: dict[str, bytearray] = {}
        self._free: list[bytearray] = []

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Into evicted memory."""
        super().put(client_meta, bytearray(own_bytes(kv_chunk_bytes)))
        held = {k.to_string() for k in self.list_keys()}
        self._free += [self._arena.pop(k) for k in list(self._arena) if k not in held]
        size = len(kv_chunk_bytes)
        buffer = next((b for b in self._free if len(b) == size), None)
        if buffer is None:
            buffer = bytearray(size)
        else:
            self._free.remove(buffer)
        buffer[:] = kv_chunk_bytes
        self._arena[key_text(client_meta.key)] = buffer

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """A view of the memory."""
        obj, buffer = super().get(key), self._arena.get(key_text(key))
        if obj is None or buffer is None:
            return obj
        return with_data(obj, memoryview(buffer).toreadonly())


@mutant("reads-stale-places", "PER-09")
class StalePlaces(MemoryReference):
    """Shows an older chunk of a place that is opened again, though it declares no persistence."""

    graveyard: ClassVar[dict[str, dict[str, tuple[bytearray, ChunkMeta]]]] = {}

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._path = path
        self._chunks.update(self.graveyard.get(path, {}))
        self._first: dict[str, tuple[bytearray, ChunkMeta]] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And keep the first."""
        super().put(client_meta, kv_chunk_bytes)
        key = key_text(client_meta.key)
        self._first.setdefault(key, self._chunks[key])

    def close(self) -> None:
        """And bury it."""
        self.graveyard[self._path] = self._first
        super().close()
