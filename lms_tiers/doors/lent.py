"""Buffers of an engine as a backend that a store copies chunks out of: what `put_from` asks of its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import List, NoReturn, Optional

from lms_tiers.errors import UnsupportedError
from lms_tiers.interface import ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, OpaqueKey


class Lent(LMSBackendInterface):
    """Chunks that lie in buffers of a caller's; they are only lent, and only as long as the caller may.

    Parameters
    ----------
    chunks : mapping of key text to (ChunkMeta, buffers)
        The buffers are bytes, one after the other; together as long as the metadata says.

    Examples
    --------
    >>> from lms_tiers import MemoryFormat, OpaqueKey
    >>> from lms_tiers.plugins.cpu import LMSLocalBackend
    >>> meta = ChunkMeta(4, MemoryFormat.BINARY, "uint8", (4,))
    >>> store, key = LMSLocalBackend(), OpaqueKey("k")
    >>> store.put_from([meta.message(key)], Lent({"k": (meta, [memoryview(b"ab"), memoryview(b"cd")])}))
    [True]
    >>> bytes(store.get(key).data)
    b'abcd'
    """

    def __init__(self, chunks: Mapping[str, tuple[ChunkMeta, Sequence[memoryview]]]) -> None:
        self._chunks = chunks

    def view(self, key: CacheEngineKey) -> AbstractContextManager[ChunkView | None]:  # type: ignore[override]
        """The caller's own buffers, which are there before and after it; no generator is made for each chunk."""
        found = self._chunks.get(key.to_string())
        return nullcontext(None if found is None else ChunkView(found[0], found[1]))

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether it is lent."""
        return key.to_string() in self._chunks

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """A copy."""
        found = self._chunks.get(key.to_string())
        return None if found is None else found[0].memory_obj(b"".join(found[1]))

    def list_keys(self) -> List[CacheEngineKey]:
        """What is lent."""
        return [OpaqueKey(text) for text in self._chunks]

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> NoReturn:
        """Nothing is stored here."""
        raise UnsupportedError(type(self).__name__, "put")

    def close(self) -> None:
        """Forget the buffers."""
        self._chunks = {}
