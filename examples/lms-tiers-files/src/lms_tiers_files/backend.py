"""KV chunks as files: atomic by rename, verified by checksum, one directory, no index.

A file holds a fixed head (magic, sizes, checksum), the packed metadata, the key's text and the bytes. Its name is the
SHA-256 of the key, so that no key can leave the directory, and the key inside is compared in full when it is read.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from pathlib import Path
from typing import ClassVar, List, Optional

import xxhash

from lms_tiers import (
    BackendStats,
    CacheEngineKey,
    Capabilities,
    ChunkMeta,
    ClientMetaMessage,
    LMSBackendInterface,
    LMSMemoryObj,
    key_text,
    own_bytes,
)
from lms_tiers.errors import BackendClosedError, ConfigError, FormatError, StorageUnavailableError
from lms_tiers.options import Options

HEAD = struct.Struct("<8sIIQQ")  # magic, bytes of metadata, bytes of key, bytes of data, checksum of all that follows
MAGIC = b"LMSFILE1"
BLOCK = 4096  # what a file system gives out


def _blocks(size: int) -> int:
    """Bytes that a file of `size` bytes takes on disk."""
    return -(-size // BLOCK) * BLOCK


class FilesOptions(Options):
    """Options of the backend `files`."""

    sync: bool = False


class FilesBackend(LMSBackendInterface):
    """Chunks as files in `directory`."""

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, persistent=True, forkable=True, max_key_bytes=4096)

    def __init__(self, directory: Path, sync: bool = False) -> None:
        self._directory = directory
        self._sync = sync
        self._closed = False
        self._numbers = itertools.count()
        self._corrupt = 0
        self._failures = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for left_over in directory.glob("*.part"):  # of a process that was killed in the middle of a put
                left_over.unlink(missing_ok=True)
            probe = directory / f"probe-{os.getpid()}.part"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StorageUnavailableError(str(directory), f"not a writable directory: {error.strerror}.") from error

    def _path(self, key: CacheEngineKey) -> tuple[str, Path]:
        if self._closed:
            raise BackendClosedError("files")
        text = key_text(key, self.capabilities.max_key_bytes)
        return text, self._directory / f"{hashlib.sha256(text.encode()).hexdigest()}.chunk"

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Write a new file and rename it over the old one: a reader sees one or the other, whole."""
        text, path = self._path(client_meta.key)
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data)).pack()
        key = text.encode()
        checksum = xxhash.xxh3_64(meta + key)
        checksum.update(data)
        head = HEAD.pack(MAGIC, len(meta), len(key), len(data), checksum.intdigest())
        part = path.with_name(f"{path.stem}-{os.getpid()}-{next(self._numbers)}.part")
        try:
            with part.open("wb") as file:
                file.write(head + meta + key)
                file.write(data)
                if self._sync:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
            if self._sync:
                self.flush()
        except OSError as error:
            self._failures += 1
            part.unlink(missing_ok=True)
            raise StorageUnavailableError(str(self._directory), f"cannot write: {error.strerror}.") from error

    def _read(self, path: Path, text: str | None, body: bool) -> tuple[str, ChunkMeta, bytearray] | None:
        """What the file holds; None where it is absent, damaged or another key's."""
        try:
            with path.open("rb") as file:
                magic, meta_size, key_size, size, checksum = HEAD.unpack(file.read(HEAD.size))
                if magic != MAGIC or HEAD.size + meta_size + key_size + size != os.fstat(file.fileno()).st_size:
                    raise FormatError(str(path), "damaged bytes", "a chunk file of version 1")
                lead = file.read(meta_size + key_size)
                data = bytearray(size if body else 0)
                if file.readinto(data) != len(data):
                    raise FormatError(str(path), "fewer bytes than its head says", "a whole chunk file")
        except FileNotFoundError:
            return None
        except (OSError, struct.error, FormatError):
            self._failures += 1
            return None
        digest = xxhash.xxh3_64(lead)
        digest.update(data)
        if body and digest.intdigest() != checksum:
            self._corrupt += 1
            return None
        try:
            meta, _ = ChunkMeta.unpack(lead[:meta_size])
            found = lead[meta_size:].decode()
        except (FormatError, UnicodeDecodeError):
            self._corrupt += 1
            return None
        return (found, meta, data) if text in (None, found) else None

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Read and verify one file."""
        text, path = self._path(key)
        found = self._read(path, text, body=True)
        return None if found is None else found[1].memory_obj(memoryview(found[2]).toreadonly())

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether `get` would answer: the whole file is checked, for a damaged chunk is a miss."""
        text, path = self._path(key)
        return self._read(path, text, body=True) is not None

    def remove(self, key: CacheEngineKey) -> None:
        """Delete the file."""
        path = self._path(key)[1]
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._failures += 1
            raise StorageUnavailableError(str(path), f"cannot remove: {error.strerror}.") from error

    def list_keys(self) -> List[CacheEngineKey]:
        """The keys that stand in the files."""
        if self._closed:
            raise BackendClosedError("files")
        found = (self._read(path, None, body=False) for path in self._directory.glob("*.chunk"))
        return [CacheEngineKey.from_string(chunk[0]) for chunk in found if chunk is not None]

    def flush(self, timeout: float | None = None) -> None:
        """Make the renames durable."""
        if self._closed:
            raise BackendClosedError("files")
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def stats(self) -> BackendStats:
        """Keys, bytes on disk, failures."""
        if self._closed:
            raise BackendClosedError("files")
        sizes = [_blocks(path.stat().st_size) for path in self._directory.glob("*.chunk")]
        return BackendStats(keys=len(sizes), bytes_used=sum(sizes), failures=self._failures, corrupt=self._corrupt)

    def reserve_bytes(self, length: int) -> int:
        """Whole blocks for the bytes, the head, the longest metadata and the longest key."""
        return _blocks(length + HEAD.size + 4096 + 4096)

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """Whole blocks of the file."""
        try:
            return _blocks(self._path(key)[1].stat().st_size)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Nothing is held open between calls."""
        self._closed = True


def open_backend(location: str, capacity: int | None, options: FilesOptions) -> FilesBackend:
    """Open the directory `location`; `capacity` is the tier's business."""
    if not location:
        raise ConfigError("backend 'files' needs a directory: write files:/path/to/directory.")
    return FilesBackend(Path(location), options.sync)
