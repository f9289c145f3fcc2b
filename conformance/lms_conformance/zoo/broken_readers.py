"""Mutants of the optional ways to read: into buffers, lent, as tensors, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import InvalidBufferError
from lms_tiers.interface import ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj

Requests = Iterable[tuple[CacheEngineKey, Sequence[Any]]]


class _First(Wrapper):
    """Remembers the metadata of each key's first put."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self.first: dict[str, ChunkMeta] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note the first."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self.first.setdefault(text_of(client_meta.key), ChunkMeta.of(client_meta, client_meta.length))


@mutant("tells-old-metadata-into-buffers", "OPT-01")
class TellsOldInto(_First):
    """Answers get_into with the metadata of a key's first put, but for the length."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """The new bytes."""
        meta = self.inner.get_into(key, buffer)
        return meta and replace(self.first.get(text_of(key), meta), length=meta.length)


@mutant("lends-with-old-metadata", "OPT-01")
class LendsOld(_First):
    """Lends a chunk with the shape of the key's first put."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """The new bytes."""
        with self.inner.view(key) as view:
            if view is None:
                yield None
            else:
                first = self.first.get(text_of(key), view.meta)
                yield ChunkView(replace(view.meta, shape=first.shape), view.buffers)


@mutant("zeroes-the-rest-of-a-buffer", "OPT-01", "GET-04")
class ZeroesRest(Wrapper):
    """Clears what a buffer has more than the chunk."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """All of it."""
        meta = self.inner.get_into(key, buffer)
        if meta is not None:
            view = memoryview(buffer).cast("B") if memoryview(buffer).nbytes else memoryview(bytearray())
            view[meta.length :] = bytes(len(view) - meta.length)
        return meta


@mutant("counts-elements-for-bytes", "OPT-01")
class CountsElements(Wrapper):
    """Takes the elements of a buffer for its bytes."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Where there are enough."""
        obj = self.inner.get(key)
        if obj is not None and len(buffer) < obj.length:
            raise InvalidBufferError(f"the destination has {len(buffer)} elements.")
        return self.inner.get_into(key, buffer)


@mutant("reads-up-to-the-first-miss", "OPT-01")
class ReadsToMiss(Wrapper):
    """Reads nothing after the first key of a batch that is absent."""

    def get_many_into(self, requests: Requests, **told: Any) -> list[ChunkMeta | None]:
        """A prefix."""
        asked = list(requests)
        held = self.inner.contains_prefix([key for key, _ in asked])
        if told.get("expected"):
            told["expected"] = told["expected"][:held]
        return [*super().get_many_into(asked[:held], **told), *[None] * (len(asked) - held)]


@mutant("calls-answers-spoiled", "OPT-01")
class CallsSpoiled(Wrapper):
    """Names every request as spoiled."""

    def get_many_into(
        self, requests: Requests, *, spoiled: set[int] | None = None, **told: Any
    ) -> list[ChunkMeta | None]:
        """All of them."""
        found = super().get_many_into(requests, spoiled=spoiled, **told)
        if spoiled is not None:
            spoiled.update(range(len(found)))
        return found


@mutant("walks-its-requests-twice", "OPT-01")
class WalksTwice(Wrapper):
    """Counts its requests before it reads them, which an iterator does not survive."""

    def get_many_into(self, requests: Requests, **told: Any) -> list[ChunkMeta | None]:
        """After they were counted."""
        if sum(1 for _ in requests):
            return super().get_many_into(requests, **told)
        return []


@mutant("fails-a-batch-for-one-buffer", "OPT-01", "OPT-09")
class FailsBatch(Wrapper):
    """Raises where one chunk of a batch does not fit its buffers."""

    def get_many_into(self, requests: Requests, **told: Any) -> list[ChunkMeta | None]:
        """Or raise."""
        asked = list(requests)
        for key, buffers in asked:
            obj = self.inner.get(key)
            room = sum(memoryview(b).nbytes for b in buffers if not isinstance(b, str))
            if obj is not None and room < obj.length:
                raise InvalidBufferError(f"the destination has {room} bytes.")
        return super().get_many_into(asked, **told)


