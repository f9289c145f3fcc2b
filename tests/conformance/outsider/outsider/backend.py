"""The client."""

from __future__ import annotations

import threading
from multiprocessing.connection import Client
from typing import Any

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
from lms_tiers.errors import BackendClosedError, StorageUnavailableError


class OutsiderBackend(LMSBackendInterface):
    """One connection, a question at a time."""

    capabilities = Capabilities(remove=True)

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._server = Client((host, int(port)))
        except OSError as error:
            raise StorageUnavailableError(address, str(error)) from error

    def _ask(self, what: str, key: str = "", value: Any = None) -> Any:
        with self._lock:
            if self._closed:
                raise BackendClosedError("outsider")
            self._server.send((what, key, value))
            return self._server.recv()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk."""
        text, data = key_text(client_meta.key), own_bytes(kv_chunk_bytes)
        self._ask("put", text, (ChunkMeta.of(client_meta, len(data)).pack(), bytes(data)))

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """Answer one."""
        found = self._ask("get", key_text(key))
        return None if found is None else ChunkMeta.unpack(found[0])[0].memory_obj(found[1])

    def contains(self, key: CacheEngineKey) -> bool:
        """Ask for one."""
        return self._ask("get", key_text(key)) is not None

    def remove(self, key: CacheEngineKey) -> None:
        """Forget one."""
        self._ask("remove", key_text(key))

    def list_keys(self) -> list[CacheEngineKey]:
        """Name all."""
        return [CacheEngineKey.from_string(text) for text in self._ask("list")]

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._server.close()


def open_backend(location: str, capacity: int | None, options: Any) -> OutsiderBackend:
    """What the spec names."""
    return OutsiderBackend(location)
