"""The lmdb backend: the contract's methods over `reading`, `changes` and the writer thread."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, List, Optional

import lmdb

from lms_tiers.buffers import writable_bytes
from lms_tiers.codecs.scratch import scratch
from lms_tiers.errors import (
    ConfigError,
    DeadlineExceededError,
    LmsTiersError,
    StorageUnavailableError,
)
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.plugins.lmdb import changes, reading
from lms_tiers.plugins.lmdb.checkpoint import Checkpoints, discard
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.layout import MAX_KEY_BYTES, PAGE, key_hash
from lms_tiers.plugins.lmdb.listing import Brief, chunks_by_use, keys, one
from lms_tiers.plugins.lmdb.opening import Opened, open_directory
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.plugins.lmdb.parts import cut
from lms_tiers.plugins.lmdb.preparing import Preparing
from lms_tiers.plugins.lmdb.recency import Uses
from lms_tiers.plugins.lmdb.repair import clear_away
from lms_tiers.plugins.lmdb.sidecar import Left, boot_id
from lms_tiers.plugins.lmdb.space import Budget
from lms_tiers.plugins.lmdb.state import DamagedState, pack, unpack
from lms_tiers.plugins.lmdb.storing import Storing
from lms_tiers.plugins.lmdb.tables import unreadable
from lms_tiers.plugins.lmdb.writing import Operation, Writer

_log = logging.getLogger(__name__)


class LmdbBackend(LMSBackendInterface):
    """Chunks in one LMDB file of bounded size.

    Parameters
    ----------
    directory : Path
        Created where missing.
    capacity : int
        Bytes that all files of the store may take on disk, at every moment.
    options : LmdbOptions

    Raises
    ------
    ConfigError, FormatError, StorageLockedError, StorageUnavailableError
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, persistent=True, max_key_bytes=MAX_KEY_BYTES)

    def __init__(self, directory: Path, capacity: int, options: LmdbOptions) -> None:
        self._budget = Budget(capacity, PAGE)
        self._path = directory
        self._options = options
        self._coding = Coding(options.codec, options.threads)
        opened = open_directory(directory, self._budget.map_size, sync=options.sync == "commit")
        self._tables = opened.tables
        self._seed = opened.seed
        self._checkpoints: Checkpoints | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(opened.tables.close)
            self._start(opened, undo)
            undo.pop_all()
        self._lock = threading.Lock()
        self._recent = reading.Recent()
        self._bytes_read = 0
        self._corrupt = 0
        self._unreadable = 0

    def _start(self, opened: Opened, undo: contextlib.ExitStack) -> None:
        budget, counters = self._budget, opened.counters
        try:
            if self._options.sync == "batch":
                # Before the first commit: the checkpoint of whoever wrote before is protected no more.
                self._checkpoints = Checkpoints(opened.tables, self._path)
                undo.callback(self._checkpoints.stop)
                self._checkpoints.wait(self._checkpoints.mark())
            else:
                discard(self._path)
            if not opened.consistent:
                counters = clear_away(opened.tables, counters, opened.seed)
        except (OSError, lmdb.Error) as error:
            raise StorageUnavailableError(str(self._path), f"cannot be opened: {error}.") from error
        self._uses = Uses()
        self._preparing = Preparing(budget, self._coding, opened.seed, str(self._path))
        self._writer = Writer(opened.tables, counters, self._uses, self._checkpoints, budget.pinned_most)
        self._storing = Storing(self._preparing, self._writer)

    # -- in --------------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk; returns when it is committed."""
        with self._tables.calling():
            self._storing.put(client_meta, kv_chunk_bytes)

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Store chunks in order, many in one commit."""
        with self._tables.calling():
            self._storing.put_many(items)

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Store chunks straight from another backend's memory, where it lends it in one piece."""
        with self._tables.calling():
            return self._storing.put_from(client_metas, source)

    def remove(self, key: CacheEngineKey) -> None:
        """Delete a chunk; returns when that is committed."""
        self.remove_many((key,))

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Delete chunks in few commits."""
        texts = [key_text(key, MAX_KEY_BYTES).encode() for key in keys]
        hashed = [(key_hash(text, self._seed), text) for text in texts]
        with self._tables.calling():
            submit = self._writer.submit
            running = [
                submit(Operation(partial(changes.remove_all, keys=hashed[i : i + 64], seed=self._seed)))
                for i in range(0, len(hashed), 64)
            ]
            for operation in running:
                operation.outcome()

    # -- out -------------------------------------------------------------------------------------------------------

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the chunk is there, by its manifest."""
        found = self._find(key)
        return found is not None and self._coding.reads(found.layout)

    def _find(self, key: CacheEngineKey) -> Brief | None:
        text = key_text(key, MAX_KEY_BYTES).encode()
        hashed = key_hash(text, self._seed)
        try:
            return one(self._tables, text, hashed, self._seed)
        except reading.Damaged as damage:
            self._drop(hashed, damage)
            return None

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk in a bytearray of its own."""
        found = self._read(key, None)
        return None if found is None else found[0].memory_obj(found[1])

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read into the caller's buffer; stored raw, there is one copy."""
        found = self._read(key, lambda meta: writable_bytes(buffer, meta.length)[: meta.length])
        return None if found is None else found[0]

    def _read(
        self, key: CacheEngineKey, target: Callable[[ChunkMeta], memoryview] | None
    ) -> tuple[ChunkMeta, Any] | None:
        """The chunk, and where its bytes are: in what `target` answers for its metadata, or in memory of their own."""
        text = key_text(key, MAX_KEY_BYTES).encode()
        hashed = key_hash(text, self._seed)
        try:
            with self._tables.reading() as txn:
                manifest = self._recent.find(txn, self._tables, text, hashed, self._seed)
                if manifest is None:
                    return None
                if not self._coding.reads(manifest.layout):
                    self._unreadable += 1  # kept for when its codec is back
                    return None
                out: Any = None if target is None else target(manifest.meta)
                encoded: memoryview | None = None
                if manifest.layout:
                    encoded = scratch("lmdb", manifest.stream).data  # this thread's
                    reading.copy(txn, self._tables, manifest, encoded)
                elif out is not None:
                    reading.copy(txn, self._tables, manifest, out)
                else:
                    out = reading.fetch(txn, self._tables, manifest)
            if encoded is not None:
                # `close` ends the threads that help: it must wait for this as it does for the reading.
                with self._tables.calling():
                    out = bytearray(manifest.meta.length) if out is None else out
                    self._coding.decode(manifest, encoded, memoryview(out))
        except reading.Damaged as damage:
            self._drop(hashed, damage)
            return None
        self._bytes_read += manifest.stored
        return manifest.meta, out

    def _drop(self, hashed: bytes, damage: reading.Damaged) -> None:
        """Damage is a miss and a counter, and the damaged chunk is deleted, so that `contains` tells the truth."""
        self._corrupt += 1
        _log.warning("lmdb store %s: a chunk is damaged and was dropped: %s", self._path, damage.reason)
        with contextlib.suppress(LmsTiersError):
            self._writer.submit(
                Operation(lambda tx: changes.drop_damaged(tx, hashed, damage.sequence, self._seed))
            ).outcome()

    @contextlib.contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """The parts as they lie in the file where stored raw.

        A read transaction stays open in the block and holds back freed pages: keep it short.
        """
        text = key_text(key, MAX_KEY_BYTES).encode()
        hashed = key_hash(text, self._seed)
        with contextlib.ExitStack() as stack:
            found: ChunkView | None = None
            manifest = None
            try:
                txn = stack.enter_context(self._tables.borrowing())
                manifest = reading.find(txn, self._tables, text, hashed, self._seed)
                if manifest is not None and not manifest.layout:
                    parts = reading.borrow(txn, self._tables, manifest)
                    tail = (memoryview(manifest.tail),) if manifest.tail else ()
                    found = ChunkView(manifest.meta, (*parts, *tail))
                    self._bytes_read += manifest.stored
                    for part in parts:
                        stack.callback(_release, part)
            except reading.Damaged as damage:
                stack.close()
                self._drop(hashed, damage)
            except lmdb.Error as error:
                raise unreadable(str(self._path), error) from error
            if found is None and manifest is not None and manifest.layout:
                stack.close()
                decoded = self._read(key, None)
                if decoded is not None:
                    found = ChunkView(decoded[0], (memoryview(decoded[1]),))
            yield found

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key, read in batches: no transaction stays open for long."""
        return list(self.iter_keys())

    def iter_keys(self) -> Iterator[CacheEngineKey]:
        """As `list_keys`, a batch at a time."""
        self._tables.check()
        return keys(self._tables, self._seed, self._coding.reads)

    def close(self) -> None:
        """Commit and sync what is under way, then close."""
        tables = self._tables
        if os.getpid() != tables.pid:
            return  # a forked child owns nothing here
        with self._lock:
            if tables.closed:
                return
            with contextlib.suppress(LmsTiersError):
                self._writer.submit(Operation()).wait()
            self._writer.stop()
            try:
                tables.check_file()
                if self._checkpoints is not None:
                    self._checkpoints.wait(self._checkpoints.mark())
                # Also where the option `sync` is none: a closed store survives a power loss.
                tables.env.sync(True)
                Left(True, boot_id()).write(self._path)
            except (OSError, lmdb.Error) as error:
                _log.warning("lmdb store %s: closed, but not on the medium: %s", self._path, error)
            if self._checkpoints is not None:
                self._checkpoints.stop()
            tables.close()
            self._coding.close()

    # -- for a tier ------------------------------------------------------------------------------------------------

    @property
    def usable_bytes(self) -> int:
        """What chunks may be charged with together: the capacity less what LMDB needs beside them."""
        return self._budget.usable

    def reserve_bytes(self, length: int) -> int:
        """The charge of a chunk stored raw under the longest key; codecs only lower it."""
        return self._preparing.reserve(length)

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """The chunk's charge, from its manifest."""
        found = self._find(key)
        return None if found is None else found.stored

    def held(self) -> tuple[int, int]:
        """Chunks held, and the sum of their charges; see `lms_tiers.tiered.loading.Locating`."""
        return self._writer.counters.chunks, self._writer.counters.stored

    def locate(self, key: CacheEngineKey) -> ChunkInfo | None:
        """What `scan` lists of `key`."""
        found = self._find(key)
        return ChunkInfo(key, found.meta, found.stored) if found and self._coding.reads(found.layout) else None

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk, least recently put or used first."""
        with self._tables.calling():
            self._barrier()
        yield from chunks_by_use(self._tables, self._seed, self._coding.reads)

    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """Note uses; they reach the file with the next commit, flush or close."""
        self._tables.check()
        if self._uses.note([key_hash(key_text(key).encode(), self._seed) for key in keys]):
            self._barrier()

    def _barrier(self, timeout: float | None = None) -> Any:
        operation = self._writer.submit(Operation())
        if not operation.wait(timeout):
            raise DeadlineExceededError("flush of an lmdb store", timeout or 0.0)
        return operation.outcome()

    def save_state(self, state: bytes) -> None:
        """Keep a tier's state in the file; one that is too large is dropped, with a warning."""
        with self._tables.calling():
            packed = pack(state, self._budget.state_limit, str(self._path))
            groups = cut(len(packed), self._budget.page)
            self._writer.submit(Operation(lambda tx: changes.save_state(tx, packed, groups), len(packed))).outcome()

    def load_state(self) -> bytes | None:
        """The state kept last; None without one, or where it is damaged."""
        with self._tables.reading() as txn:
            packed = changes.load_state(txn, self._tables.meta)
        if not packed:
            return None
        try:
            return unpack(packed)
        except DamagedState:
            self._corrupt += 1
            return None

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything put before is committed and, as the option `sync` promises, on the medium."""
        with self._tables.calling():
            began = time.monotonic()
            transaction = self._barrier(timeout)
            if self._checkpoints is None:
                return
            left = None if timeout is None else timeout - (time.monotonic() - began)
            try:
                done = self._checkpoints.wait(transaction, left)
            except OSError as error:
                raise StorageUnavailableError(str(self._path), f"{error}.") from error
            if not done:
                raise DeadlineExceededError("flush of an lmdb store", timeout or 0.0)

    def stats(self) -> BackendStats:
        """Counters since open; bytes used are those of data.mdb on disk."""
        with self._tables.calling():
            counters, writer = self._writer.counters, self._writer.stats
            size = self._tables.file_bytes()
            return BackendStats(
                keys=counters.chunks, bytes_used=size, bytes_peak=size, bytes_written=writer.bytes_written,
                bytes_read=self._bytes_read, failures=writer.failures, corrupt=self._corrupt,
                detail={
                    "stored_bytes": counters.stored, "commits": writer.commits, "map_full": writer.map_full,
                    "unreadable": self._unreadable,
                },
            )  # fmt: skip


def _release(part: memoryview) -> None:
    # A slice that the block's user kept forbids the release; the contract forbids using it after the block.
    with contextlib.suppress(BufferError):
        part.release()


def open_backend(location: str, capacity: int | None, options: LmdbOptions | None) -> LmdbBackend:
    """The factory: `location` is a directory on a local disk, `capacity` the bytes it may take there.

    Raises
    ------
    ConfigError
        No location or no capacity.
    """
    if not location:
        raise ConfigError("an lmdb tier needs a directory: write lmdb:/path/to/directory?capacity=50GiB.")
    if capacity is None:
        raise ConfigError(f"an lmdb tier needs a capacity: write lmdb:{location}?capacity=50GiB.")
    return LmdbBackend(Path(location), capacity, options or LmdbOptions.model_validate({}))
