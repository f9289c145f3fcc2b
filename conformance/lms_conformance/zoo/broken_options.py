"""Mutants of the optional ways to write, to forget, and to change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, List

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import CapacityError, LmsTiersError
from lms_tiers.interface import ChunkInfo, LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
    MemoryFormat,
    OpaqueKey,
)

Item = tuple[ClientMetaMessage, bytearray]
EMPTY = ChunkMeta(0, MemoryFormat.BINARY, None, ())


# -- writing ---------------------------------------------------------------------------------------------------------


@mutant("keeps-the-buffers-of-a-batch", "OPT-03")
class KeepsBuffers(Wrapper):
    """Copies what a batch brought when it is first asked for anything."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._late: list[Item] = []

    def put_many(self, items: Sequence[Item]) -> None:
        """Later, where the sizes are right."""
        for message, data in items:
            ChunkMeta.of(message, memoryview(data).nbytes)
        self._late += [(ChunkMeta.of(m, m.length).message(m.key), d) for m, d in items]

    def _settle(self) -> None:
        late, self._late = self._late, []
        with contextlib.suppress(LmsTiersError):
            self.inner.put_many(late)

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """Now."""
        self._settle()
        return self.inner.get(key)

    def list_keys(self) -> List[CacheEngineKey]:
        """Now."""
        self._settle()
        return self.inner.list_keys()

    def scan(self) -> Iterator[ChunkInfo]:
        """Now."""
        self._settle()
        return self.inner.scan()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """After what came before it."""
        self._settle()
        self.inner.put(client_meta, kv_chunk_bytes)


@mutant("keeps-the-messages-of-a-batch", "OPT-03")
class KeepsMessages(Wrapper):
    """Reads the shapes of a batch's messages again when a chunk is read."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._messages: dict[str, Any] = {}

    def put_many(self, items: Sequence[Item]) -> None:
        """And keep the messages."""
        self.inner.put_many(items)
        self._messages.update({text_of(m.key): m for m, _ in items})

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And forget the message."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._messages.pop(text_of(client_meta.key), None)

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """With the message's shape."""
        found, message = self.inner.get(key), self._messages.get(text_of(key))
        if found is None or message is None:
            return found
        return LMSMemoryObj(found.data, found.length, found.fmt, found.dtype, message.shape)


@mutant("takes-items-off-the-callers-list", "OPT-03")
class TakesItems(Wrapper):
    """Takes what it stored off the caller's list."""

    def put_many(self, items: Sequence[Item]) -> None:
        """And off the list."""
        self.inner.put_many(items)
        if isinstance(items, list):
            items.clear()


@mutant("copies-what-it-was-not-asked-for", "OPT-03", "OPT-11")
class CopiesAnything(Wrapper):
    """Copies from another backend what it has under a key, just so or not."""

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Whatever it is."""
        held = []
        for message in client_metas:
            obj = source.get(message.key)
            held.append(obj is not None)
            if obj is not None:
                self.inner.put(ChunkMeta.of_obj(message.key, obj).message(message.key), bytearray(obj.data))
        return held


@mutant("moves-out-of-the-source", "OPT-03")
class MovesOut(Wrapper):
    """Takes out of the other backend what it copied."""

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """And out of it."""
        held = super().put_from(client_metas, source)
        for message, there in zip(client_metas, held, strict=True):
            if there:
                source.remove(message.key)
        return held


@mutant("says-that-all-was-there", "OPT-03")
class SaysAll(Wrapper):
    """Answers put_from as if the other backend had held everything."""

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """All of it."""
        return [True for _ in super().put_from(client_metas, source)]


@mutant("drops-what-the-source-has-not", "OPT-03", "OPT-11")
class DropsMissing(Wrapper):
    """Forgets a chunk that another backend, out of which it was to be copied, does not hold."""

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """And forget the others."""
        held = super().put_from(client_metas, source)
        for message, there in zip(client_metas, held, strict=True):
            if not there and self.inner.capabilities.remove:
                self.inner.remove(message.key)
        return held


@mutant("writes-tensors-past-its-cache", "OPT-03")
class PastTheCache(Wrapper):
    """Answers batches from a cache that put_tensor does not reach."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._cache: dict[str, LMSMemoryObj] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And into the cache."""
        self.inner.put(client_meta, kv_chunk_bytes)
        found = self.inner.get(client_meta.key)
        if found is not None:
            self._cache[text_of(client_meta.key)] = found

    def put_many(self, items: Sequence[Item]) -> None:
        """And into the cache."""
        for message, data in items:
            self.put(message, data)

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """From the cache."""
        return [
            found and self._cache.get(text_of(k), found)
            for k, found in zip(keys, self.inner.get_many(keys), strict=True)
        ]


