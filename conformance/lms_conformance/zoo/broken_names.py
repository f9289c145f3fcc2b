"""Mutants that take keys which look like names of their own for such, or lose what large numbers say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, List, Optional
from urllib.parse import unquote

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_key
from lms_tiers.buffers import own_bytes
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
    MemoryFormat,
    OpaqueKey,
)


@mutant("keeps-metadata-beside-the-chunk", "KEY-14")
class MetadataBeside(Wrapper):
    """Keeps the metadata of each chunk under its key and a suffix, among the chunks."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """In two entries."""
        self.inner.put(client_meta, kv_chunk_bytes)
        told = json.dumps({"length": client_meta.length}).encode()
        beside = ChunkMeta(len(told), MemoryFormat.BINARY, None, ())
        self.inner.put(beside.message(OpaqueKey(f"{text_of(client_meta.key)}.meta")), bytearray(told))

    def remove(self, key: CacheEngineKey) -> None:
        """Both."""
        self.inner.remove(key)
        self.inner.remove(OpaqueKey(f"{text_of(key)}.meta"))

    def list_keys(self) -> List[CacheEngineKey]:
        """Without what stands beside."""
        keys = self.inner.list_keys()
        held = {k.to_string() for k in keys}
        return [k for k in keys if not (k.to_string().endswith(".meta") and k.to_string()[:-5] in held)]


@mutant("hides-temporary-names", "KEY-14")
class HidesTemporary(Wrapper):
    """Takes names that end in .tmp for what a write left half done, and lists none of them."""

    def list_keys(self) -> List[CacheEngineKey]:
        """Without those."""
        return [k for k in self.inner.list_keys() if not k.to_string().endswith(".tmp")]


@mutant("hides-names-with-a-dot-before-them", "KEY-14")
class HidesDotted(Wrapper):
    """Lists no names that begin with a dot or with two underscores: it keeps notes of its own there."""

    def list_keys(self) -> List[CacheEngineKey]:
        """Without those."""
        return [k for k in self.inner.list_keys() if not k.to_string().startswith((".", "__"))]


@mutant("unquotes-keys", "KEY-14")
class UnquotesKeys(Wrapper):
    """Quotes keys for a URL unless they look quoted already."""

    def _plain(self, key: Any) -> Any:
        text = text_of(key)
        return OpaqueKey(unquote(text)) if "%2F" in text else key

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Under what it stands for."""
        self.inner.put(with_key(client_meta, self._plain(client_meta.key)), kv_chunk_bytes)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """So too."""
        return self.inner.get(self._plain(key))

    def contains(self, key: CacheEngineKey) -> bool:
        """So too."""
        return self.inner.contains(self._plain(key))


@mutant("lists-the-keys-it-was-handed", "OPT-14")
class ListsHanded(Wrapper):
    """Lists the key objects that puts came with, of whatever class."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._objects: dict[str, Any] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And keep the key."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._objects[text_of(client_meta.key)] = client_meta.key

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Each so."""
        for message, data in items:
            self.put(message, data)

    def list_keys(self) -> List[CacheEngineKey]:
        """The objects."""
        return [self._objects.get(k.to_string(), k) for k in self.inner.list_keys()]


class _Dimensions(Wrapper):
    """Keeps some bits of each dimension of a shape."""

    bits = 64

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """With those."""
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data))
        cut = tuple(d & ((1 << self.bits) - 1) for d in meta.shape)
        self.inner.put(replace(meta, shape=cut).message(client_meta.key), data)


@mutant("keeps-16-bits-of-a-dimension", "OVR-09")
class SixteenBits(_Dimensions):
    """Keeps 16 bits of each dimension of a shape."""

    bits = 16


@mutant("keeps-31-bits-of-a-dimension", "OVR-09")
class ThirtyOneBits(_Dimensions):
    """Keeps 31 bits of each dimension of a shape."""

    bits = 31
