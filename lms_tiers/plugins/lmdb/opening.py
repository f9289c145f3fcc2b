"""From a directory to a store ready for use. An index is opened only if it is known to be as it was written.

After a clean close its checksum says so. Otherwise what `recovery` finds is written into a fresh one.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import lmdb

from lms_tiers.errors import ConfigError, FormatError, LmsTiersError
from lms_tiers.plugins.lmdb import index, layout
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.extents import Room
from lms_tiers.plugins.lmdb.index import Applied, Index
from lms_tiers.plugins.lmdb.journal import Journal, kept_runs, last_generation
from lms_tiers.plugins.lmdb.layout import EXPECTED, PAGE, Extent
from lms_tiers.plugins.lmdb.options import LmdbOptions
from lms_tiers.plugins.lmdb.pages import Counters
from lms_tiers.plugins.lmdb.recovery import Contents, recover
from lms_tiers.plugins.lmdb.sidecar import (
    DATA_FILE,
    INDEX_FILE,
    JOURNALS,
    NEW_INDEX,
    OLD_DATA,
    STATE_FILE,
    TIER_FILE,
    Left,
    Ownership,
    boot_id,
    descriptor,
    sync_file,
    unavailable,
)
from lms_tiers.plugins.lmdb.space import Budget
from lms_tiers.plugins.lmdb.store import Store
from lms_tiers.sizes import format_size

_log = logging.getLogger(__name__)

_OURS: Final = (DATA_FILE, INDEX_FILE, f"{INDEX_FILE}-lock", *JOURNALS, STATE_FILE)


def identify(directory: Path) -> tuple[int | None, Left | None]:
    """The seed of the store in a directory, None where there is none; and how it was left.

    Raises
    ------
    FormatError
        Of another version, or not ours.
    """
    left = Left.read(directory)
    if (directory / OLD_DATA).exists():
        raise FormatError(str(directory / OLD_DATA), "a store of version 1 or 2, or another's file", EXPECTED)
    data = directory / DATA_FILE
    try:
        with descriptor(data) as fd:
            head = os.pread(fd, PAGE, 0)
    except FileNotFoundError:
        return None, None
    if not head:
        return None, None
    seed = layout.unpack_head(head, str(data))
    if seed is None and left is None:
        raise FormatError(str(data), "another's file", EXPECTED)
    if seed is not None and left is not None and left.seed != seed:
        left = None
    return (seed if left is None else left.seed), left


def trusted(directory: Path, left: Left | None) -> bool:
    """Whether the index is, byte for byte, what a clean close left."""
    try:
        return left is not None and left.clean and index.checksum(directory / INDEX_FILE) == left.index
    except OSError:
        return False


def open_directory(directory: Path, budget: Budget, options: LmdbOptions) -> tuple[Store, Ownership]:
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
        seed, left = identify(directory)
        new = seed is None
        store = _open(directory, budget, options, seed, left)
    except BaseException as error:
        if new:
            for name in _OURS:
                with suppress(OSError):
                    (directory / name).unlink()
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
    return store, ownership


def _open(directory: Path, budget: Budget, options: LmdbOptions, seed: int | None, left: Left | None) -> Store:
    contents: Contents | None = None
    free: list[Extent] = []
    hollow: list[Extent] = []
    new = seed is None
    if seed is None:
        _clear(directory)
        seed = secrets.randbits(64)
        known = Left(True, "", seed, budget.capacity)
    else:
        runs = kept_runs(directory, seed) if trusted(directory, left) else None
        if left is None or runs is None:
            contents = recover(directory, seed)
            known = Left(
                False, "", seed, budget.capacity, "", contents.clock, contents.chunks, contents.charged, contents.share
            )
            free = contents.free
        else:
            known = left
            free, hollow = runs
    if known.charged > budget.usable:
        raise ConfigError(
            f"lmdb store {directory} holds {format_size(known.charged)}, more than its capacity allows: raise the "
            f"capacity, or run `lms-tiers compact {directory} --capacity SIZE`."
        )
    _remove(directory / NEW_INDEX)
    generation = last_generation(directory, seed) + 2  # not one that could follow on what is there
    Left(False, boot_id(), seed, budget.capacity).write(directory)
    with ExitStack() as undo:
        data = DataFile(directory / DATA_FILE, direct=options.direct)
        undo.callback(data.close)
        os.pwrite(data.fd, layout.pack_head(seed), 0)
        pages = -(-os.fstat(data.fd).st_size // PAGE)
        room = Room(free, hollow, max(pages, 1))
        if data.nbytes > room.backed * PAGE:
            room = Room([*free, *hollow], [], room.end)  # a copy that was made without its holes
        if contents is not None:
            _renew(directory, budget, data, room, contents, seed)
            generation = max(generation, contents.generation + 2)
        opened = _index(directory, budget, options.sync != "none", INDEX_FILE)
        undo.callback(opened.abandon)
        if new:
            opened.apply({}, {}, Applied(seed, generation - 1, known.clock, 0), opened.nbytes + budget.spare * PAGE)
        journal = Journal(directory, budget.journal, seed, generation)
        undo.callback(journal.close)
        if options.sync != "none":
            data.sync()
            journal.sync()
            sync_file(directory)
        counters = Counters(known.chunks, known.charged, known.share)
        store = Store(
            directory, budget, seed, data, opened, journal, room, counters, known.clock,
            firm=options.sync == "commit", syncs=options.sync != "none", complete=not known.chunks,
        )  # fmt: skip
        with store.changed:
            if store.pages.growth() < 0:
                store.pages.punch(-store.pages.growth())
        undo.pop_all()
    return store


def _index(directory: Path, budget: Budget, sync: bool, name: str) -> Index:
    return Index(directory, budget.map_size, sync=sync, spare=budget.spare * PAGE, together=budget.together, name=name)


def _renew(directory: Path, budget: Budget, data: DataFile, room: Room, contents: Contents, seed: int) -> None:
    """Write a fresh index of what was found; the old one is in force until it is whole."""
    old = directory / INDEX_FILE
    before = old.stat().st_size if old.exists() else 0
    over = data.nbytes + before + contents.share + 2 * budget.spare * PAGE > budget.files
    for page, count in contents.free:
        for given_up in contents.given_up if not over else ():
            if page <= given_up < page + count:
                data.wipe(given_up)
    if over:
        while (run := room.free.take_longest(1 << 24)) is not None:
            if not data.punch(*run):
                room.free.add(*run)
                break
            room.hollow.add(*run)
    if contents.source == "data" and not contents.records and before:
        _move_aside(old)
    fresh = directory / NEW_INDEX
    _remove(fresh)
    try:
        made = _index(directory, budget, False, NEW_INDEX)
        try:
            records = ((name, stamp, record) for name, (stamp, record) in sorted(contents.records.items()))
            made.fill(records, Applied(seed, contents.generation, contents.clock, contents.chunks))
        finally:
            made.close()
        sync_file(fresh)
        os.replace(fresh, old)
        sync_file(directory)
    finally:
        _remove(fresh)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    index.lock_of(path).unlink(missing_ok=True)


def _clear(directory: Path) -> None:
    """A directory without `data` has nothing that could be used."""
    for name in (INDEX_FILE, *JOURNALS, TIER_FILE, NEW_INDEX):
        (directory / name).unlink(missing_ok=True)


def _move_aside(path: Path) -> None:
    """Rename a sick index, never delete it, and say so in the log."""
    stamp, number = time.strftime("%Y%m%dT%H%M%S"), 0
    while (aside := path.with_name(f"{path.name}.sick-{stamp}{f'-{number}' if number else ''}")).exists():
        number += 1
    os.rename(path, aside)
    _log.error(
        "lmdb store %s is damaged and nothing could be saved: its index was moved to %s and the store starts empty. "
        "Delete it to get its space back.", path.parent, aside,
    )  # fmt: skip


def close_clean(store: Store) -> None:
    """Leave word that everything is on the medium. Index and journal are written and synced, and closed by this.

    Raises
    ------
    OSError, lmdb.Error
        They are closed all the same, and the store counts as not closed.
    """
    directory, counters = store.where, store.counters
    try:
        kept = store.journal.keep_runs(list(store.pages.room.free), list(store.pages.room.hollow))
        store.journal.sync()
    finally:
        store.index.close()
    with suppress(FileNotFoundError):
        index.lock_of(directory / INDEX_FILE).unlink()
    if kept:
        told = Left(
            True, boot_id(), store.seed, store.budget.capacity, index.checksum(directory / INDEX_FILE), store.clock,
            counters.chunks, counters.charged, counters.share,
        )  # fmt: skip
        told.write(directory)
