"""Mutants that get overwriting, removing, listing, asking or batches wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import List, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_length
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, OpaqueKey, own_bytes

Item = tuple[ClientMetaMessage, bytearray]


@mutant("keeps-what-has-the-same-length", "OVR-01")
class KeepsSameLength(Wrapper):
    """Skips an overwrite of the same length, taking it for the same chunk."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Unless it has the same length."""
        old = self.inner.get(client_meta.key) if text_of(client_meta.key) else None
        if old is None or old.length != client_meta.length or not old.length:
            self.inner.put(client_meta, kv_chunk_bytes)


@mutant("leaves-the-old-tail", "OVR-02")
class LeavesTail(Wrapper):
    """Overwrites in place and leaves the tail of a longer chunk."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """With the old tail."""
        data = own_bytes(kv_chunk_bytes)
        old = self.inner.get(client_meta.key) if text_of(client_meta.key) else None
        if old is not None and old.length > len(data) > 0 and client_meta.length == len(data):
            data = data + bytes(memoryview(old.data)[len(data) :])
            client_meta = with_length(client_meta, len(data))
        self.inner.put(client_meta, data)


@mutant("keeps-the-old-length", "OVR-03")
class KeepsLength(Wrapper):
    """Cuts a longer overwrite to the length of the chunk before it."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Cut."""
        data = own_bytes(kv_chunk_bytes)
        old = self.inner.get(client_meta.key) if text_of(client_meta.key) else None
        if old is not None and 0 < old.length < len(data) and client_meta.length == len(data):
            data = data[: old.length]
            client_meta = with_length(client_meta, len(data))
        self.inner.put(client_meta, data)


@mutant("ignores-an-empty-overwrite", "OVR-04")
class IgnoresEmpty(Wrapper):
    """Keeps the old chunk when the new one is empty."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Unless it is empty."""
        if len(kv_chunk_bytes) or not text_of(client_meta.key) or not self.inner.contains(client_meta.key):
            self.inner.put(client_meta, kv_chunk_bytes)


@mutant("deduplicates-by-bytes", "OVR-05")
class Deduplicates(Wrapper):
    """Skips an overwrite with the same bytes, and with it the new metadata."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Unless the bytes are the same."""
        old = self.inner.get(client_meta.key) if text_of(client_meta.key) else None
        if old is None or bytes(old.data) != bytes(kv_chunk_bytes):
            self.inner.put(client_meta, kv_chunk_bytes)


@mutant("answers-stale-chunks", "OVR-06")
class AnswersStale(Wrapper):
    """Caches what was read, and an overwrite does not reach the cache before the next read."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._cache: dict[str, LMSMemoryObj] = {}

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """From the cache, once."""
        found = self.inner.get(key)
        stale = self._cache.pop(text_of(key), None)
        if found is not None:
            self._cache[text_of(key)] = found
        return stale if stale is not None and found is not None else found


@mutant("lists-overwritten-keys-twice", "OVR-07")
class ListsTwice(Wrapper):
    """Lists a key once for each put."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._log: list[str] = []

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note it."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._log.append(text_of(client_meta.key))

    def list_keys(self) -> List[CacheEngineKey]:
        """Repeated."""
        held = {k.to_string() for k in self.inner.list_keys()}
        seen = [OpaqueKey(text) for text in self._log if text in held]
        return [*seen, *(OpaqueKey(t) for t in held.difference(self._log))]


