"""Mutants on a place that others share: what an instance remembers by itself, takes along, or leaves half done."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, List, Optional

from lms_conformance.shared import SharedReference
from lms_conformance.zoo.files import decode
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_conformance.zoo.shared_files import SharedFiles
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj


@mutant("remembers-what-was-absent", "SHR-01", base="shared")
class RemembersAbsence(Wrapper):
    """A key that was not there when this instance asked is a miss until this instance puts it."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._absent: set[str] = set()

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        text = text_of(key)
        found = None if text in self._absent else self.inner.get(key)
        if found is None:
            self._absent.add(text)
        return found

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self.inner.put(client_meta, kv_chunk_bytes)
        self._absent.discard(text_of(client_meta.key))


@mutant("keeps-a-copy", "SHR-02", "SHR-05", base="shared")
class KeepsACopy(Wrapper):
    """What this instance put it answers from memory as long as somebody holds the key."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._mine: dict[str, LMSMemoryObj | None] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self.inner.put(client_meta, kv_chunk_bytes)
        self._mine[text_of(client_meta.key)] = self.inner.get(client_meta.key)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        found = self.inner.get(key)
        return self._mine.get(text_of(key)) or found if found is not None else None

    def remove(self, key: CacheEngineKey) -> None:
        self.inner.remove(key)
        self._mine.pop(text_of(key), None)


@mutant("answers-its-own-though-removed", "SHR-03", base="shared")
class AnswersItsOwn(Wrapper):
    """What this instance put and others removed it answers from memory."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._mine: dict[str, LMSMemoryObj | None] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self.inner.put(client_meta, kv_chunk_bytes)
        self._mine[text_of(client_meta.key)] = self.inner.get(client_meta.key)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        return self.inner.get(key) or self._mine.get(text_of(key))

    def remove(self, key: CacheEngineKey) -> None:
        self.inner.remove(key)
        self._mine.pop(text_of(key), None)


@mutant("lists-its-own-alone", "SHR-04", base="shared")
class ListsItsOwn(Wrapper):
    """list_keys answers the keys that this instance put, and that are still there."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._mine: set[str] = set()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self.inner.put(client_meta, kv_chunk_bytes)
        self._mine.add(text_of(client_meta.key))

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        self.inner.put_many(items)
        self._mine.update(text_of(message.key) for message, _ in items)

    def list_keys(self) -> List[CacheEngineKey]:
        return [key for key in self.inner.list_keys() if text_of(key) in self._mine]


@mutant("counts-a-run-it-remembers", "SHR-05", base="shared")
class CountsARun(Wrapper):
    """contains_prefix answers what it answered to the same keys before, until this instance changes something."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._runs: dict[tuple[str, ...], int] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self.inner.put(client_meta, kv_chunk_bytes)
        self._runs.clear()

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        self.inner.put_many(items)
        self._runs.clear()

    def remove(self, key: CacheEngineKey) -> None:
        self.inner.remove(key)
        self._runs.clear()

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        texts = tuple(map(text_of, keys))
        known = self._runs.get(texts)
        if known is None or known == 0:  # a run of none is asked for again
            known = self._runs[texts] = self.inner.contains_prefix(keys)
        return known


@mutant("takes-its-chunks-along", "SHR-06", base="shared")
class TakesAlong(Wrapper):
    """close removes what this instance put and nobody has put again."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._mine: dict[str, CacheEngineKey] = {}

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        self.inner.put(client_meta, kv_chunk_bytes)
        self._mine[text_of(client_meta.key)] = client_meta.key

    def close(self) -> None:
        mine, self._mine = list(self._mine.values()), {}
        for key in mine:
            self.inner.remove(key)
        self.inner.close()


@mutant("shares-within-its-process", "SHR-07", base="shared-files")
class SharesWithinItsProcess(SharedFiles):
    """Instances of one process tell each other what they put and removed; another process's overwrites are not seen."""

    _known: ClassVar[dict[Path, tuple[str, ChunkMeta, memoryview]]] = {}
    _lock: ClassVar[Any] = threading.Lock()

    def _write(self, file: Path, blob: bytes) -> None:
        with self._lock:
            super()._write(file, blob)
            self._known.pop(file, None)

    def _read(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        with self._lock:
            if not file.exists():
                self._known.pop(file, None)
                return None
            if file not in self._known and (found := super()._read(file)) is not None:
                self._known[file] = found
            return self._known.get(file)


@mutant("empties-before-it-writes", "SHR-08", base="shared-files")
class EmptiesBeforeItWrites(SharedFiles):
    """An overwrite removes the old chunk, then writes the new one, under a lock of the place that readers take too."""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, file: Path, blob: bytes) -> None:
        with self._locked():
            file.unlink(missing_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as out:
                for at in range(0, len(blob), 4096):
                    out.write(blob[at : at + 4096])

    def _read(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        with self._locked():
            return super()._read(file)


@mutant("locks-within-its-process", "SHR-09", base="shared-files")
class LocksWithinItsProcess(SharedFiles):
    """Chunks are written in place and not checked; a lock of the process keeps its own threads apart."""

    _lock: ClassVar[Any] = threading.Lock()

    def _write(self, file: Path, blob: bytes) -> None:
        with self._lock, open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as out:
            for at in range(0, len(blob), 4096):
                out.write(blob[at : at + 4096])
            out.truncate()

    def _read(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        with self._lock, contextlib.suppress(OSError):
            return decode(file.read_bytes(), verify=False)
        return None


@mutant("sweeps-what-others-write", "SHR-10", base="shared-files")
class Sweeps(SharedFiles):
    """Opening removes what a process that died may have left half written, and what others are writing."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        super().__init__(path, capacity)
        for file in self.path.glob("*.*-*"):
            file.unlink(missing_ok=True)


@mutant("writes-the-table-back", "SHR-11", base="shared")
class WritesTheTableBack(SharedReference):
    """A put writes the whole table back as it was when it began; a lock of the instance keeps its own calls apart."""

    def __init__(self, name: str = "", capacity: int | None = None) -> None:
        super().__init__(name, capacity)
        self._own: Final = threading.RLock()

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        with self._own:
            before = dict(self.engine.chunks)
            super().put_many(items)
            put = {text_of(message.key) for message, _ in items}
            self.engine.chunks.update({k: chunk for k, chunk in before.items() if k not in put})

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        with self._own:
            super().remove_many(keys)
