"""The backend `kept`: chunks compressed in a dictionary. Replace the dictionary by your medium."""

from __future__ import annotations

import zlib
from typing import ClassVar

import pydantic
from lms_tiers import (
    CacheEngineKey,
    Capabilities,
    ChunkMeta,
    ClientMetaMessage,
    LMSBackendInterface,
    LMSMemoryObj,
    key_text,
    own_bytes,
)
from lms_tiers.errors import BackendClosedError
from lms_tiers.options import Options


class KeptOptions(Options):
    """Options of the backend `kept`."""

    level: int = pydantic.Field(default=1, ge=0, le=9, description="zlib level, 0 (none) to 9 (smallest)")


class KeptBackend(LMSBackendInterface):
    """Chunks in memory, compressed. One dictionary operation per call makes it thread-safe and atomic."""

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, forkable=True)

    def __init__(self, options: KeptOptions) -> None:
        self._level = options.level
        self._chunks: dict[str, tuple[ChunkMeta, bytes]] = {}
        self._closed = False

    def _open(self) -> dict[str, tuple[ChunkMeta, bytes]]:
        if self._closed:
            raise BackendClosedError("kept")
        return self._chunks

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Compress first, then replace the old value in one step."""
        chunks, text, data = self._open(), key_text(client_meta.key), own_bytes(kv_chunk_bytes)
        chunks[text] = ChunkMeta.of(client_meta, len(data)), zlib.compress(data, self._level)

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """The chunk in a buffer of its own, so that it never changes."""
        found = self._open().get(key_text(key))
        return None if found is None else found[0].memory_obj(zlib.decompress(found[1]))

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether `get` would answer."""
        return key_text(key) in self._open()

    def remove(self, key: CacheEngineKey) -> None:
        """Forget the key; an absent one is no error."""
        self._open().pop(key_text(key), None)

    def list_keys(self) -> list[CacheEngineKey]:
        """Every key once."""
        return [CacheEngineKey.from_string(text) for text in list(self._open())]

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """What a tier accounts for the chunk."""
        found = self._open().get(key_text(key))
        return None if found is None else len(found[1])

    def reserve_bytes(self, length: int) -> int:
        """The most that zlib makes of `length` bytes."""
        return length + length // 1000 + 64

    def close(self) -> None:
        """Give everything back; idempotent."""
        self._closed = True
        self._chunks.clear()


def open_backend(location: str, capacity: int | None, options: KeptOptions) -> KeptBackend:
    """Open one; this backend needs no location, and a tier around it sees to the capacity."""
    return KeptBackend(options)
