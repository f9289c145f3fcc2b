"""The index file: an LMDB B-tree of manifests by key hash, and what has been applied to it.

Opened only when it is trusted (`recovery`). Reads are short and one at a time, so that nobody holds pages back and the
file can be replaced by a new one under them. Knows nothing of `data`.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import xxhash

from lms_tiers.plugins.lmdb.datafile import hold_blocks
from lms_tiers.plugins.lmdb.layout import HASH_BYTES, PAGE, STAMP, key_hash
from lms_tiers.plugins.lmdb.sidecar import INDEX_FILE, NEW_INDEX, create_file, descriptor, sync_file

CHUNKS: Final = b"chunks"  # key hash -> stamp of the last use, manifest
META: Final = b"meta"
APPLIED: Final = b"applied"
_APPLIED: Final = struct.Struct("<QQQQ")  # seed, generation, clock, chunks
_SUM: Final = struct.Struct("<Q")
_READERS: Final = 16
_LOCK_BYTES: Final = 16 << 10
_BATCH: Final = 512


class Applied(NamedTuple):
    """What the index says of itself: the store's seed, the journal it holds all of, the clock and chunks then."""

    seed: int
    generation: int
    clock: int
    chunks: int

    def pack(self) -> bytes:
        """As stored."""
        body = _APPLIED.pack(*self)
        return body + _SUM.pack(xxhash.xxh3_64_intdigest(body))

    @staticmethod
    def unpack(data: bytes) -> Applied | None:
        """What was packed; None where it is damaged."""
        if (
            len(data) != _APPLIED.size + 8
            or xxhash.xxh3_64_intdigest(data[:-8]) != _SUM.unpack_from(data, len(data) - 8)[0]
        ):
            return None
        return Applied(*_APPLIED.unpack_from(data))


