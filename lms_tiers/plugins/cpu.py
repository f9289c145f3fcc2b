"""Host memory as a backend: LMCache's local backend with its gaps closed (`remove` in the contract, no aliasing).

It never evicts; a tier with a capacity around it does. No locks: each operation is one atomic dictionary operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, List, Optional

from lms_tiers.buffers import copy_bytes, own_bytes, writable_bytes
from lms_tiers.errors import BackendClosedError, ConfigError
from lms_tiers.hookspecs import BackendSpec, hookimpl
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    LMSMemoryObj,
    key_text,
)

if TYPE_CHECKING:
    from typing import Any


class LMSLocalBackend(LMSBackendInterface):
    """Chunks in a dictionary. `get` shares the stored bytes, read-only; an overwrite stores new ones beside them.

    A bytearray that was grown piece by piece holds more memory than its length; `put` trims it, so that the length
    is what it takes.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, forkable=True)

    def __init__(self) -> None:
        self._chunks: dict[str, tuple[bytearray, ChunkMeta]] = {}
        self._closed = False

    def _open(self) -> dict[str, tuple[bytearray, ChunkMeta]]:
        chunks = self._chunks
        if self._closed:
            raise BackendClosedError("cpu")
        return chunks

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key, in the order of the first put."""
        return [CacheEngineKey.from_string(text) for text in list(self._open())]

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the key is held."""
        return key_text(key) in self._open()

    def remove(self, key: CacheEngineKey) -> None:
        """Forget the key; an absent one is no error."""
        self._open().pop(key_text(key), None)

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk; the bytearray is taken over, not copied."""
        chunks = self._open()
        text = key_text(client_meta.key)
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data))
        if data.__alloc__() > len(data) + 64:
            data = bytearray(memoryview(data))
        chunks[text] = data, meta

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk, without a copy."""
        # In one piece: each function and each object that a hit touches is a line of cache that a busy server lacks.
        try:
            found = self._chunks.get(key.to_string())
        except (AttributeError, TypeError):
            found = None  # said better by `key_text`
        if found is None:
            found = self._open().get(key_text(key))
            if found is None:
                return None
        data, meta = found
        # A view of its own for each caller: releasing one must not take the bytes from the others.
        return meta.memory_obj(memoryview(data).toreadonly())

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Copy the chunk into the caller's buffer."""
        found = self._open().get(key_text(key))
        if found is None:
            return None
        data, meta = found
        copy_bytes(writable_bytes(buffer, meta.length)[: meta.length], memoryview(data))
        return meta

    def close(self) -> None:
        """Forget everything; what `get` returned stays valid."""
        self._closed = True
        # Not cleared: a call that is running keeps its dictionary and does not see a held key as a miss.
        self._chunks = {}

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """The chunk's length."""
        found = self._open().get(key_text(key))
        return None if found is None else len(found[0])

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk, in the order of the first put."""
        # Not a list of the items: making their tuples may run the garbage collector, and other threads with it.
        for text, (data, meta) in self._open().copy().items():
            yield ChunkInfo(CacheEngineKey.from_string(text), meta, len(data))

    def stats(self) -> BackendStats:
        """Keys and bytes now."""
        chunks = list(self._open().values())
        return BackendStats(keys=len(chunks), bytes_used=sum(len(data) for data, _ in chunks))


def open_backend(location: str, capacity: int | None, options: Any) -> LMSLocalBackend:  # noqa: D103
    if location:
        raise ConfigError(f"backend 'cpu' has no location, {location!r} was given: write cpu, or cpu?capacity=SIZE.")
    return LMSLocalBackend()


@hookimpl
def register_backends(register: Callable[[BackendSpec], None]) -> None:
    """The backend `cpu`."""
    register(
        BackendSpec(
            name="cpu",
            factory=open_backend,
            summary="host memory, without a copy; evicts only behind a capacity",
            example="cpu",
            medium="memory",
        )
    )
