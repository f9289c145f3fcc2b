"""KV chunks in one SQLite database: a row per chunk, a rollback journal, a pool of connections.

`capacity` bounds the database file and its journal together. A write-ahead log would be quicker and would hold every
chunk a second time. The journal stays small because a put inserts before it deletes: pages that were free before need
no rollback.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

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
from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    ConfigError,
    ForkedProcessError,
    FormatError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.options import Options

PAGE = 16384
RESERVED_PAGES = 48  # schema, index, the tree's inner pages and the journal

_log = logging.getLogger(__name__)


class SqliteOptions(Options):
    """Options of the backend `sqlite`."""

    sync: Literal["off", "normal", "full"] = "normal"


class SqliteBackend(LMSBackendInterface):
    """Chunks as rows of one table."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, persistent=True, max_key_bytes=4096, max_value_bytes=128 * 1024 * 1024
    )

    def __init__(self, path: Path, capacity: int | None = None, sync: str = "normal") -> None:
        self._path = path
        self._sync = sync
        self._pages = None if capacity is None else capacity // PAGE - RESERVED_PAGES
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._corrupt = 0
        self._failures = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._idle.append(self._create())
        except OSError as error:
            raise StorageUnavailableError(str(path), f"cannot be opened: {error.strerror}.") from error

    def _create(self) -> sqlite3.Connection:
        try:
            return self._prepare()
        except sqlite3.OperationalError as error:
            raise StorageUnavailableError(str(self._path), f"cannot be opened: {error}.") from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
        try:
            return self._prepare()
        except sqlite3.Error as error:
            raise StorageUnavailableError(str(self._path), f"cannot be opened: {error}.") from error

    def _prepare(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            connection.execute(
                "CREATE TABLE IF NOT EXISTS chunks "
                "(id INTEGER PRIMARY KEY, key BLOB, meta BLOB, checksum BLOB, data BLOB)"
            )
            connection.execute("CREATE INDEX IF NOT EXISTS chunks_by_key ON chunks (key)")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, error: sqlite3.Error) -> None:
        self._corrupt += 1
        for suffix in ("", "-journal"):
            sick = self._path.with_name(self._path.name + suffix)
            if sick.exists():
                number = next(n for n in itertools.count() if not sick.with_name(f"{sick.name}.damaged-{n}").exists())
                sick.rename(sick.with_name(f"{sick.name}.damaged-{number}"))
        _log.warning("%s is damaged (%s): moved aside, starting empty", self._path, error)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size={PAGE}")
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            connection.execute(f"PRAGMA synchronous={self._sync}")
            if self._pages is not None:
                connection.execute(f"PRAGMA max_page_count={self._pages}")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._pid:
            raise ForkedProcessError("sqlite")
        with self._lock:
            if self._closed:
                raise BackendClosedError("sqlite")
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _key(self, key: CacheEngineKey) -> bytes:
        return key_text(key, self.capabilities.max_key_bytes).encode()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Insert the new row, then delete the old one, in one transaction."""
        key = self._key(client_meta.key)
        data = own_bytes(kv_chunk_bytes)
        meta = ChunkMeta.of(client_meta, len(data)).pack()
        limit = min(self.capabilities.max_value_bytes or 0, self.usable_bytes or sys.maxsize)
        if self.reserve_bytes(len(data)) > limit:
            raise ValueTooLargeError(client_meta.key.to_string(), len(data), limit, "sqlite")
        row = (key, meta, _checksum(key, meta, data), data)
        with self._connection() as connection:
            try:
                with _transaction(connection):
                    new = connection.execute("INSERT INTO chunks VALUES (NULL, ?, ?, ?, ?)", row).lastrowid
                    connection.execute("DELETE FROM chunks WHERE key = ? AND id <> ?", (key, new))
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise CapacityError("sqlite", len(data), self._free(connection)) from error
                self._failures += 1
                raise StorageUnavailableError(str(self._path), f"cannot write: {error}.") from error
            except sqlite3.DatabaseError as error:
                self._failures += 1
                raise StorageUnavailableError(str(self._path), f"cannot write: {error}.") from error

    def _free(self, connection: sqlite3.Connection) -> int:
        free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
        used: int = connection.execute("PRAGMA page_count").fetchone()[0]
        return max((self._pages or used) - used + free, 0) * PAGE

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """Read one row and verify it; damage is a miss."""
        text = self._key(key)
        with self._connection() as connection:
            try:
                row = connection.execute("SELECT meta, checksum, data FROM chunks WHERE key = ?", (text,)).fetchone()
            except sqlite3.DatabaseError:
                self._failures += 1
                return None
        if row is None:
            return None
        try:
            meta, checksum, data = row
            if checksum != _checksum(text, meta, data):
                raise FormatError(str(self._path), "a damaged row", "the bytes that were put")
            return ChunkMeta.unpack(meta)[0].memory_obj(data)
        except (FormatError, TypeError):
            self._corrupt += 1
            return None

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether `get` would answer; the row is verified, for a damaged chunk is a miss."""
        return self.get(key) is not None

    def remove(self, key: CacheEngineKey) -> None:
        """Delete the row."""
        text = self._key(key)
        with self._connection() as connection:
            try:
                connection.execute("DELETE FROM chunks WHERE key = ?", (text,))
            except sqlite3.DatabaseError as error:
                self._failures += 1
                raise StorageUnavailableError(str(self._path), f"cannot remove: {error}.") from error

    def list_keys(self) -> list[CacheEngineKey]:
        """Every key, from one snapshot."""
        with self._connection() as connection:
            try:
                rows = connection.execute("SELECT key FROM chunks").fetchall()
            except sqlite3.DatabaseError as error:
                self._failures += 1
                raise StorageUnavailableError(str(self._path), f"cannot read: {error}.") from error
        return [CacheEngineKey.from_string(key.decode()) for (key,) in rows]

    def flush(self, timeout: float | None = None) -> None:
        """Every put was committed when it returned."""
        with self._connection():
            return

    def stats(self) -> BackendStats:
        """Rows, and the size of the database on disk."""
        with self._connection() as connection:
            (keys,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
        size = self._path.stat().st_size
        return BackendStats(keys=keys, bytes_used=size, failures=self._failures, corrupt=self._corrupt)

    @property
    def usable_bytes(self) -> int | None:
        """Pages left after what the tree itself takes."""
        return None if self._pages is None else max(self._pages - self._pages // 64, 0) * PAGE

    def reserve_bytes(self, length: int) -> int:
        """Whole pages for the bytes, the longest key twice (table and index) and the metadata."""
        return -(-(length + 2 * 4096 + 4096) // (PAGE - 64)) * PAGE

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their call ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle if os.getpid() == self._pid else ():
            connection.close()


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def _checksum(key: bytes, meta: bytes, data: bytes | bytearray) -> bytes:
    digest = xxhash.xxh3_128(meta)
    digest.update(key)
    digest.update(data)
    return digest.digest()


def open_backend(location: str, capacity: int | None, options: SqliteOptions) -> SqliteBackend:
    """Open the database at `location`, of at most `capacity` bytes."""
    if not location:
        raise ConfigError("backend 'sqlite' needs a file: write sqlite:/path/to/chunks.db.")
    if capacity is not None and capacity < 4 * RESERVED_PAGES * PAGE:
        raise ConfigError(f"backend 'sqlite' needs a capacity of at least {4 * RESERVED_PAGES * PAGE} bytes.")
    return SqliteBackend(Path(location), capacity, options.sync)
