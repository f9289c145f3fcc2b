"""Mutants that get listing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import List

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.interface import ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage


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
