"""From a directory to a trusted open file: nothing is mapped into this process before a child has checked it."""

from __future__ import annotations

import mmap
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import lmdb

from lms_tiers.errors import ConfigError, FormatError, StorageUnavailableError
from lms_tiers.plugins.lmdb import layout
from lms_tiers.plugins.lmdb.checkpoint import restore
from lms_tiers.plugins.lmdb.layout import Counters
from lms_tiers.plugins.lmdb.sidecar import COMPACT_DIR, DATA_FILE, Left, Ownership, boot_id, fresh_lock_file, move_aside
from lms_tiers.plugins.lmdb.tables import Tables
from lms_tiers.plugins.lmdb.verify import Verdict, verify
from lms_tiers.sizes import format_size

#: After a power loss, sequence numbers of lost commits are not given out again.
SKIP: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Opened:
    """A directory ready for use; where not `consistent`, after what belongs to no chunk is cleared away."""

    tables: Tables
    seed: int
    counters: Counters
    consistent: bool


def open_directory(directory: Path, map_size: int, *, sync: bool) -> Opened:
    """Open or create the store in `directory`.

    Raises
    ------
    StorageLockedError, StorageUnavailableError
    FormatError
        Not a store of ours, or of another version; nothing was changed.
    ConfigError
        The file is larger than `map_size`, or none is there and this machine has other pages than a store.
    """
    ownership = Ownership(directory)
    try:
        left = Left.read(directory)
        torn = left is not None and not left.clean and left.boot != boot_id()
        verdict = _check(directory, map_size, left is not None, torn)
        if verdict is None and mmap.PAGESIZE != layout.PAGE:
            # LMDB would make a file of these pages, and every promise about space counts in others.
            found = format_size(mmap.PAGESIZE)
            raise ConfigError(f"this machine has pages of {found}: an lmdb store is made of pages of 4 KiB only.")
        # Of a compact that was killed: it would take space beside the capacity. What is not ours is refused by now.
        shutil.rmtree(directory / COMPACT_DIR, ignore_errors=True)
        try:
            Left(False, boot_id()).write(directory)
            fresh_lock_file(directory)
            tables = Tables(str(directory), map_size, sync=sync, closed=ownership.release)
        except (OSError, lmdb.Error) as error:
            raise StorageUnavailableError(str(directory), f"cannot be opened: {error}.") from error
        try:
            seed = _identify(tables)
            counters = tables.counters()
        except lmdb.Error as error:
            tables.close()
            raise StorageUnavailableError(str(directory), f"cannot be opened: {error}.") from error
        except BaseException:
            tables.close()
            raise
    except BaseException:
        ownership.release()
        raise
    if torn:
        counters.clock += SKIP
    return Opened(tables, seed, counters, verdict is None or verdict.consistent)


def _check(directory: Path, map_size: int, ours: bool, torn: bool) -> Verdict | None:
    """The verdict on a file that is there and may be opened; None where there is none (any more)."""
    data = directory / DATA_FILE
    try:
        size = data.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageUnavailableError(str(directory), f"{error.strerror}.") from error
    if not size:
        return None
    if ours:
        _check_size(directory, size, map_size)
    if torn:
        restore(directory)
    verdict = judged(verify(str(data)), ours)
    if verdict.kind in ("version", "foreign"):
        expected = f"format {layout.MAGIC.decode()} version {layout.VERSION} with pages of {format_size(layout.PAGE)}"
        raise FormatError(str(data), verdict.reason, expected)
    if verdict.kind != "sound":
        move_aside(directory, verdict.reason)
        return None
    _check_size(directory, size, map_size)
    return verdict


def judged(verdict: Verdict, ours: bool) -> Verdict:
    """The verdict on a file in whose directory `state.json` is ours, or not: what we wrote is sick, never foreign."""
    return replace(verdict, kind="sick") if ours and verdict.kind == "foreign" else verdict


def _check_size(directory: Path, size: int, most: int) -> None:
    if size > most:
        raise ConfigError(
            f"lmdb store {directory} has {format_size(size)} on disk, more than its capacity allows: raise the "
            f"capacity (a file never shrinks), or run `lms-tiers compact {directory} --capacity SIZE`."
        )


def _identify(tables: Tables) -> int:
    """The file's hash seed; a new file gets its first records."""
    with tables.env.begin(write=True) as txn:
        record = txn.get(layout.FORMAT_KEY, db=tables.meta)
        if record is None:
            seed = secrets.randbits(64)
            txn.put(layout.FORMAT_KEY, layout.pack_format(seed), db=tables.meta)
            counters = Counters(transaction=txn.id())
            txn.put(layout.COUNTERS_KEY, counters.pack(), db=tables.meta)
            return seed
        return layout.unpack_format(record, tables.path)
