"""The index file: an LMDB B-tree of manifests by key hash, and what has been applied to it.

Opened only when it is trusted (`recovery`), else built anew. Reads are short and one at a time, so that nobody holds
pages back and the file can be replaced by a new one under them. Knows nothing of `data`.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import xxhash

from lms_tiers.errors import from_anywhere
from lms_tiers.plugins.lmdb.datafile import hold_blocks
from lms_tiers.plugins.lmdb.directory import INDEX_FILE, create_file, descriptor, written_anew
from lms_tiers.plugins.lmdb.layout import PAGE, STAMP, sealed, unsealed
from lms_tiers.plugins.lmdb.space import Budget

CHUNKS: Final = b"chunks"  # key hash -> stamp of the last use, manifest
META: Final = b"meta"
APPLIED: Final = b"applied"
_APPLIED: Final = struct.Struct("<QQQQ")
_READERS: Final = 16
_LOCK_BYTES: Final = 16 << 10


class Applied(NamedTuple):
    """What the index says of itself: the store's seed, the journal's position up to which it holds all, the clock and
    chunks then."""

    seed: int
    position: int
    clock: int
    chunks: int

    @staticmethod
    def unpack(data: bytes) -> Applied:
        """What the index has.

        Raises
        ------
        Damaged, struct.error
        """
        return Applied(*_APPLIED.unpack(unsealed(data)))


class Index:
    """The index of a directory, which `open` or `build` opens.

    Parameters
    ----------
    directory : Path
    budget : Budget
    sync : bool
        Whether each transaction is synced.

    Attributes
    ----------
    nbytes : int
        Of pages in use or free; blocks of `Budget.spare` more are held beyond them.
    """

    def __init__(self, directory: Path, budget: Budget, *, sync: bool) -> None:
        self._path: Final = directory / INDEX_FILE
        self._budget: Final = budget
        self._sync: Final = sync
        self._lock: Final = threading.Lock()
        self._env: Any = None
        self.nbytes = self._path.stat().st_size if self._path.exists() else 0

    @property
    def opened(self) -> bool:
        """Whether it can be asked."""
        return self._env is not None

    def open(self) -> None:
        """Open the file, made where missing.

        Raises
        ------
        OSError, lmdb.Error
        """
        env = self._opened(self._path, self._sync)
        try:
            self._chunks, self._meta = env.open_db(CHUNKS), env.open_db(META)
            self._env = env
            self._hold(self._budget.spare * PAGE)
        except BaseException:
            self._env = None
            env.close()
            raise

    def _opened(self, path: Path, sync: bool, lock: bool = True) -> Any:
        os.close(create_file(path))
        if lock:
            _fresh_lock_file(lock_of(path))
        # Never writemap: a full disk would kill the process.
        return lmdb.open(
            os.fsencode(path), map_size=self._budget.map_size, subdir=False, max_dbs=2, max_readers=_READERS,
            sync=sync, metasync=sync, writemap=False, meminit=False, mode=0o600, lock=lock,
        )  # fmt: skip

    def _hold(self, spare: int) -> None:
        self.nbytes = int(self._env.info()["last_pgno"] + 1) * PAGE
        if spare > 0:
            with descriptor(self._path, os.O_RDWR) as fd:
                hold_blocks(fd, spare)

    def build(self, records: Mapping[bytes, bytes], stamps: Mapping[bytes, int], applied: Applied) -> None:
        """Write a fresh file, on the medium, in place of whatever is there, and open it.

        Raises
        ------
        OSError, lmdb.Error
            The old file is as it was.
        """
        with (
            written_anew(self._path, self._replace) as fresh,
            closing(self._opened(fresh, sync=False, lock=False)) as env,
        ):
            chunks, meta = env.open_db(CHUNKS), env.open_db(META)
            some = iter(sorted(records))
            while batch := [(name, STAMP.pack(stamps.get(name, 0)) + records[name]) for name in islice(some, 8192)]:
                with env.begin(write=True) as txn, txn.cursor(chunks) as cursor:
                    cursor.putmulti(batch, append=True)
            with env.begin(write=True) as txn:
                txn.put(APPLIED, sealed(_APPLIED.pack(*applied)), db=meta)

    def renew(self) -> None:
        """Write the file anew, without what is free in it, and go on with that one."""
        with written_anew(self._path, self._replace) as new, open(create_file(new), "wb") as file:
            self._env.copyfd(file.fileno(), compact=True)

    def _replace(self, new: Path, path: Path) -> None:
        with self._lock:
            try:
                os.replace(new, path)
                self._reopen()
            except BaseException as error:
                if from_anywhere(error):
                    self._reopen()  # which of the two files lies there is not known, and either will do
                raise

    def _reopen(self) -> None:
        if self._env is not None:
            self._env.close()
        self.open()

    def find(self, names: Iterable[bytes]) -> dict[bytes, tuple[int, bytes]]:
        """Stamps and manifests by key hash, of those that are there."""
        with self._lock, self._env.begin() as txn:
            found = [(name, txn.get(name, db=self._chunks)) for name in names]
        return {name: _split(value) for name, value in found if value is not None}

    def find_one(self, name: bytes) -> tuple[int, bytes] | None:
        """Stamp and manifest of one."""
        with self._lock, self._env.begin(self._chunks) as txn:
            value = txn.get(name)
        return None if value is None else _split(value)

    def items(self, step: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """Key hash, and stamp and manifest in one, of every chunk, in the order of the hashes, so many at a time."""
        after: bytes | None = None
        while True:
            with self._lock, self._env.begin() as txn:
                cursor = txn.cursor(self._chunks)
                if not (cursor.first() if after is None else cursor.set_range(after)):
                    return
                if after is not None and cursor.key() == after and not cursor.next():
                    return
                found = list(islice(cursor.iternext(), step))
            yield found
            if len(found) < step:
                return
            after = found[-1][0]

    def apply(
        self, records: Mapping[bytes, bytes | None], stamps: Mapping[bytes, int], applied: Applied, limit: int
    ) -> None:
        """Write what changed, in transactions of bounded size, the last of which says that all of it is there.

        Parameters
        ----------
        records : mapping
            Manifests by key hash; None removes.
        stamps : mapping
            Of the last use, also of chunks that did not change.
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
        for begin in range(0, len(names), self._budget.together):
            with self._lock:
                pass  # a reader that has lost the interpreter keeps pages back: the file would grow and grow
            with self._env.begin(write=True) as txn:
                for name in names[begin : begin + self._budget.together]:
                    self._write(txn, name, records, stamps)
        with self._env.begin(write=True) as txn:
            txn.put(APPLIED, sealed(_APPLIED.pack(*applied)), db=self._meta)
        self._hold(min(self._budget.spare * PAGE, limit - self.nbytes))

    def _write(self, txn: Any, name: bytes, records: Mapping[bytes, bytes | None], stamps: Mapping[bytes, int]) -> None:
        if name in records:
            record = records[name]
            if record is None:
                txn.delete(name, db=self._chunks)
                return
        else:
            value = txn.get(name, db=self._chunks)
            if value is None:
                return
            record = value[STAMP.size :]
        txn.put(name, STAMP.pack(stamps.get(name, 0)) + record, db=self._chunks)

    def close(self) -> None:
        """Put everything on the medium and close; finishes what a `close` that was interrupted began."""
        if self._env is not None:
            try:
                self._env.sync(True)
            finally:
                self.abandon()
        with descriptor(self._path, os.O_RDWR) as fd:
            os.ftruncate(fd, os.fstat(fd).st_size)  # what is held beyond the end
        with suppress(FileNotFoundError):
            lock_of(self._path).unlink()

    def abandon(self) -> None:
        """Close as it is."""
        with self._lock:
            if self._env is not None:
                self._env.close()
                self._env = None


def checksum(directory: Path) -> int:
    """xxh3-64 of the whole file."""
    digest = xxhash.xxh3_64()
    with (directory / INDEX_FILE).open("rb", buffering=0) as file:
        while block := file.read(4 << 20):
            digest.update(block)
    return digest.intdigest()


def _split(value: bytes) -> tuple[int, bytes]:
    return STAMP.unpack_from(value)[0], value[STAMP.size :]


def lock_of(path: Path) -> Path:
    """LMDB's reader table of an index file."""
    return path.with_name(path.name + "-lock")


def remove(path: Path) -> None:
    """Delete an index file, where there is one."""
    path.unlink(missing_ok=True)
    lock_of(path).unlink(missing_ok=True)


def _fresh_lock_file(path: Path) -> None:
    """An empty reader table that has all its blocks.

    LMDB makes it sparse and writes to it through a mapping: on a full disk the first reader in a hole would be a
    SIGBUS. Whoever the old one remembers is dead: only the owner of the directory calls this.
    """
    os.close(create_file(path))
    with descriptor(path, os.O_RDWR) as fd:
        if os.fstat(fd).st_size != _LOCK_BYTES:
            os.ftruncate(fd, 0)
        os.pwrite(fd, bytes(_LOCK_BYTES), 0)
