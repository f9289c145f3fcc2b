"""The lmdb backend: the contract's methods over `reading`, `writing` and what keeps a store on the medium."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, List, Optional

from lms_tiers.arena.recycle import Recycler
from lms_tiers.errors import ConfigError
from lms_tiers.interface import BackendStats, Capabilities, ChunkInFile, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.plugins.lmdb import listing
from lms_tiers.plugins.lmdb.calls import calling, reading, staying
from lms_tiers.plugins.lmdb.checkpoint import MOST, Syncing
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.cooling import Cooling
from lms_tiers.plugins.lmdb.directory import Place, unavailable
from lms_tiers.plugins.lmdb.layout import MAX_KEY_BYTES, PAGE, Damaged, record_pages
from lms_tiers.plugins.lmdb.opening import leave, open_directory
from lms_tiers.plugins.lmdb.options import OUTLIVES_POWER, LmdbOptions
from lms_tiers.plugins.lmdb.reading import Into, Reader, fresh
from lms_tiers.plugins.lmdb.ring import Ring
from lms_tiers.plugins.lmdb.space import Budget, charge, reserve
from lms_tiers.plugins.lmdb.writing import Writer

_log = logging.getLogger(__name__)

#: Memory kept for encoding and for what goes past the page cache; half as much for batches of reads.
_KEPT: Final = 64 << 20


class LmdbBackend(LMSBackendInterface):
    """Chunks in `directory`, all of whose files take at most `capacity` bytes on disk, at every moment.

    Raises
    ------
    ConfigError, FormatError, StorageLockedError, StorageUnavailableError
    """

    #: Of one that is open, `power` is what its option `sync` promises.
    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, persistent=True, max_key_bytes=MAX_KEY_BYTES)

    def __init__(self, directory: Path, capacity: int, options: LmdbOptions) -> None:
        power = OUTLIVES_POWER[options.sync]
        self.capabilities = dataclasses.replace(type(self).capabilities, power=power)  # type: ignore[misc]  # by option
        self._budget: Final = Budget(capacity)
        self._path: Final = directory
        self._memory: Final = Recycler(_KEPT)
        self._ring: Final = Ring(_KEPT // 2)
        self._coding: Final = Coding(options.codec, options.threads, self._memory)
        store, self._checkpoints, self._ownership = open_directory(directory, self._budget, options, self._memory)
        self._store: Final = store
        self._place: Final = Place(directory, store.data.fd)
        self._lock: Final = threading.Lock()
        self._left = self._gone = False
        self._reader: Final = Reader(store, self._coding)
        self._syncing: Final = Syncing(store)
        self._writer: Final = Writer(store, self._coding, self._syncing)
        self._cooling: Cooling | None = None
        if self._coding.later:
            self._cooling = Cooling(store, self._reader, self._writer, self._coding, self._memory)
            self._writer.written = self._cooling.look
        self._peak = 0
        self._nbytes()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk; returns when it is in the journal."""
        self.put_many(((client_meta, kv_chunk_bytes),))

    @calling
    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Store chunks in order, neighbours by one write."""
        self._place.look(now=False)
        self._writer.put_many((client_meta, [data]) for client_meta, data in items)

    @calling
    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Store chunks straight from another backend's memory."""
        self._place.look(now=False)
        return self._writer.put_from(client_metas, source)

    def remove(self, key: CacheEngineKey) -> None:
        """Delete a chunk; returns when that is in the journal."""
        self.remove_many((key,))

    @calling
    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Delete chunks, some hundreds by one write."""
        self._place.look(now=False)
        texts = [key_text(key, MAX_KEY_BYTES) for key in keys]
        for begin in range(0, len(texts), 16):
            position = self._store.remove(texts[begin : begin + 16])
            if self._store.firm:
                self._syncing.reach(position, None)

    @calling
    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the chunk is there, by its manifest."""
        return self._reader.contains(key_text(key, MAX_KEY_BYTES))

    @reading
    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk in a bytearray of its own."""
        found = self._reader.one(key_text(key, MAX_KEY_BYTES), fresh)
        return None if found is None else found[0].memory_obj(found[1][0].obj)

    @reading
    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read into the caller's buffer."""
        found = self._reader.one(key_text(key, MAX_KEY_BYTES), Into((buffer,), strict=True))
        return None if found is None else found[0]

    @reading
    def get_scattered(
        self, key: CacheEngineKey, buffers: Sequence[Any], *, expected: ChunkMeta | None = None
    ) -> ChunkMeta | None:
        """Read into the caller's buffers, one after another."""
        found = self._reader.one(key_text(key, MAX_KEY_BYTES), Into(buffers, strict=True, expected=expected))
        return None if found is None else found[0]

    @contextlib.contextmanager
    def in_file(self, key: CacheEngineKey) -> Iterator[ChunkInFile | None]:
        """Where the chunk lies in `data`, whose pages are not used again within the block."""
        with staying(self._store):
            yield self._reader.in_file(key_text(key, MAX_KEY_BYTES))

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Chunks in order, neighbours by one read; each in memory that is used again when it is let go."""
        found = self._reader.many([(key_text(key, MAX_KEY_BYTES), self._ring.lend) for key in keys])
        return [None if one is None else one[0].memory_obj(one[1][0].obj) for one in found]

    def get_many_into(
        self, requests: Iterable[tuple[CacheEngineKey, Sequence[Any]]], *,
        expected: Sequence[ChunkMeta | None] | None = None, spoiled: set[int] | None = None,
    ) -> list[ChunkMeta | None]:  # fmt: skip
        """Read chunks into buffers of their own, neighbours by one read."""
        wanted = [
            (key_text(key, MAX_KEY_BYTES), Into(buffers, strict=False, expected=expected[i] if expected else None))
            for i, (key, buffers) in enumerate(requests)
        ]
        found = self._reader.many(wanted)
        if spoiled is not None:
            spoiled.update(i for i, (_, into) in enumerate(wanted) if into.lent and found[i] is None)
        return [None if one is None else one[0] for one in found]

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key."""
        return list(self.iter_keys())

    def iter_keys(self) -> Iterator[CacheEngineKey]:
        """As `list_keys`, a batch at a time."""
        self._store.check()
        return iter(listing.Batches(self._store, listing.keys(self._store, self._coding.reads)))

    # -- for a tier ------------------------------------------------------------------------------------------------

    @property
    def usable_bytes(self) -> int:
        """What chunks may be charged with together: the capacity less what is needed beside them."""
        return self._budget.usable if self._cooling is None else self._cooling.usable

    def reserve_bytes(self, length: int) -> int:
        """The charge of a chunk stored raw, in single pages, under the longest key."""
        return reserve(length)

    @calling
    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """The chunk's charge."""
        record = self._store.find(key_text(key, MAX_KEY_BYTES), keep=False)
        return None if record is None else charge(record_pages(record), len(record))

    def shrunk(self) -> dict[str, int]:
        """What was encoded since the last call, and its charge. Takes no lock."""
        return self._store.take_shrunk()

    def held(self) -> tuple[int, int]:
        """Chunks held, and the sum of their charges; see `lms_tiers.tiered.life.loading.Locating`."""
        counters = self._store.counters
        return counters.chunks, counters.charged

    @calling
    def locate(self, key: CacheEngineKey) -> ChunkInfo | None:
        """What `scan` lists of `key`."""
        found = self._reader.readable(key_text(key, MAX_KEY_BYTES))
        return None if found is None else ChunkInfo(key, found.meta, charge(found.pages, found.nrecord))

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk, least recently put or used first."""
        self._store.check()
        return iter(listing.Batches(self._store, listing.chunks_by_use(self._store, self._coding.reads)))

    @calling
    def touch(self, keys: Sequence[CacheEngineKey]) -> None:
        """Note uses; they reach the medium with a checkpoint."""
        if self._store.touch([key_text(key) for key in keys]) > MOST:
            with self._store.lock:
                self._store.changed.wake()

    @calling
    def save_state(self, state: bytes) -> None:
        """Keep a tier's state; one that is too large is dropped, with a warning."""
        self._place.look(now=False)
        try:
            self._place.keep_state(state, self._budget.state_limit)
        except OSError as error:
            raise unavailable(self._path, error, "cannot keep a tier's state") from error

    @calling
    def load_state(self) -> bytes | None:
        """The state kept last; None without one, or where it is damaged."""
        try:
            return self._place.kept_state()
        except Damaged:
            self._store.counters.corrupt += 1
            return None

    @calling
    def flush(self, timeout: float | None = None) -> None:
        """Return when everything put before is, as the option `sync` promises, on the medium."""
        self._place.look()
        self._syncing.reach(self._store.journal.position, timeout)

    @calling
    def shrink(self) -> None:
        """Give the file system back what no chunk needs.

        Raises
        ------
        OSError, lmdb.Error
        """
        self._checkpoints.shrink()

    @calling
    def stats(self) -> BackendStats:
        """Counters since open; bytes used are those of all files on disk."""
        store, counters, used = self._store, self._store.counters, self._nbytes()
        return BackendStats(
            keys=counters.chunks, bytes_used=used, bytes_peak=self._peak, bytes_written=store.data.written,
            bytes_read=counters.read, failures=store.calls.failures, corrupt=counters.corrupt,
            detail={
                "stored_bytes": counters.charged, "commits": counters.records,
                "checkpoints": self._checkpoints.made, "free_bytes": store.pages.room.free.pages * PAGE,
                "unreadable": counters.unreadable,
            },
        )  # fmt: skip

    def _nbytes(self) -> int:
        store = self._store
        used = store.data.nbytes + store.index.nbytes + self._budget.spare * PAGE + self._budget.journal
        self._peak = max(self._peak, used)
        return used

    def close(self) -> None:
        """Put everything on the medium, then close. One that is interrupted is finished by the next."""
        store = self._store
        if os.getpid() != store.pid:
            return  # a forked child owns nothing here
        with self._lock:
            if self._gone:
                return
            if self._cooling is not None:
                self._cooling.stop()
            idle = store.close(60.0)
            self._checkpoints.stop()
            self._syncing.stop()
            if not self._left:
                leave(store, self._checkpoints, self._place)
                self._left = True
            if idle:
                store.data.close()
                store.journal.close()
            self._ownership.release()
            self._coding.close()
            self._memory.close()
            self._gone = True


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
