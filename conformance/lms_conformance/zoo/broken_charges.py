"""Mutants whose books drift: what is refused, absent, small, evicted or done in batches is charged or ordered wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lms_conformance.zoo.files import FileReference
from lms_conformance.zoo.memory import EvictingReference, MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import BackendStats, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text

Item = tuple[ClientMetaMessage, bytearray]


@mutant("gives-room-back-for-what-is-absent", "CAP-11")
class RoomForAbsent(MemoryReference):
    """Gives room back for each removal, of an absent key too."""

    def remove(self, key: CacheEngineKey) -> None:
        """And give back."""
        absent = not self.contains(key)
        super().remove(key)
        if absent:
            self._used = max(0, self._used - 65536)


@mutant("charges-what-it-refuses", "CAP-11")
class ChargesRefused(MemoryReference):
    """Takes room for a chunk before it looks at its metadata, and keeps it where that is refused."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Or keep its room."""
        try:
            super().put(client_meta, kv_chunk_bytes)
        except LmsTiersError:
            self._used += memoryview(kv_chunk_bytes).nbytes
            raise


@mutant("gives-back-the-new-length", "CAP-11")
class GivesBackNew(MemoryReference):
    """Gives back the length of the new chunk for the old one that it overwrites."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Miscounted."""
        old = self._chunks.get(text_of(client_meta.key))
        super().put(client_meta, kv_chunk_bytes)
        if old is not None:
            self._used += len(old[0]) - memoryview(kv_chunk_bytes).nbytes


@mutant("charges-bare-lengths", "CAP-12", base="files")
class ChargesBare(FileReference):
    """Charges a chunk's bytes alone where its file takes a block at least."""

    def reserve_bytes(self, length: int) -> int:
        """Enough, as it says."""
        return super().reserve_bytes(length)

    def _make_room(self, key: str, size: int) -> None:
        if size > 16384:
            super()._make_room(key, size)


@mutant("tells-what-is-left-for-usable", "OPT-13")
class TellsLeft(MemoryReference):
    """Answers usable_bytes with what is left of them."""

    @property
    def usable_bytes(self) -> int | None:
        """What is left."""
        return None if self.capacity is None else max(1, self.capacity - self._used)


@mutant("reserves-by-what-it-saw", "OPT-13")
class ReservesBySeen(Wrapper):
    """Reserves less once chunks have compressed well."""

    _puts = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And learn."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._puts += 1

    def reserve_bytes(self, length: int) -> int:
        """By the ratio so far."""
        most = self.inner.reserve_bytes(length)
        return most if self._puts < 1 else most // 2


@mutant("counts-what-was-evicted", "EVI-10", base="lru")
class CountsEvicted(EvictingReference):
    """Counts keys up with each new one, and down with remove alone."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._count = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And count."""
        new = text_of(client_meta.key) not in self._chunks
        super().put(client_meta, kv_chunk_bytes)
        self._count += new

    def remove(self, key: CacheEngineKey) -> None:
        """And count down."""
        self._count -= self.contains(key)
        super().remove(key)

    def stats(self) -> BackendStats:
        """As counted."""
        return replace(super().stats(), keys=self._count)


@mutant("scans-what-was-evicted", "EVI-10", base="lru")
class ScansEvicted(EvictingReference):
    """Scans chunks that were evicted, out of an index that eviction does not reach."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._index: dict[str, ChunkInfo] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And into the index."""
        super().put(client_meta, kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, client_meta.length)
        self._index[text_of(client_meta.key)] = ChunkInfo(client_meta.key, meta, client_meta.length)

    def remove(self, key: CacheEngineKey) -> None:
        """Out of it, too."""
        super().remove(key)
        self._index.pop(text_of(key), None)

    def scan(self) -> Iterator[ChunkInfo]:
        """Of the index."""
        self._check_open()
        for text, info in list(self._index.items()):
            yield replace(info, key=CacheEngineKey.from_string(text))


@mutant("knows-sizes-of-what-was-evicted", "EVI-10", base="lru")
class SizesOfEvicted(EvictingReference):
    """Answers stored_bytes and contains_many of chunks that were evicted."""

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._sizes: dict[str, int] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note the size."""
        super().put(client_meta, kv_chunk_bytes)
        self._sizes[text_of(client_meta.key)] = client_meta.length

    def remove(self, key: CacheEngineKey) -> None:
        """And forget it."""
        super().remove(key)
        self._sizes.pop(text_of(key), None)

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """As noted."""
        super().stored_bytes(key)
        return self._sizes.get(key_text(key))


@mutant("touches-in-reverse", "EVI-09", base="lru")
class TouchesReversed(EvictingReference):
    """Touches keys from the end of the list."""

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """From the end."""
        super().touch(list(reversed(keys)))


@mutant("uses-the-first-of-a-batch", "EVI-09", base="lru")
class UsesFirst(EvictingReference):
    """Counts a batch that is read as a use of its first key."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """A use of the first."""
        self._check_open()
        answers: list[LMSMemoryObj | None] = []
        for i, key in enumerate(keys):
            found = self._chunks.get(key_text(key))
            if i == 0:
                answers.append(self.get(key))
            else:
                answers.append(None if found is None else found[1].memory_obj(memoryview(found[0]).toreadonly()))
        return answers


@mutant("takes-a-refused-put-for-a-use", "EVI-09", base="lru")
class RefusedIsUse(EvictingReference):
    """Moves a key to the end before it looks at the new chunk."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """After a move."""
        if text_of(client_meta.key) in self._chunks:
            self._chunks.move_to_end(text_of(client_meta.key))
        super().put(client_meta, kv_chunk_bytes)


@mutant("overwrites-in-batches-without-a-use", "EVI-09", base="lru")
class OverwritesWithoutUse(EvictingReference):
    """Leaves a key where it stood when a batch overwrites it."""

    def put_many(self, items: Sequence[Item]) -> None:
        """And all in their old places, the new ones behind them."""
        before = list(self._chunks)
        super().put_many(items)
        for text in [*before, *(text for text in list(self._chunks) if text not in before)]:
            if text in self._chunks:
                self._chunks.move_to_end(text)


@mutant("evicts-the-newest-of-a-batch", "EVI-09", base="lru")
class EvictsNewestOfBatch(EvictingReference):
    """Stores a batch as far as there is room without evicting, and drops the rest in silence."""

    def put_many(self, items: Sequence[Item]) -> None:
        """While there is room."""
        for i, (message, data) in enumerate(items):
            if i and self.capacity is not None and self._used + len(data) > self.capacity:
                return
            self.put(message, data)


@mutant("shares-its-counters", "LIF-13")
class SharesCounters(Wrapper):
    """Counts the keys of every backend of the process together."""

    counted = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And count the bytes."""
        self.inner.put(client_meta, kv_chunk_bytes)
        type(self).counted += client_meta.length

    def stats(self) -> BackendStats:
        """With those of all."""
        return replace(self.inner.stats(), bytes_written=type(self).counted)


@mutant("shares-its-state", "LIF-13")
class SharesState(Wrapper):
    """Keeps one state for every place."""

    kept: bytes | None = None

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._mine = False

    def save_state(self, state: bytes) -> None:
        """For all."""
        self.inner.save_state(state)
        type(self).kept = bytes(state)

    def load_state(self) -> bytes | None:
        """Whose ever it is."""
        self.inner.load_state()
        return type(self).kept
