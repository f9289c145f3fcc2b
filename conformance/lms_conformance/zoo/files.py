"""The correct persistent reference: one checksummed file per chunk, replaced atomically, under an exclusive lock."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final, List, Optional

import xxhash

from lms_tiers.buffers import own_bytes
from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    ForkedProcessError,
    FormatError,
    StorageLockedError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text

PAGE: Final = 4096
MAX_KEY: Final = 512
_HEAD: Final = struct.Struct("<4sHHQ")  # magic, key bytes, metadata bytes, checksum of all that follows
_MAGIC: Final = b"zoo1"


def file_of(path: Path, key: str) -> Path:
    """Where the chunk of `key` is kept."""
    return path / f"{hashlib.sha256(key.encode()).hexdigest()}.chunk"


def pages(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def encode(key: str, meta: ChunkMeta, data: bytes | bytearray) -> bytes:
    """A chunk's file."""
    packed, name = meta.pack(), key.encode()
    body = b"".join((name, packed, data))
    return _HEAD.pack(_MAGIC, len(name), len(packed), xxhash.xxh3_64_intdigest(body)) + body


def decode(blob: bytes, *, verify: bool = True) -> tuple[str, ChunkMeta, memoryview] | None:
    """Key, metadata and bytes of a file; None where it is damaged."""
    try:
        magic, name_bytes, meta_bytes, checksum = _HEAD.unpack_from(blob)
        body = memoryview(blob)[_HEAD.size :]
        if verify and (magic != _MAGIC or xxhash.xxh3_64_intdigest(body) != checksum):
            return None
        key = bytes(body[:name_bytes]).decode()
        meta, _ = ChunkMeta.unpack(body[name_bytes : name_bytes + meta_bytes])
        return key, meta, body[name_bytes + meta_bytes :]
    except (struct.error, UnicodeDecodeError, FormatError):
        return None


class FileReference(LMSBackendInterface):
    """Chunks in files below `path`.

    Parameters
    ----------
    path : str
    capacity : int or None
        Bytes of whole pages; an overwrite needs room for both chunks, because the old one stays until the new is safe.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, persistent=True, max_key_bytes=MAX_KEY)

    def __init__(self, path: str, capacity: int | None = None) -> None:
        self.path = Path(path)
        self.capacity = capacity
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._closed = False
        self._corrupt = 0
        self._index: OrderedDict[str, tuple[int, ChunkMeta]] = OrderedDict()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageUnavailableError(path, str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StorageLockedError(path, "another backend") from None
        self._release = weakref.finalize(self, os.close, lock)
        self._load()
        self._used = sum(size for size, _ in self._index.values())
        self._peak = self._used

    def _load(self) -> None:
        for stray in self.path.glob("*.new"):
            stray.unlink()
        for file in sorted(self.path.glob("*.chunk")):
            found = self._decode(file)
            if found is None:
                self._corrupt += 1
                file.unlink()
                continue
            key, meta, _ = found
            self._index[key] = pages(file.stat().st_size), meta
        with contextlib.suppress(OSError):
            for line in (self.path / "order").read_text(encoding="utf-8").split("\0"):
                if line in self._index:
                    self._index.move_to_end(line)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkedProcessError("file reference")
        if self._closed:
            raise BackendClosedError("file reference")

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Write beside, then replace."""
        self._check()
        key = key_text(client_meta.key, MAX_KEY)
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data))
        blob = encode(key, meta, data)
        with self._mutex:
            self._check()
            size = pages(len(blob))
            self._make_room(key, size)
            self._peak = max(self._peak, self._used + size)
            try:
                self._write(file_of(self.path, key), blob)
            except OSError as error:
                raise StorageUnavailableError(str(self.path), str(error)) from error
            self._used += size - self._index.pop(key, (0, meta))[0]
            self._index[key] = size, meta

    def _decode(self, file: Path) -> tuple[str, ChunkMeta, memoryview] | None:
        return decode(file.read_bytes())

    def _write(self, file: Path, blob: bytes) -> None:
        new = file.with_suffix(".new")
        try:
            new.write_bytes(blob)
            os.replace(new, file)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _make_room(self, key: str, size: int) -> None:
        if self.capacity is None or self._used + size <= self.capacity:
            return
        if size > self.capacity:
            raise ValueTooLargeError(key, size, self.capacity, str(self.path))
        if not self.capabilities.evicts:
            raise CapacityError(str(self.path), size, self.capacity - self._used)
        while self._used + size > self.capacity:
            self._drop(next((k for k in self._index if k != key), key))

    def _drop(self, key: str) -> None:
        found = self._index.pop(key, None)
        if found is not None:
            self._delete(file_of(self.path, key))
            self._used -= found[0]

    def _delete(self, file: Path) -> None:
        file.unlink(missing_ok=True)

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the key is held."""
        self._check()
        text = key_text(key)
        with self._mutex:
            self._check()
            return text in self._index

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk, verified; a damaged one is a miss and is dropped."""
        self._check()
        text = key_text(key)
        with self._mutex:
            self._check()
            if text not in self._index:
                return None
            self._index.move_to_end(text)
            try:
                found = self._decode(file_of(self.path, text))
            except OSError:
                found = None
            if found is None or found[0] != text:
                self._corrupt += 1
                self._drop(text)
                return None
        return found[1].memory_obj(found[2])

    def remove(self, key: CacheEngineKey) -> None:
        """Delete the file."""
        self._check()
        text = key_text(key)
        with self._mutex:
            self._check()
            self._drop(text)

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key, least recently used first."""
        self._check()
        with self._mutex:
            self._check()
            return [CacheEngineKey.from_string(text) for text in self._index]

    def flush(self, timeout: float | None = None) -> None:
        """Make files, removals and the order durable."""
        self._check()
        with self._mutex:
            self._check()
            self._sync()

    def _sync(self) -> None:
        self._write(self.path / "order", "\0".join(self._index).encode())
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Give up the lock."""
        with self._mutex:
            if not self._closed and self._pid == os.getpid():
                with contextlib.suppress(OSError):
                    self._sync()
            self._closed = True
            self._release()

    def reserve_bytes(self, length: int) -> int:
        """Whole pages of header, longest key, metadata and bytes."""
        return pages(_HEAD.size + MAX_KEY + 12 + 8 * 255 + length)

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """Whole pages of the chunk's file."""
        self._check()
        found = self._index.get(key_text(key))
        return None if found is None else found[0]

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk, least recently used first."""
        self._check()
        with self._mutex:
            held = list(self._index.items())
        for text, (size, meta) in held:
            yield ChunkInfo(CacheEngineKey.from_string(text), meta, size)

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """Make `keys` the most recently used."""
        with self._mutex:
            for key in keys:
                if key_text(key) in self._index:
                    self._index.move_to_end(key_text(key))

    def save_state(self, state: bytes) -> None:
        """Keep it in a file of its own."""
        self._check()
        self._write(self.path / "state", bytes(state))

    def load_state(self) -> bytes | None:
        """What was kept."""
        self._check()
        try:
            return (self.path / "state").read_bytes()
        except FileNotFoundError:
            return None

    def stats(self) -> BackendStats:
        """Keys, bytes and damaged chunks."""
        return BackendStats(keys=len(self._index), bytes_used=self._used, bytes_peak=self._peak, corrupt=self._corrupt)


class EvictingFileReference(FileReference):
    """The same, evicting the least recently used chunk when full; the order outlives a restart."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, persistent=True, evicts=True, policy="lru", max_key_bytes=MAX_KEY
    )