@mutant("wraps-generations", "OVR-08")
class WrapsGenerations(Wrapper):
    """Counts a key's overwrites in a byte, and takes the 257th for an old one."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._puts: dict[str, int] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """256 times."""
        puts = self._puts[text_of(client_meta.key)] = self._puts.get(text_of(client_meta.key), 0) + 1
        if puts <= 256:
            self.inner.put(client_meta, kv_chunk_bytes)


@mutant("does-not-remove", "RMV-01")
class DoesNotRemove(Wrapper):
    """Does nothing on remove."""

    def remove(self, key: CacheEngineKey) -> None:
        """Nothing."""


@mutant("raises-on-removing-nothing", "RMV-02")
class RaisesOnRemove(Wrapper):
    """Raises KeyError when an absent key is removed."""

    def remove(self, key: CacheEngineKey) -> None:
        """Or raise."""
        if text_of(key) and not self.inner.contains(key):
            raise KeyError(text_of(key))
        self.inner.remove(key)


@mutant("removes-by-prefix", "RMV-03")
class RemovesByPrefix(Wrapper):
    """Removes every key that begins like the one to be removed."""

    def remove(self, key: CacheEngineKey) -> None:
        """And all that begin like it."""
        self.inner.remove(key)
        for other in self.inner.list_keys():
            if other.to_string().startswith(text_of(key)):
                self.inner.remove(other)


@mutant("leaves-tombstones", "RMV-04")
class LeavesTombstones(Wrapper):
    """Loses the first put of a key after its removal."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._dead: set[str] = set()

    def remove(self, key: CacheEngineKey) -> None:
        """For longer than wanted."""
        self.inner.remove(key)
        self._dead.add(text_of(key))

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Unless it was removed."""
        if text_of(client_meta.key) in self._dead:
            self._dead.discard(text_of(client_meta.key))
        else:
            self.inner.put(client_meta, kv_chunk_bytes)


@mutant("removes-the-newest-version-only", "RMV-05")
class RemovesNewest(Wrapper):
    """Keeps the chunk before an overwrite, and shows it again when the newer one is removed."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._before: dict[str, LMSMemoryObj] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And keep the old one."""
        old = self.inner.get(client_meta.key) if text_of(client_meta.key) else None
        self.inner.put(client_meta, kv_chunk_bytes)
        if old is not None:
            self._before[text_of(client_meta.key)] = old

    def remove(self, key: CacheEngineKey) -> None:
        """One version."""
        self.inner.remove(key)
        old = self._before.pop(text_of(key), None)
        if old is not None:
            meta = ChunkMeta(old.length, old.fmt, str(old.dtype).removeprefix("torch."), tuple(old.shape))
            if old.dtype is not None:
                self.inner.put(meta.message(key), bytearray(old.data))


@mutant("resurrects", "RMV-06")
class Resurrects(Wrapper):
    """Writes a removed chunk back some puts later, as a late write-back does."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._late: list[tuple[ClientMetaMessage, bytearray]] = []
        self._puts = 0

    def remove(self, key: CacheEngineKey) -> None:
        """For now."""
        old = self.inner.get(key)
        self.inner.remove(key)
        if old is not None and old.dtype is not None:
            meta = ChunkMeta(old.length, old.fmt, str(old.dtype).removeprefix("torch."), tuple(old.shape))
            self._late.append((meta.message(key), bytearray(old.data)))

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And sometimes an older one."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._puts += 1
        if self._puts % 20 == 0 and self._late:
            self.inner.put(*self._late.pop())


@mutant("pretends-to-remove", "RMV-07", base="bare")
class PretendsToRemove(Wrapper):
    """Does nothing on remove, though it does not declare it."""

    def remove(self, key: CacheEngineKey) -> None:
        """Nothing."""


@mutant("lists-99-of-100", "LST-02")
class Lists99(Wrapper):
    """Lists pages of a hundred keys and loses the last of each page."""

    def list_keys(self) -> List[CacheEngineKey]:
        """Without every hundredth."""
        return [k for i, k in enumerate(self.inner.list_keys(), 1) if i % 100]


@mutant("lists-a-thousand-at-most", "LST-03")
class ListsThousand(Wrapper):
    """Lists a thousand keys at most, the page of an object store."""

    def list_keys(self) -> List[CacheEngineKey]:
        """The first page."""
        return self.inner.list_keys()[:1000]


@mutant("lists-a-hundred-at-most", "LST-03")
class ListsHundred(Wrapper):
    """Lists a hundred keys at most."""

    def list_keys(self) -> List[CacheEngineKey]:
        """The first hundred."""
        return self.inner.list_keys()[:100]


@mutant("hands-out-its-list", "LST-05")
class HandsOutList(Wrapper):
    """Answers one and the same list each time, and keeps it up to date."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._list: list[CacheEngineKey] = []

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And into the list."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._list[:] = self.inner.list_keys()

    def list_keys(self) -> List[CacheEngineKey]:
        """Its own."""
        self._list[:] = self.inner.list_keys()
        return self._list


