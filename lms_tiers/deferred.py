"""A shared backend whose engine could not be reached when its store was opened: it is opened when it can be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Final, List, Optional

from lms_tiers.errors import BackendClosedError, ConfigError
from lms_tiers.interface import BackendStats, Capabilities, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj


class Deferred(LMSBackendInterface):
    """Opens the backend with the first call that finds its engine, and hands every call on to it.

    Parameters
    ----------
    open_now : callable
        Opens it, or raises `StorageUnavailableError`.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, evicts=True, shared=True)

    def __init__(self, name: str, open_now: Callable[[], LMSBackendInterface]) -> None:
        self._name: Final = name
        self._open_now: Final = open_now
        self._lock: Final = threading.Lock()
        self._backend: LMSBackendInterface | None = None
        self._closed = False

    def _opened(self) -> LMSBackendInterface:
        if self._backend is None:
            with self._lock:
                if self._closed:
                    raise BackendClosedError(self._name)
                if self._backend is None:
                    backend = self._open_now()
                    if not backend.capabilities.shared or not backend.capabilities.remove:
                        backend.close()
                        raise ConfigError(f"backend {self._name!r} is no shared tier, now that it answers.")
                    self._backend = backend
        return self._backend

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """See the backend's."""
        self._opened().put(client_meta, kv_chunk_bytes)

    def contains(self, key: CacheEngineKey) -> bool:
        """See the backend's."""
        return self._opened().contains(key)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """See the backend's."""
        return self._opened().get(key)

    def list_keys(self) -> List[CacheEngineKey]:
        """See the backend's."""
        return self._opened().list_keys()

    def remove(self, key: CacheEngineKey) -> None:
        """See the backend's."""
        self._opened().remove(key)

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """See the backend's."""
        self._opened().remove_many(keys)

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """See the backend's."""
        self._opened().put_many(items)

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """See the backend's."""
        return self._opened().get_many(keys)

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """See the backend's."""
        return self._opened().contains_many(keys)

    def flush(self, timeout: float | None = None) -> None:
        """See the backend's."""
        self._opened().flush(timeout)

    def within(self, seconds: float) -> AbstractContextManager[None] | None:
        """See the backend's; not until it is open."""
        return None if self._backend is None else self._backend.within(seconds)

    def stats(self) -> BackendStats:
        """See the backend's; nothing until it is open."""
        return BackendStats() if self._backend is None else self._backend.stats()

    def close(self) -> None:
        """Close the backend, if it was opened."""
        with self._lock:
            self._closed = True
        if self._backend is not None:
            self._backend.close()
