"""From a directory to a store ready for use, and back. An index is opened only if it is known to be as it was written.

After a clean close its checksum says so. Otherwise what `recovery` finds is held in memory, and the first checkpoint
builds an index of it: so does that of a new store, of nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import ExitStack, suppress
from pathlib import Path

import lmdb

from lms_tiers.arena.recycle import Recycler
from lms_tiers.errors import ConfigError, FormatError, LmsTiersError, StorageUnavailableError
from lms_tiers.plugins.lmdb import layout
from lms_tiers.plugins.lmdb.checkpoint import Checkpoints
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.directory import (
    DATA_FILE,
    INDEX_FILE,
    JOURNAL_FILE,
    NEW_INDEX,
    OLD_DATA,
    TIER_FILE,
    Ownership,
    Place,
    descriptor,
    sync_file,
    unavailable,
)
from lms_tiers.plugins.lmdb.extents import Room
from lms_tiers.plugins.lmdb.index import Index, lock_of, remove
from lms_tiers.plugins.lmdb.journal import OVERHEAD, Journal, after
from lms_tiers.plugins.lmdb.layout import EXPECTED, PAGE
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.plugins.lmdb.recovery import Contents, as_closed, closed, recover
from lms_tiers.plugins.lmdb.space import Budget
from lms_tiers.plugins.lmdb.store import Store
from lms_tiers.sizes import format_size

_log = logging.getLogger(__name__)


def identify(directory: Path) -> tuple[int | None, int]:
    """The seed of the store in a directory, None where there is none; and its capacity, 0 where that is not known.

    Raises
    ------
    FormatError
        Of another version, or not ours.
    """
    if (directory / OLD_DATA).exists():
        raise FormatError(str(directory / OLD_DATA), "a store of version 1 or 2, or another's file", EXPECTED)
    heads: list[tuple[int, int] | None] = []
    for name in (DATA_FILE, JOURNAL_FILE):
        head = b""
        with suppress(FileNotFoundError), descriptor(directory / name) as fd:
            head = os.pread(fd, PAGE + 1, 0)
        if not heads and len(head) <= PAGE and not any(head):
            return None, 0  # there is none, or it was lost before its head was on the medium
        heads.append(layout.unpack_head(head, str(directory / name)))
    data, journal = heads
    if data is None and journal is None:
        raise FormatError(str(directory / DATA_FILE), "another's file", EXPECTED)
    return data or (journal[0], 0)  # type: ignore[index]  # one of them is there


def open_directory(
    directory: Path, budget: Budget, options: LmdbOptions, memory: Recycler
) -> tuple[Store, Checkpoints, Ownership]:
    """Open or create the store in `directory`.

    Raises
    ------
    StorageLockedError, StorageUnavailableError
    FormatError
        Not a store of ours, or of another version; nothing was changed.
    ConfigError
        It holds more than its capacity allows.
    """
    ownership = Ownership(directory)
    new = False
    try:
        seed, _ = identify(directory)
        new = seed is None
        return *_open(directory, budget, options, seed, memory), ownership
    except BaseException as error:
        if new:
            index = directory / INDEX_FILE
            for path in (directory / DATA_FILE, directory / JOURNAL_FILE, index, lock_of(index)):
                with suppress(OSError):
                    path.unlink()
            ownership.undo()
        ownership.release()
        if isinstance(error, lmdb.MemoryError):
            raise ConfigError(
                f"this process has no room in its address space for an index of {format_size(budget.map_size)}: "
                "raise `ulimit -v`, or lower the capacity."
            ) from error
        if isinstance(error, (OSError, lmdb.Error)) and not isinstance(error, LmsTiersError):
            raise unavailable(directory, error, "cannot be opened") from error
        raise


def _open(
    directory: Path, budget: Budget, options: LmdbOptions, seed: int | None, memory: Recycler
) -> tuple[Store, Checkpoints]:
    new = seed is None
    contents = Contents("new") if seed is None else as_closed(directory, seed) or recover(directory, seed)
    if contents.counters.charged > budget.usable:
        raise ConfigError(
            f"lmdb store {directory} holds {format_size(contents.counters.charged)}, more than its capacity allows: "
            f"raise the capacity, or run `lms-tiers compact {directory} --capacity SIZE`."
        )
    (directory / NEW_INDEX).unlink(missing_ok=True)
    if seed is None:
        seed = secrets.randbits(64)
        remove(directory / INDEX_FILE)  # without `data` there is nothing that it could tell of
        (directory / TIER_FILE).unlink(missing_ok=True)
    with ExitStack() as undo:
        data = DataFile(directory / DATA_FILE, aligned=memory if options.direct else None)
        undo.callback(data.close)
        os.pwrite(data.fd, layout.pack_head(seed, budget.capacity).ljust(PAGE, b"\0"), 0)
        if new:
            data.sync()
        index = Index(directory, budget, sync=options.sync != "none")
        journal = Journal(directory, budget.journal, seed)
        undo.callback(journal.close)
        store = Store(
            directory, budget, seed, data, index, journal, _room(data, contents), contents.counters, contents.clock,
            options.sync,
        )  # fmt: skip
        checkpoints = Checkpoints(store, after(contents.position, budget.journal))
        undo.callback(index.abandon)
        if contents.source == "closed":
            index.open()
            journal.begin(after(contents.position, budget.journal))
        else:
            store.recovered(contents.records, contents.uses)
            store.pages.unwritten(contents.free)
        checkpoints.start()
        undo.callback(checkpoints.stop)
        if store.syncs:
            data.sync()
            journal.sync()
            sync_file(directory)
        with store.lock:
            store.pages.make_room_for(0)
        undo.pop_all()
    return store, checkpoints


def _room(data: DataFile, contents: Contents) -> Room:
    """The pages of `data`; what nobody has after a crash is added when it is cleared."""
    free, hollow, end = contents.free, contents.hollow, max(data.pages, contents.end)
    if contents.source != "closed":
        return Room((), (), end)
    if data.nbytes > (end - sum(count for _, count in hollow)) * PAGE:
        free, hollow = [*free, *hollow], []  # a copy that was made without its holes
    return Room(free, hollow, end)


def leave(store: Store, checkpoints: Checkpoints, place: Place) -> None:
    """Put everything on the medium, leave word of that, and close the index. No call runs any more."""
    try:
        place.look()
        checkpoints.finish()
        _close_clean(store)
    except (OSError, lmdb.Error, StorageUnavailableError) as error:
        _log.warning("lmdb store %s: closed, but not on the medium: %s", store.where, error)
        with suppress(lmdb.Error):
            store.index.abandon()


def _close_clean(store: Store) -> None:
    pages = store.pages
    store.index.close()
    record = closed(store.where, store.clock, store.counters, list(pages.room.free), list(pages.room.hollow))
    if pages.settled and not store.journal.used and len(record.body) + OVERHEAD <= store.journal.room:
        store.journal.append([record])
    store.journal.sync()
