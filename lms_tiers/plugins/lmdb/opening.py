"""From a directory to a trusted open file: ownership, format, and what to do where something is wrong."""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb

from lms_tiers.errors import FormatError, StorageLockedError, StorageUnavailableError
from lms_tiers.plugins.lmdb import layout
from lms_tiers.plugins.lmdb.layout import Counters
from lms_tiers.plugins.lmdb.tables import Tables

OWNER_FILE: Final = "owner"
DATA_FILE: Final = "data.mdb"


class Ownership:
    """The lock that makes one process the owner of a directory, and tells others who it is."""

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(directory / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageUnavailableError(str(directory), f"{error.strerror}: give a writable directory.") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StorageLockedError(
                str(directory), "this process" if holder == str(os.getpid()) else f"process {holder}"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        self._pid = os.getpid()

    def release(self) -> None:
        """Give the directory back. Idempotent; nothing happens in a forked child."""
        fd, self._fd = self._fd, -1
        if fd < 0 or os.getpid() != self._pid:
            return
        # An explicit unlock reaches the copies of the descriptor that forked children hold.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Opened:
    """A directory ready for use."""

    ownership: Ownership
    tables: Tables
    seed: int
    counters: Counters


def open_directory(directory: Path, map_size: int, *, sync: bool) -> Opened:
    """Open or create the store in `directory`.

    Raises
    ------
    StorageLockedError, StorageUnavailableError, FormatError
    """
    ownership = Ownership(directory)
    try:
        try:
            tables = Tables(str(directory), map_size, sync=sync)
        except lmdb.InvalidError:
            raise FormatError(str(directory / DATA_FILE), "something else", "an LMDB file of lms_tiers") from None
        except lmdb.Error as error:
            raise StorageUnavailableError(str(directory), f"{error}.") from error
        try:
            tables.env.reader_check()
            seed, counters = _identify(tables, str(directory / DATA_FILE))
        except BaseException:
            tables.close()
            raise
    except BaseException:
        ownership.release()
        raise
    return Opened(ownership, tables, seed, counters)


def _identify(tables: Tables, where: str) -> tuple[int, Counters]:
    with tables.env.begin(write=True) as txn:
        record = txn.get(layout.FORMAT_KEY, db=tables.meta)
        if record is None:
            seed = secrets.randbits(64)
            txn.put(layout.FORMAT_KEY, layout.pack_format(seed), db=tables.meta)
            counters = Counters()
            txn.put(layout.COUNTERS_KEY, counters.pack(), db=tables.meta)
            return seed, counters
        seed = layout.unpack_format(record, where)
        return seed, Counters.unpack(txn.get(layout.COUNTERS_KEY, db=tables.meta) or b"")
