"""Mutants whose optional methods miss the order, the room or the restart that the main ones keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lms_conformance.zoo.files import FileReference
from lms_conformance.zoo.memory import EvictingReference, MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import CapacityError
from lms_tiers.interface import BackendStats, ChunkView, LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    key_text,
    namespace_of,
)

Item = tuple[ClientMetaMessage, bytearray]


# -- metadata alone --------------------------------------------------------------------------------------------------


class _Sticks(Wrapper):
    """Keeps something of the metadata of a key's first put."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._first: dict[str, ChunkMeta] = {}

    def stick(self, first: ChunkMeta, meta: ChunkMeta) -> ChunkMeta:
        """What is told instead of `meta`."""
        return meta

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """With what sticks."""
        meta = ChunkMeta.of(client_meta, memoryview(kv_chunk_bytes).nbytes)
        text = text_of(client_meta.key)
        stuck = self.stick(self._first.get(text, meta), meta).message(client_meta.key) if text else client_meta
        self.inner.put(stuck, kv_chunk_bytes)
        self._first.setdefault(text, meta)

    def put_many(self, items: Sequence[Item]) -> None:
        """Each so."""
        for message, data in items:
            self.put(message, data)


@mutant("keeps-the-format-of-a-chunk-of-one-length", "OVR-09")
class KeepsFormat(_Sticks):
    """Keeps the format where length, dtype and shape are those of the first put."""

    def stick(self, first: ChunkMeta, meta: ChunkMeta) -> ChunkMeta:
        """The old format."""
        return first if replace(first, fmt=meta.fmt) == meta else meta


@mutant("keeps-the-shape-of-as-many-numbers", "OVR-09")
class KeepsShape(_Sticks):
    """Keeps the shape where there are as many numbers as in the first put."""

    def stick(self, first: ChunkMeta, meta: ChunkMeta) -> ChunkMeta:
        """The old shape."""
        import math

        fits = math.prod(first.shape) == math.prod(meta.shape) and first.length == meta.length
        return replace(meta, shape=first.shape) if fits else meta


@mutant("takes-no-dtype-for-the-old-one", "OVR-09")
class KeepsDtype(_Sticks):
    """Keeps the dtype where an overwrite has none."""

    def stick(self, first: ChunkMeta, meta: ChunkMeta) -> ChunkMeta:
        """The old dtype."""
        return replace(meta, dtype=first.dtype) if meta.dtype is None and first.length == meta.length else meta


@mutant("keeps-the-namespace-of-the-first", "OVR-10")
class KeepsNamespace(_Sticks):
    """Keeps the namespace that a key was first put with."""

    def stick(self, first: ChunkMeta, meta: ChunkMeta) -> ChunkMeta:
        """The old namespace."""
        return meta.within(first.namespace)


@mutant("cuts-namespaces", "OVR-10")
class CutsNamespaces(_Sticks):
    """Keeps 124 bits of a namespace's digest."""

    def stick(self, first: ChunkMeta, meta: ChunkMeta) -> ChunkMeta:
        """Cut."""
        return meta if meta.namespace is None else meta.within(meta.namespace[:-1] + "f")


@mutant("scans-without-namespaces-of-others", "OVR-10")
class ScansOldNamespace(Wrapper):
    """Lends a chunk with the namespace of the put before."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._before: dict[str, str | None] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note the one before."""
        old = self.inner.get(client_meta.key) if text_of(client_meta.key) else None
        self.inner.put(client_meta, kv_chunk_bytes)
        self._before[text_of(client_meta.key)] = namespace_of(old) if old is not None else None

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """With that."""
        with self.inner.view(key) as view:
            yield view and ChunkView(view.meta.within(self._before.get(text_of(key))), view.buffers)


# -- room ------------------------------------------------------------------------------------------------------------


@mutant("gives-no-room-back-for-batches", "CAP-08")
class NoRoomForBatches(MemoryReference):
    """Forgets the chunks of remove_many, and not the room that they took."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """But for their room."""
        used = self._used
        super().remove_many(keys)
        self._used = used


@mutant("charges-tensors-twice", "CAP-08")
class ChargesTwice(MemoryReference):
    """Takes room for a tensor when it comes, and when it is stored."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Twice."""
        super().put_tensor(client_meta, tensor)
        self._used += client_meta.length


