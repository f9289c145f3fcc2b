"""Mutants that share memory with their callers."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_data
from lms_tiers.buffers import own_bytes
from lms_tiers.errors import InvalidKeyError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj


class OwnBuffers(Wrapper):
    """Keeps each chunk's bytes in a buffer of its own and answers views of it."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._buffers: dict[str, Any] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And into the buffer."""
        data = own_bytes(kv_chunk_bytes)
        self.inner.put(client_meta, bytearray(data))
        self.keep(text_of(client_meta.key), data)

    def keep(self, text: str, data: bytearray) -> None:
        """Where the bytes stay."""
        self._buffers[text] = data

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """A view of the buffer."""
        obj = self.inner.get(key)
        buffer = self._buffers.get(text_of(key))
        if obj is None or buffer is None:
            return obj
        return with_data(obj, memoryview(buffer)[: obj.length].toreadonly())


@mutant("overwrites-in-place", "ALI-01")
class OverwritesInPlace(OwnBuffers):
    """Writes a new chunk over the old one's bytes where it fits."""

    def keep(self, text: str, data: bytearray) -> None:
        """In the old buffer."""
        old = self._buffers.get(text)
        if old is not None and len(old) >= len(data):
            old[: len(data)] = data
        else:
            self._buffers[text] = data


@mutant("wipes-what-is-removed", "ALI-02")
class WipesRemoved(OwnBuffers):
    """Wipes the bytes of a removed chunk, which readers may hold."""

    def remove(self, key: CacheEngineKey) -> None:
        """And wipe."""
        self.inner.remove(key)
        buffer = self._buffers.pop(text_of(key), None)
        if buffer is not None:
            buffer[:] = bytes(len(buffer))


@mutant("wipes-on-close", "ALI-03")
class WipesOnClose(OwnBuffers):
    """Wipes every chunk's bytes on close."""

    def close(self) -> None:
        """And wipe."""
        self.inner.close()
        for buffer in self._buffers.values():
            buffer[:] = bytes(len(buffer))


@mutant("answers-its-own-bytes", "ALI-04")
class AnswersOwnBytes(OwnBuffers):
    """Answers the stored bytearray itself, to be written to."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The bytearray."""
        obj = self.inner.get(key)
        buffer = self._buffers.get(text_of(key))
        return obj if obj is None or buffer is None else dataclasses.replace(obj, data=buffer)


@mutant("keeps-the-callers-buffer", "ALI-06")
class KeepsCallersBuffer(Wrapper):
    """Stores a view of the caller's buffer."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._views: dict[str, memoryview] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Without a copy."""
        self.inner.put(client_meta, kv_chunk_bytes)
        given: Any = kv_chunk_bytes
        view = memoryview(given)
        self._views.pop(text_of(client_meta.key), None)
        if not isinstance(given, bytearray) and view.c_contiguous and view.nbytes:
            self._views[text_of(client_meta.key)] = view.cast("B")

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The caller's buffer."""
        obj, view = self.inner.get(key), self._views.get(text_of(key))
        return obj if obj is None or view is None else with_data(obj, view.toreadonly())


@mutant("keeps-the-message", "ALI-08")
class KeepsMessage(Wrapper):
    """Keeps the caller's message object and answers its attributes."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._messages: dict[str, ClientMetaMessage] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And keep the message."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._messages[text_of(client_meta.key)] = client_meta

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """With the message's metadata."""
        obj, message = self.inner.get(key), self._messages.get(text_of(key))
        if obj is None or message is None:
            return obj
        return dataclasses.replace(obj, fmt=message.fmt, dtype=message.dtype, shape=message.shape)


@mutant("stores-under-an-empty-key", "KEY-08")
class StoresEmptyKey(Wrapper):
    """Takes an empty key for a key."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """A miss, for an unusable one."""
        try:
            return self.inner.get(key)
        except InvalidKeyError:
            return None