@mutant("stores-a-refused-tensor-as-it-can", "OPT-11")
class StoresRefused(Wrapper):
    """Stores a tensor whose message says another length with the length that it has."""

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: Any) -> None:
        """With its own length."""
        if text_of(client_meta.key) and client_meta.length != tensor.nbytes:
            flat = tensor.detach().cpu().contiguous().numpy().tobytes()
            meta = ChunkMeta(len(flat), MemoryFormat.BINARY, None, ())
            self.inner.put(meta.message(client_meta.key), bytearray(flat))
        self.inner.put_tensor(client_meta, tensor)


# -- forgetting ------------------------------------------------------------------------------------------------------


@mutant("removes-the-first-of-a-batch", "OPT-04")
class RemovesFirst(Wrapper):
    """Removes the first key of a batch."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """And no other."""
        super().remove_many(keys[:1])


@mutant("removes-everything-for-nothing", "OPT-04")
class RemovesEverything(Wrapper):
    """Takes a batch of no keys for all keys."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """All, where none is named."""
        super().remove_many(keys or self.inner.list_keys())


@mutant("removes-up-to-an-absent-key", "OPT-04")
class RemovesUpTo(Wrapper):
    """Stops at the first key of a batch that is absent."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Those before it."""
        for key in keys:
            if text_of(key) and not self.inner.contains(key):
                return
            self.inner.remove(key)


@mutant("chokes-on-a-key-named-twice", "OPT-04")
class ChokesTwice(Wrapper):
    """Raises where a batch to be removed names a key twice."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Or raise."""
        if len({text_of(k) for k in keys}) < len(keys):
            raise CapacityError("mutant", 0, 0)
        super().remove_many(keys)


@mutant("removes-many-by-their-beginning", "OPT-04")
class RemovesManyByBeginning(Wrapper):
    """Removes what begins like a key of the batch."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """And what begins like them."""
        super().remove_many(keys)
        texts = tuple(text_of(k) for k in keys)
        for other in self.inner.list_keys() if texts else ():
            if other.to_string().startswith(texts):
                self.inner.remove(other)


@mutant("misses-in-batches-what-was-removed-in-batches", "OPT-06")
class MissesRemoved(Wrapper):
    """Takes a key that remove_many forgot for absent in contains_many, whatever was put since."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._gone: set[str] = set()

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """And note them."""
        super().remove_many(keys)
        self._gone.update(text_of(k) for k in keys)

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """But for those."""
        found = self.inner.contains_many(keys)
        return [there and text_of(k) not in self._gone for k, there in zip(keys, found, strict=True)]


# -- what changes nothing --------------------------------------------------------------------------------------------


@mutant("creates-what-is-touched", "OPT-05")
class CreatesTouched(Wrapper):
    """Makes an empty chunk of an absent key that is touched."""

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """And make it."""
        for key in keys:
            if text_of(key) and not self.inner.contains(key):
                self.inner.put(EMPTY.message(key), bytearray())
        self.inner.touch(keys)


@mutant("chokes-on-touching-nothing", "OPT-05")
class ChokesOnTouching(Wrapper):
    """Raises KeyError where an absent key is touched."""

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """Or raise."""
        held = {k.to_string() for k in self.inner.list_keys()}
        for key in keys:
            if text_of(key) and text_of(key) not in held:
                raise CapacityError("mutant", 0, 0)
        self.inner.touch(keys)


@mutant("lists-its-state", "OPT-05")
class ListsState(Wrapper):
    """Keeps its state as a chunk among the others."""

    def save_state(self, state: bytes) -> None:
        """As a chunk."""
        meta = ChunkMeta(len(state), MemoryFormat.BINARY, None, ())
        self.inner.put(meta.message(OpaqueKey("__state__")), bytearray(state))


@mutant("flushes-empty-chunks-away", "OPT-05")
class FlushesEmpty(Wrapper):
    """Drops chunks of no bytes when it is flushed."""

    def flush(self, timeout: float | None = None) -> None:
        """And drop them."""
        self.inner.flush(timeout)
        for info in list(self.inner.scan()):
            if info.meta.length <= 1:
                self.inner.remove(info.key)