@mutant("stores-what-still-fits-of-a-batch", "CAP-09")
class StoresWhatFits(Wrapper):
    """Goes on with a batch behind an item that found no room."""

    def put_many(self, items: Sequence[Item]) -> None:
        """With what fits."""
        full: CapacityError | None = None
        for message, data in items:
            try:
                self.inner.put(message, data)
            except CapacityError as error:
                full = error
        if full is not None:
            raise full


@mutant("drops-a-batch-that-finds-no-room", "CAP-09")
class DropsBatch(Wrapper):
    """Takes old chunks out to make room for a batch, and puts none of them back."""

    def put_many(self, items: Sequence[Item]) -> None:
        """Where it finds room."""
        try:
            self.inner.put_many(items)
        except CapacityError:
            for key in self.inner.list_keys()[:1]:
                self.inner.remove(key)
            raise


@mutant("counts-batches-as-chunks", "CAP-10", "OPT-04")
class CountsBatches(Wrapper):
    """Counts a batch that is removed as one key."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._more = 0

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """And count."""
        held = sum(self.inner.contains_many(list(keys))) if all(text_of(k) for k in keys) else 0
        super().remove_many(keys)
        self._more += max(0, held - 1)

    def stats(self) -> BackendStats:
        """With those."""
        found = self.inner.stats()
        return replace(found, keys=None if found.keys is None else found.keys + self._more)


@mutant("uses-bytes-of-what-it-removed", "CAP-10")
class UsesRemoved(Wrapper):
    """Counts the bytes of what remove_many forgot as used."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._more = 0

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """And count."""
        before = self.inner.stats().bytes_used or 0
        super().remove_many(keys)
        self._more += max(0, before - (self.inner.stats().bytes_used or 0))

    def stats(self) -> BackendStats:
        """With those."""
        found = self.inner.stats()
        used, peak = (found.bytes_used or 0) + self._more, (found.bytes_peak or 0) + self._more
        return replace(found, bytes_used=used, bytes_peak=peak)


# -- uses ------------------------------------------------------------------------------------------------------------


@mutant("does-not-count-views-as-uses", "EVI-07", base="lru")
class NoUseByView(EvictingReference):
    """Lends chunks without noting that they were used."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Past the order."""
        text = key_text(key)
        with self._guard():
            self._check_open()
            found = self._chunks.get(text)
        yield None if found is None else ChunkView(found[1], (memoryview(found[0]).toreadonly(),))


@mutant("counts-asking-as-a-use", "EVI-07", base="lru")
class UseByAsking(EvictingReference):
    """Notes each key as used that contains_many was asked for."""

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """And note it."""
        found = super().contains_many(keys)
        self.touch([k for k, there in zip(keys, found, strict=True) if there])
        return found


@mutant("touches-the-other-end", "EVI-07", base="lru")
class TouchesOther(EvictingReference):
    """Makes what is touched the next to leave."""

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """At the wrong end."""
        with self._guard():
            self._check_open()
            for key in keys:
                if key_text(key) in self._chunks:
                    self._chunks.move_to_end(key_text(key), last=False)


# -- restarts --------------------------------------------------------------------------------------------------------


@mutant("keeps-tensors-until-the-restart", "PER-11", base="files")
class TensorsUntilRestart(Wrapper):
    """Keeps tensors in memory alone."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._tensors: dict[str, CacheEngineKey] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """In the files."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._tensors.pop(text_of(client_meta.key), None)

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """Until close."""
        self.inner.put_tensor(client_meta, tensor)
        self._tensors[text_of(client_meta.key)] = client_meta.key

    def close(self) -> None:
        """And forget them."""
        while self._tensors:
            self.inner.remove(self._tensors.popitem()[1])
        self.inner.close()


@mutant("brings-back-what-remove-many-forgot", "PER-11", base="files")
class BringsBack(FileReference):
    """Forgets the chunks of remove_many in memory, and leaves their files."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """And bring the files back."""
        texts = [key_text(k) for k in keys]
        kept = {t: self._file(t).read_bytes() for t in texts if self._file(t).exists()}
        super().remove_many(keys)
        for text, blob in kept.items():
            self._file(text).write_bytes(blob)

    def _file(self, text: str) -> Any:
        from lms_conformance.zoo.files import file_of

        return file_of(self.path, text)
