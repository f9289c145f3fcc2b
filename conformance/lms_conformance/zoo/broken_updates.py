"""Mutants that get overwriting or removing wrong."""

from __future__ import annotations

from typing import List, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_length
from lms_tiers.buffers import own_bytes
from lms_tiers.errors import OutcomeUnknownError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, OpaqueKey


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


@mutant("loses-the-old-chunk-in-doubt", "ERR-06")
class LosesInDoubt(Wrapper):
    """Deletes before it writes, and gets no answer to an overwrite."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Unless no answer comes."""
        if text_of(client_meta.key) and self.inner.contains(client_meta.key):
            self.inner.remove(client_meta.key)
            raise OutcomeUnknownError("mutant", "put", "no answer came.")
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
