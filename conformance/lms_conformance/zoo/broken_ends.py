"""Mutants that lose what was under way when they were closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from lms_conformance.zoo.mutant import Wrapper, mutant
from lms_tiers.buffers import own_bytes
from lms_tiers.errors import BackendClosedError, LmsTiersError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text

Item = tuple[ClientMetaMessage, bytearray]


@mutant("writes-behind-its-end", "LIF-10", base="files")
class WritesBehindItsEnd(Wrapper):
    """Looks whether it is open, and notes a put for later; what is noted behind the last write is lost."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._notes: list[Item] = []
        self._ended = False

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Note it."""
        if self._ended:
            raise BackendClosedError("mutant")
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data))
        key_text(client_meta.key)
        self._notes.append((meta.message(client_meta.key), data))
        if not self._ended:
            self._write()

    def _write(self) -> None:
        try:
            while self._notes:
                self.inner.put(*self._notes.pop(0))
        except BackendClosedError:
            return

    def put_many(self, items: Sequence[Item]) -> None:
        """Each so."""
        for message, data in items:
            self.put(message, data)

    def close(self) -> None:
        """Write what is noted."""
        self._ended = True
        self._write()
        self.inner.close()


@mutant("swallows-what-comes-late", "LIF-10", base="files")
class SwallowsLate(Wrapper):
    """Answers a put that met a closed place as if it had been stored."""

    _ended = False

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Or nothing."""
        if self._ended:
            raise BackendClosedError("mutant")
        try:
            self.inner.put(client_meta, kv_chunk_bytes)
        except BackendClosedError:
            return

    def close(self) -> None:
        """And know it."""
        self._ended = True
        self.inner.close()


@mutant("forgets-removals-under-way", "LIF-10", base="files")
class ForgetsRemovals(Wrapper):
    """Answers a remove that met a closed place as if it had been done."""

    _ended = False

    def remove(self, key: CacheEngineKey) -> None:
        """Or nothing."""
        if self._ended:
            raise BackendClosedError("mutant")
        try:
            self.inner.remove(key)
        except BackendClosedError:
            return

    def close(self) -> None:
        """And know it."""
        self._ended = True
        self.inner.close()


@mutant("takes-puts-while-it-closes", "LIF-11", base="files")
class TakesWhileClosing(Wrapper):
    """Writes its buffer out and closes then: what is put between the two is lost."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._buffer: list[Item] = []
        self._ended = False

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """At once, but for the buffer while it closes."""
        if self._ended:
            raise BackendClosedError("mutant")
        if self._closing:
            data = own_bytes(kv_chunk_bytes)
            self._buffer.append((ChunkMeta.of(client_meta, len(data)).message(client_meta.key), data))
            return
        self.inner.put(client_meta, kv_chunk_bytes)

    _closing = False

    def close(self) -> None:
        """The buffer first."""
        self._closing = True
        for item in self._buffer:
            try:
                self.inner.put(*item)
            except LmsTiersError:
                break
        self.inner.flush() if not self._ended else None
        self._ended = True
        self.inner.close()


@mutant("fails-untyped-while-it-closes", "LIF-12")
class FailsWhileClosing(Wrapper):
    """Lets go of what it reads from before it says that it is closed."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._gate: Any = inner

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Through the gate."""
        found: LMSMemoryObj | None = self._gate.get(key)
        return found

    def close(self) -> None:
        """The gate first."""
        self._gate = None
        self.inner.close()
        self._gate = self.inner


@mutant("misses-while-it-closes", "LIF-12")
class MissesWhileClosing(Wrapper):
    """Answers a miss where a read met its end."""

    _ended = False

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Or a miss."""
        ended = self._ended
        try:
            return self.inner.get(key)
        except BackendClosedError:
            if ended:
                raise
            return None

    def close(self) -> None:
        """And know it."""
        self.inner.close()
        self._ended = True
