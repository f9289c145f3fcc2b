"""Mutants that wear with time, with restarts, with threads and with many calls, and those that damage confuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar, List, Optional

from lms_conformance.zoo.files import FileReference
from lms_conformance.zoo.memory import MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj

Item = tuple[ClientMetaMessage, bytearray]


# -- time ------------------------------------------------------------------------------------------------------------


@mutant("expires-after-an-hour", "EVI-08")
class Expires(Wrapper):
    """Forgets a chunk an hour after it was put."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._put_at: dict[str, float] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note when."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._put_at[text_of(client_meta.key)] = time.monotonic()

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """While it is fresh."""
        if time.monotonic() - self._put_at.get(text_of(key), time.monotonic()) > 3600:
            self.inner.remove(key)
        return self.inner.get(key)


@mutant("keeps-the-later-of-two-by-the-clock", "EVI-08")
class LaterByClock(Wrapper):
    """Ignores a put that is older, by the wall clock, than what is there: one after the clock was put back is lost."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._put_at: dict[str, float] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """If it is later."""
        now, text = time.time(), text_of(client_meta.key)
        if text in self._put_at and now < self._put_at[text]:
            return
        self.inner.put(client_meta, kv_chunk_bytes)
        self._put_at[text] = now


# -- many calls ------------------------------------------------------------------------------------------------------


@mutant("compacts-a-live-key-away", "RMV-09")
class CompactsLive(Wrapper):
    """Compacts its table after every 256th removal, and loses the entry behind the hole."""

    _removed = 0

    def remove(self, key: CacheEngineKey) -> None:
        """And compact."""
        self.inner.remove(key)
        self._removed += 1
        keys = self.inner.list_keys() if self._removed % 256 == 0 else []
        if keys:
            self.inner.remove(keys[len(keys) // 2])


@mutant("lists-what-a-rehash-moved-twice", "RMV-09")
class ListsMoved(Wrapper):
    """Lists a key twice that was put again into another slot, once there are a hundred."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._gone: set[str] = set()

    def remove(self, key: CacheEngineKey) -> None:
        """And note the slot."""
        self.inner.remove(key)
        self._gone.add(text_of(key))

    def list_keys(self) -> List[CacheEngineKey]:
        """Each slot."""
        keys = self.inner.list_keys()
        return [*keys, *(k for k in keys[:1] if k.to_string() in self._gone)] if len(keys) > 100 else keys


@mutant("a-batch-of-hundreds-clears-the-rest", "BAT-08")
class ClearsRest(Wrapper):
    """Writes a batch of more than two hundred as a new table, without what was in the old one."""

    def put_many(self, items: Sequence[Item]) -> None:
        """As a new table."""
        self.inner.put_many(items)
        if len(items) > 200:
            named = {text_of(m.key) for m, _ in items}
            for key in self.inner.list_keys():
                if key.to_string() not in named:
                    self.inner.remove(key)


@mutant("removes-three-thousand-of-a-batch", "RMV-08")
class Removes3000(Wrapper):
    """Removes the first three thousand keys of a batch."""

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """The first."""
        self.inner.remove_many(keys[:3000])


@mutant("copies-a-thousand-of-a-batch", "BAT-08")
class CopiesThousand(Wrapper):
    """Copies the first thousand chunks out of another backend, and answers that it has all."""

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """The first."""
        held = self.inner.put_from(client_metas[:1000], source)
        return held + [True] * (len(client_metas) - len(held))


@mutant("fills-two-thousand-of-a-batch", "BAT-08")
class FillsTwoThousand(Wrapper):
    """Reads the first two thousand of a batch into their buffers."""

    def get_many_into(self, requests: Any, *, expected: Any = None, spoiled: Any = None) -> list[Any]:
        """The first."""
        asked = list(requests)
        told = None if expected is None else expected[:2000]
        found = self.inner.get_many_into(asked[:2000], expected=told, spoiled=spoiled)
        return found + [None] * (len(asked) - len(found))


# -- leaks -----------------------------------------------------------------------------------------------------------


@mutant("keeps-itself-alive", "RES-12")
class KeepsAlive(MemoryReference):
    """Notes each instance in a list of the class, with a buffer of its own, and close leaves it there."""

    every: ClassVar[list[Any]] = []

    def __init__(self, path: str = "", capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        self._buffer = bytearray(64 * 1024)
        self.every.append(self)


@mutant("leaves-a-file-per-open", "RES-12", base="files")
class FilePerOpen(FileReference):
    """Begins a journal each time it is opened, and deletes none."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        (self.path / f"journal-{time.monotonic_ns()}").write_bytes(b"begin")


@mutant("keeps-a-buffer-of-each-thread", "RES-13")
class BufferPerThread(Wrapper):
    """Keeps a buffer of each thread that ever called, by its number."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._buffers: list[bytearray] = []
        self._mine = threading.local()

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """With a buffer."""
        if not hasattr(self._mine, "buffer"):
            self._mine.buffer = bytearray(16 * 1024)
            self._buffers.append(self._mine.buffer)
        return self.inner.get(key)


@mutant("keeps-a-connection-of-each-thread", "RES-13")
class ConnectionPerThread(Wrapper):
    """Opens a connection for each thread that calls, and closes none before its own close."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._open: dict[int, Any] = {}
        self._calls = threading.local()

    def contains(self, key: CacheEngineKey) -> bool:
        """Over its own."""
        if not hasattr(self._calls, "seen"):
            self._calls.seen = True
            self._open[len(self._open)] = open("/dev/null", "rb")  # noqa: SIM115  # it leaks
        return self.inner.contains(key)

    def close(self) -> None:
        """Those, too."""
        for file in self._open.values():
            file.close()
        self.inner.close()


@mutant("remembers-each-shape", "RES-09")
class RemembersShapes(Wrapper):
    """Keeps a plan for each shape that was ever put."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._plans: dict[Any, bytearray] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And keep."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._plans.setdefault((client_meta.length, tuple(client_meta.shape)), bytearray(4096))