class Index:
    """An open index.

    Parameters
    ----------
    directory : Path
    map_size : int
        The most bytes it may have.
    sync : bool
        Whether each transaction is synced.
    spare : int
        Bytes whose blocks the file always has beyond its end, so that it can be written to on a full disk.
    together : int
        Records written in one transaction.
    name : str
        Of the file.

    Raises
    ------
    OSError, lmdb.Error
    """

    def __init__(
        self, directory: Path, map_size: int, *, sync: bool, spare: int, together: int, name: str = INDEX_FILE
    ) -> None:
        self._directory: Final = directory
        self._path: Final = directory / name
        self._map_size: Final = map_size
        self._sync: Final = sync
        self._spare: Final = spare
        self._together: Final = together
        self._lock: Final = threading.Lock()
        #: Bytes of pages in use or free; `spare` more are held beyond them.
        self.nbytes = 0
        self._open()

    def _open(self) -> None:
        os.close(create_file(self._path))
        _fresh_lock_file(lock_of(self._path))
        # Never writemap: a full disk would kill the process.
        self._env = lmdb.open(
            os.fsencode(self._path), map_size=self._map_size, subdir=False, max_dbs=2, max_readers=_READERS,
            sync=self._sync, metasync=self._sync, writemap=False, meminit=False, mode=0o600,
        )  # fmt: skip
        try:
            self._chunks, self._meta = self._env.open_db(CHUNKS), self._env.open_db(META)
            self._hold()
        except BaseException:
            self._env.close()
            raise

    def _hold(self, limit: int | None = None) -> None:
        self.nbytes = int(self._env.info()["last_pgno"] + 1) * PAGE
        spare = self._spare if limit is None else min(self._spare, limit - self.nbytes)
        with descriptor(self._path, os.O_RDWR) as fd:
            if spare > 0:
                hold_blocks(fd, spare)

    def find(self, hashed: bytes) -> tuple[int, bytes] | None:
        """Stamp and manifest of a key's chunk."""
        with self._lock, self._env.begin() as txn:
            value = txn.get(hashed, db=self._chunks)
        return None if value is None else _split(value)

    def find_many(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Manifests by key hash, of those that are there."""
        with self._lock, self._env.begin() as txn:
            found = {name: txn.get(name, db=self._chunks) for name in names}
        return {name: _split(value)[1] for name, value in found.items() if value is not None}

    def items(self, step: int = _BATCH) -> Iterator[list[tuple[bytes, int, bytes]]]:
        """Key hash, stamp and manifest of every chunk, in the order of the hashes, so many at a time."""
        after: bytes | None = None
        while True:
            with self._lock, self._env.begin() as txn:
                cursor = txn.cursor(self._chunks)
                if not (cursor.first() if after is None else cursor.set_range(after)):
                    return
                if after is not None and cursor.key() == after and not cursor.next():
                    return
                found = list(islice(cursor.iternext(), step))
            yield [(hashed, *_split(value)) for hashed, value in found]
            if len(found) < step:
                return
            after = found[-1][0]

    def apply(
        self, records: Mapping[bytes, bytes | None], stamps: Mapping[bytes, int], applied: Applied, limit: int
    ) -> None:
        """Write what changed, in transactions of bounded size, the last of which says that all of it is there.

        Parameters
        ----------
        records : mapping of key hash to manifest or None
        stamps : mapping of key hash to int
            Later uses, also of chunks that did not change.
        applied : Applied
        limit : int
            Bytes that the file may have, at every moment.

        Raises
        ------
        lmdb.MapFullError
            They are not enough. Some of it may be written: to be done again.
        lmdb.Error, OSError
            As well.
        """
        with self._lock:
            self._env.set_mapsize(max(limit, self.nbytes) // PAGE * PAGE)
        names = sorted(records.keys() | stamps.keys())
        for begin in range(0, len(names), self._together):
            with self._lock:
                pass  # a reader that has lost the interpreter keeps pages back: the file would grow and grow
            with self._env.begin(write=True) as txn:
                for hashed in names[begin : begin + self._together]:
                    self._write(txn, hashed, records, stamps)
        with self._env.begin(write=True) as txn:
            txn.put(APPLIED, applied.pack(), db=self._meta)
        self._hold(limit)

    def _write(
        self, txn: Any, hashed: bytes, records: Mapping[bytes, bytes | None], stamps: Mapping[bytes, int]
    ) -> None:
        stamp = stamps.get(hashed, 0)
        if hashed in records:
            record = records[hashed]
            if record is None:
                txn.delete(hashed, db=self._chunks)
                return
        else:
            value = txn.get(hashed, db=self._chunks)
            if value is None:
                return
            record = value[STAMP.size :]
        txn.put(hashed, STAMP.pack(stamp) + record, db=self._chunks)

    def fill(self, records: Iterable[tuple[bytes, int, bytes]], applied: Applied) -> None:
        """Write key hashes, stamps and manifests, in the order of the hashes, into an index that has none."""
        some = iter(records)
        while batch := [(hashed, STAMP.pack(stamp) + record) for hashed, stamp, record in islice(some, 8192)]:
            with self._env.begin(write=True) as txn, txn.cursor(self._chunks) as cursor:
                cursor.putmulti(batch, append=True)
        with self._env.begin(write=True) as txn:
            txn.put(APPLIED, applied.pack(), db=self._meta)
        self._env.sync(True)

    def renew(self) -> None:
        """Write the file anew, without what is free in it, and go on with that one."""
        new = self._directory / NEW_INDEX
        try:
            fd = create_file(new)
            try:
                os.ftruncate(fd, 0)
                self._env.copyfd(fd, compact=True)
                os.fsync(fd)
            finally:
                os.close(fd)
            with self._lock:
                os.replace(new, self._path)
                self._env.close()
                self._open()
            sync_file(self._directory)
        finally:
            new.unlink(missing_ok=True)

    def close(self) -> None:
        """Put everything on the medium and close."""
        try:
            self._env.sync(True)
        finally:
            with self._lock:
                self._env.close()
            with descriptor(self._path, os.O_RDWR) as fd:
                os.ftruncate(fd, os.fstat(fd).st_size)  # what is held beyond the end

    def abandon(self) -> None:
        """Close as it is."""
        with self._lock:
            self._env.close()


def hashed(text: str, seed: int) -> bytes:
    """The index's name for a key."""
    return key_hash(text.encode(), seed)


def checksum(path: Path) -> str:
    """xxh3-64 of a whole file."""
    digest = xxhash.xxh3_64()
    with path.open("rb", buffering=0) as file:
        while block := file.read(4 << 20):
            digest.update(block)
    return digest.hexdigest()


def sound_name(name: bytes) -> bool:
    """Whether these bytes can be the name of a record."""
    return len(name) == HASH_BYTES


def _split(value: bytes) -> tuple[int, bytes]:
    return STAMP.unpack_from(value)[0], value[STAMP.size :]


def lock_of(path: Path) -> Path:
    """LMDB's reader table of an index file."""
    return path.with_name(path.name + "-lock")


def _fresh_lock_file(path: Path) -> None:
    """An empty reader table that has all its blocks.

    LMDB makes it sparse and writes to it through a mapping: on a full disk the first reader in a hole would be a
    SIGBUS. Whoever the old one remembers is dead: only the owner of the directory calls this.
    """
    fd = create_file(path)
    try:
        if os.fstat(fd).st_size != _LOCK_BYTES:
            os.ftruncate(fd, 0)
        os.pwrite(fd, bytes(_LOCK_BYTES), 0)
    finally:
        os.close(fd)
