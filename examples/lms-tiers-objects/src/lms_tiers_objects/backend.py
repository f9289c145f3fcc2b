"""KV chunks in an object store, one object each, whole-object writes, verified by checksum.

An object holds a fixed head, the packed metadata, the key's text and the bytes. Its name is the SHA-256 of the key;
the key inside is compared in full when it is read.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Any

import obstore
import xxhash
from obstore.exceptions import BaseError
from obstore.store import from_url

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
from lms_tiers.errors import BackendClosedError, ConfigError, ForkedProcessError, FormatError, StorageUnavailableError
from lms_tiers.options import Options

HEAD = struct.Struct("<8sIIQQ")  # magic, bytes of metadata, bytes of key, bytes of data, checksum of all that follows
MAGIC = b"LMSOBJ01"
LEAD = 8192  # bytes that hold any head, metadata and key


class ObjectsOptions(Options):
    """Options of the backend `objects`."""

    prefix: str = "lms-tiers"


class ObjectsBackend(LMSBackendInterface):
    """Chunks as objects below a prefix."""

    def __init__(self, url: str, prefix: str = "lms-tiers") -> None:
        self.capabilities = Capabilities(  # type: ignore[misc]  # persistent depends on the store
            remove=True, persistent=not url.startswith("memory:"), max_key_bytes=4096
        )
        self._url = url
        self._prefix = prefix.strip("/")
        self._pid = os.getpid()
        self._closed = False
        self._corrupt = 0
        self._failures = 0
        try:
            options: dict[str, Any] = {"mkdir": True} if url.startswith("file:") else {}
            self._store = from_url(url, **options)
            obstore.list(self._store, prefix=self._prefix, chunk_size=1).collect()
        except (BaseError, ValueError, OSError) as error:
            raise StorageUnavailableError(url, f"cannot be opened: {str(error).splitlines()[0]}.") from error

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError("objects")
        if self._closed:
            raise BackendClosedError("objects")

    def _name(self, key: CacheEngineKey) -> tuple[str, str]:
        self._check()
        text = key_text(key, self.capabilities.max_key_bytes)
        return text, f"{self._prefix}/{hashlib.sha256(text.encode()).hexdigest()}"

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Write the whole object at once: a reader sees the old one or the new one."""
        text, name = self._name(client_meta.key)
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data)).pack()
        key = text.encode()
        head = HEAD.pack(MAGIC, len(meta), len(key), len(data), _checksum(meta + key, data))
        try:
            # One new buffer: a store in memory keeps what it is given.
            obstore.put(self._store, name, b"".join((head, meta, key, data)))
        except (BaseError, OSError) as error:
            self._failures += 1
            raise StorageUnavailableError(self._url, f"cannot write: {str(error).splitlines()[0]}.") from error

    def _read(self, name: str, text: str | None) -> LMSMemoryObj | None:
        try:
            body = memoryview(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError):
            self._failures += 1
            return None
        try:
            magic, meta_size, key_size, size, checksum = HEAD.unpack_from(body)
            lead = HEAD.size + meta_size + key_size
            data = body[lead:]
            if magic != MAGIC or len(data) != size or _checksum(body[HEAD.size : lead], data) != checksum:
                raise FormatError(name, "damaged bytes", "a chunk object of version 1")
            meta, _ = ChunkMeta.unpack(body[HEAD.size : HEAD.size + meta_size])
            found = bytes(body[HEAD.size + meta_size : lead]).decode()
        except (struct.error, FormatError, UnicodeDecodeError):
            self._corrupt += 1
            self._delete(name)  # so that `contains` says what `get` says
            return None
        return meta.memory_obj(data.toreadonly()) if text in (None, found) else None

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """Read and verify one object."""
        text, name = self._name(key)
        return self._read(name, text)

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the object is there and whole, without moving its bytes; `get` verifies them."""
        text, name = self._name(key)
        found = self._lead(name)
        return found == text

    def _lead(self, name: str) -> str | None:
        """The key that stands in an object of the right size."""
        try:
            # One request for size and bytes: two could see two versions of the object.
            found = obstore.get(self._store, name, options={"range": (0, LEAD)})
            size, lead = found.meta["size"], bytes(found.bytes())
            magic, meta_size, key_size, data_size, _ = HEAD.unpack_from(lead)
            start = HEAD.size + meta_size
            if magic != MAGIC or start + key_size + data_size != size:
                return None
            return lead[start : start + key_size].decode()
        except FileNotFoundError:
            return None
        except (BaseError, OSError, struct.error, UnicodeDecodeError, ValueError):
            self._failures += 1
            return None

    def remove(self, key: CacheEngineKey) -> None:
        """Delete the object."""
        _, name = self._name(key)
        try:
            self._delete(name)
        except (BaseError, OSError) as error:
            self._failures += 1
            raise StorageUnavailableError(self._url, f"cannot remove: {str(error).splitlines()[0]}.") from error

    def _delete(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return

    def list_keys(self) -> list[CacheEngineKey]:
        """The keys that stand in the objects."""
        self._check()
        names = [o["path"] for o in obstore.list(self._store, prefix=self._prefix).collect()]
        found = (self._lead(name) for name in names)
        return [CacheEngineKey.from_string(text) for text in found if text is not None]

    def flush(self, timeout: float | None = None) -> None:
        """Every put was stored when it returned."""
        self._check()

    def stats(self) -> BackendStats:
        """Objects and their bytes."""
        self._check()
        sizes = [o["size"] for o in obstore.list(self._store, prefix=self._prefix).collect()]
        return BackendStats(keys=len(sizes), bytes_used=sum(sizes), failures=self._failures, corrupt=self._corrupt)

    def reserve_bytes(self, length: int) -> int:
        """The bytes, the head, the longest metadata and the longest key."""
        return length + LEAD

    def close(self) -> None:
        """The store itself holds nothing open between calls."""
        self._closed = True


def _checksum(lead: Any, data: Any) -> int:
    digest = xxhash.xxh3_64(lead)
    digest.update(data)
    return digest.intdigest()


def open_backend(location: str, capacity: int | None, options: ObjectsOptions) -> ObjectsBackend:
    """Open the store at the URL `location`; `capacity` is the tier's business."""
    if "://" not in location:
        raise ConfigError("backend 'objects' needs a URL: write objects:file:///directory or objects:s3://bucket.")
    return ObjectsBackend(location, options.prefix)