@mutant("scans-old-metadata", "LST-06")
class ScansOld(Wrapper):
    """Scans with the metadata of a key's first put."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._first: dict[str, ChunkMeta] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note the first."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._first.setdefault(text_of(client_meta.key), ChunkMeta.of(client_meta, client_meta.length))

    def scan(self) -> Iterator[ChunkInfo]:
        """With the first."""
        for info in self.inner.scan():
            yield ChunkInfo(info.key, self._first.get(info.key.to_string(), info.meta), info.stored_bytes)


@mutant("contains-no-empty-chunks", "CNT-01")
class ContainsNoEmpty(Wrapper):
    """Answers contains by the truth of the bytes."""

    def contains(self, key: CacheEngineKey) -> bool:
        """Unless empty."""
        obj = self.inner.get(key)
        return obj is not None and obj.length > 0


@mutant("contains-what-was-removed", "CNT-02")
class ContainsRemoved(Wrapper):
    """Answers contains from a filter that never forgets."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._filter: set[str] = set()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And into the filter."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._filter.add(text_of(client_meta.key))

    def contains(self, key: CacheEngineKey) -> bool:
        """Ever."""
        return self.inner.contains(key) or text_of(key) in self._filter


@mutant("creates-what-is-asked-for", "CNT-03")
class CreatesAsked(Wrapper):
    """Makes an entry for each key that is asked for, and lists it."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._asked: dict[str, None] = {}

    def contains(self, key: CacheEngineKey) -> bool:
        """And make an entry."""
        found = self.inner.contains(key)
        self._asked[text_of(key)] = None
        return found

    def list_keys(self) -> List[CacheEngineKey]:
        """With what was asked for."""
        held = self.inner.list_keys()
        texts = {k.to_string() for k in held}
        return [*held, *(OpaqueKey(t) for t in self._asked if t not in texts)]


@mutant("counts-past-gaps", "CNT-04")
class CountsPastGaps(Wrapper):
    """Counts every key that is present, gaps or not."""

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """All that are present."""
        return sum(self.inner.contains(key) for key in keys)


@mutant("counts-a-set", "CNT-05")
class CountsSet(Wrapper):
    """Counts a key that is named twice once."""

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """Of distinct keys."""
        return self.inner.contains_prefix([OpaqueKey(t) for t in dict.fromkeys(text_of(k) for k in keys)])


@mutant("drops-the-last-of-a-batch", "BAT-01")
class DropsLast(Wrapper):
    """Drops the last item of put_many."""

    def put_many(self, items: Sequence[Item]) -> None:
        """All but the last."""
        self.inner.put_many(items[:-1])


@mutant("skips-misses-in-a-batch", "BAT-02")
class SkipsMisses(Wrapper):
    """Leaves absent keys out of get_many's answer."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Hits only."""
        return [obj for obj in self.inner.get_many(keys) if obj is not None]


@mutant("goes-on-after-a-failure", "BAT-03")
class GoesOn(Wrapper):
    """Stores the items after the one that failed, and raises at the end."""

    def put_many(self, items: Sequence[Item]) -> None:
        """Every one that can be."""
        failed: LmsTiersError | None = None
        for message, data in items:
            try:
                self.inner.put(message, data)
            except LmsTiersError as error:
                failed = failed or error
        if failed is not None:
            raise failed


@mutant("chokes-on-an-empty-batch", "BAT-04")
class ChokesOnEmpty(Wrapper):
    """Looks at the first item of a batch without asking whether there is one."""

    def put_many(self, items: Sequence[Item]) -> None:
        """From the first on."""
        items[0]
        self.inner.put_many(items)


@mutant("batches-read-old-batches", "BAT-05")
class OldBatches(Wrapper):
    """Answers get_many from what put_many last stored, whatever was put since."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._batched: dict[str, LMSMemoryObj | None] = {}

    def put_many(self, items: Sequence[Item]) -> None:
        """And note it."""
        self.inner.put_many(items)
        for message, _ in items:
            self._batched[text_of(message.key)] = self.inner.get(message.key)

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """From the notes."""
        return [self._batched.get(text_of(k)) or self.inner.get(k) for k in keys]


@mutant("batches-hold-128", "BAT-06")
class BatchesHold128(Wrapper):
    """Stores the first 128 items of a batch."""

    def put_many(self, items: Sequence[Item]) -> None:
        """The first ones."""
        self.inner.put_many(items[:128])