@mutant("sorts-the-callers-keys", "OPT-01")
class SortsKeys(Wrapper):
    """Takes keys off the caller's list as it reads them."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """And off the list."""
        found = self.inner.get_many(keys)
        if isinstance(keys, list):
            keys.clear()
        return found


@mutant("batches-its-own-keys-only", "OPT-01", "OPT-14")
class OwnKeysOnly(Wrapper):
    """Misses keys of another library in a batch."""

    def get_many(self, keys: Sequence[Any]) -> list[LMSMemoryObj | None]:
        """Of its own class."""
        return [self.inner.get(k) if isinstance(k, CacheEngineKey) or not text_of(k) else None for k in keys]


@mutant("answers-tensors-of-the-first-dtype", "OPT-01")
class FirstDtype(_First):
    """Answers tensors of the dtype that a key was first put with."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """Of the first."""
        from lms_tiers.messages import torch_dtype

        found = self.inner.get_tensor(key, out)
        kind = torch_dtype(self.first[text_of(key)].dtype) if text_of(key) in self.first else None
        if found is None or out is not None or kind is None or found.nbytes % kind.itemsize:
            return found
        return found.reshape(-1).view(kind)


@mutant("clears-what-out-has-more", "OPT-01")
class ClearsOut(Wrapper):
    """Zeroes `out` before it copies."""

    def get_tensor(self, key: CacheEngineKey, out: Any = None) -> Any:
        """All of it."""
        if out is not None and out.is_contiguous() and self.inner.contains(key):
            obj = self.inner.get(key)
            if obj is not None and obj.length <= out.nbytes:
                out.zero_()
        return self.inner.get_tensor(key, out)


@mutant("lends-what-is-overwritten", "OPT-07")
class LendsOverwritten(Wrapper):
    """Lends one buffer a key, which the next put fills anew."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._rooms: dict[str, bytearray] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And into the room that is lent."""
        self.inner.put(client_meta, kv_chunk_bytes)
        obj = self.inner.get(client_meta.key)
        room = self._rooms.setdefault(text_of(client_meta.key), bytearray())
        data = bytes(obj.data) if obj is not None else b""
        if len(room) == len(data):
            room[:] = data
        else:
            self._rooms[text_of(client_meta.key)] = bytearray(data)

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Of the room."""
        with self.inner.view(key) as view:
            room = self._rooms.get(text_of(key))
            yield view if view is None or room is None else ChunkView(view.meta, (memoryview(room).toreadonly(),))


@mutant("lends-its-own-bytes", "OPT-07")
class LendsItsOwn(Wrapper):
    """Lends what it stores, and whoever borrows may write to it."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._own: dict[str, tuple[ChunkMeta, bytearray]] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And keep a copy."""
        self.inner.put(client_meta, kv_chunk_bytes)
        obj = self.inner.get(client_meta.key)
        if obj is not None:
            self._own[text_of(client_meta.key)] = ChunkMeta.of_obj(client_meta.key, obj), bytearray(obj.data)

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """What is kept."""
        found, own = self.inner.get(key), self._own.get(text_of(key))
        return found if found is None or own is None else own[0].memory_obj(bytes(own[1]))

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """What is kept, writable."""
        with self.inner.view(key) as view:
            own = self._own.get(text_of(key))
            yield view if view is None or own is None else ChunkView(own[0], (memoryview(own[1]),))


@mutant("swallows-a-borrowers-exception", "OPT-07")
class SwallowsBorrowers(Wrapper):
    """Ends a view quietly, whatever its block raised."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Whatever happens."""
        with self.inner.view(key) as view:
            try:
                yield view
            except KeyError:
                return
