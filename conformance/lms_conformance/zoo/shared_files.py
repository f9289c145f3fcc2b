"""The correct shared reference that processes share: one checksummed file a chunk, nothing kept in memory, no lock."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, List, Optional

from lms_conformance.zoo.files import MAX_KEY, decode, encode, file_of
from lms_tiers.buffers import own_bytes
from lms_tiers.errors import BackendClosedError, ForkedProcessError, StorageUnavailableError
from lms_tiers.interface import Capabilities, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text

_numbers: Final = itertools.count()


class SharedFiles(LMSBackendInterface):
    """A client of the chunks below `path`: written beside under a name of its own, then renamed, which is one step.

    Parameters
    ----------
    path : str
    capacity : int or None
        Not kept.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, shared=True, max_key_bytes=MAX_KEY)

    def __init__(self, path: str, capacity: int | None = None) -> None:
        self.path: Final = Path(path)
        self._pid: Final = os.getpid()
        self._closed: Final = threading.Event()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkedProcessError("shared files")
        if self._closed.is_set():
            raise BackendClosedError("shared files")

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Write beside, then rename."""
        self._check()
        key, data = key_text(client_meta.key, MAX_KEY), own_bytes(kv_chunk_bytes)
        blob = encode(key, ChunkMeta.of(client_meta, len(data)), data)
        try:
            self._write(file_of(self.path, key), blob)
        except OSError as error:
            raise StorageUnavailableError(str(self.path), str(error)) from error

    def _write(self, file: Path, blob: bytes) -> None:
        new = file.with_suffix(f".{os.getpid()}-{next(_numbers)}")
        try:
            new.write_bytes(blob)
            os.replace(new, file)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _read(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        with contextlib.suppress(OSError):
            return decode(file.read_bytes())
        return None

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk as it is now, verified."""
        self._check()
        text = key_text(key)
        found = self._read(file_of(self.path, text))
        return found[1].memory_obj(found[2]) if found is not None and found[0] == text else None

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the file is there now."""
        self._check()
        return file_of(self.path, key_text(key)).exists()

    def remove(self, key: CacheEngineKey) -> None:
        """Delete the file."""
        self._check()
        file_of(self.path, key_text(key)).unlink(missing_ok=True)

    def list_keys(self) -> List[CacheEngineKey]:
        """Everybody's keys."""
        return [info.key for info in self.scan()]

    def scan(self) -> Iterator[ChunkInfo]:
        """Everybody's chunks."""
        self._check()
        found = []
        for file in self.path.glob("*.chunk"):
            if (chunk := self._read(file)) is not None:
                found.append(ChunkInfo(CacheEngineKey.from_string(chunk[0]), chunk[1], len(chunk[2])))
        return iter(found)

    def close(self) -> None:
        """Leave; the files stay."""
        if self._pid == os.getpid():
            self._closed.set()
