"""Checkpoints for ``sync=batch``: a state of the file that a power loss cannot touch, made without stopping the writer.

Commits are not synced one by one. A checkpoint is a commit whose pages are on the medium and whose meta page is kept
in a file of its own; a read transaction at that commit keeps LMDB from using its pages again. After a power loss the
kept meta page is written back, and the file is as it was at the checkpoint. Two commits later LMDB itself would have
overwritten that meta page, and another one later its pages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb
import xxhash

from lms_tiers.plugins.lmdb.pages import META_SIZE, NotLmdb, read_meta
from lms_tiers.plugins.lmdb.sidecar import CHECKPOINT_FILE, DATA_FILE, replace_file
from lms_tiers.plugins.lmdb.tables import Tables

_log = logging.getLogger(__name__)

_MAGIC: Final = b"lms_tiers/ckpt2\n"
_NUMBER: Final = struct.Struct("<Q")
_SUM: Final = struct.Struct("<Q")
#: The file has two slots, written in turn over blocks it already has: a full disk cannot stop a checkpoint.
_SLOT: Final = 8192
_HEADER: Final = 16  # of a page; its first eight bytes are the page's number
_TRANSACTION: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class _Mark:
    """A commit that is to become, or is, the checkpoint."""

    transaction: int
    meta: bytes
    pin: Any


class Checkpoints:
    """Makes checkpoints of one open file, in a thread of its own.

    Parameters
    ----------
    tables : Tables
    directory : Path
    """

    def __init__(self, tables: Tables, directory: Path) -> None:
        self._tables = tables
        self._directory = directory
        self._wake = threading.Condition()
        self._wanted: _Mark | None = None
        self._kept: _Mark | None = None
        self._working = False
        self._stopping = False
        self._failed = False
        self.failures = 0
        self.seconds = 0.0
        self.made = 0
        path = directory / CHECKPOINT_FILE
        if not path.exists() or path.stat().st_size != 2 * _SLOT:
            replace_file(path, bytes(2 * _SLOT))
        self._number = _newest(path.read_bytes())[0]
        with contextlib.ExitStack() as undo:
            self._data = os.open(directory / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self._data)
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            undo.pop_all()
        self._thread = threading.Thread(target=self._run, name="lms-tiers-lmdb-checkpoint", daemon=True)
        self._thread.start()

    def mark(self) -> int:
        """Let the last commit become the checkpoint, soon. Called between commits, by the writer thread or before it.

        Returns
        -------
        int
            The commit, for `wait`.
        """
        try:
            mark = self._pin()
        except (OSError, lmdb.Error) as error:
            # Of no reader slot that is free, for one. The commit stands, and its puts must not hear that they failed:
            # whoever waits for the checkpoint does, and the writer asks for another one.
            _log.warning("lmdb store %s: a checkpoint failed: %s", self._directory, error)
            with self._wake:
                self.failures += 1
                self._failed = True
                self._wake.notify_all()
            return int(self._tables.env.info()["last_txnid"])
        with self._wake:
            unused, self._wanted = self._wanted, mark
            self._failed = False
            self._wake.notify_all()
        if unused is not None:
            unused.pin.abort()
        return mark.transaction

    def _pin(self) -> _Mark:
        """The last commit, held by a read transaction."""
        pin = self._tables.env.begin()
        try:
            transaction = int(pin.id())
            page = self._tables.env.stat()["psize"]
            return _Mark(transaction, os.pread(self._data, page, (transaction & 1) * page), pin)
        except BaseException:
            pin.abort()
            raise

    def wait(self, transaction: int, timeout: float | None = None) -> bool:
        """Whether a checkpoint of that commit, or of a later one, was made within `timeout` seconds.

        Raises
        ------
        OSError
            The medium failed.
        """

        def made() -> bool:
            return self._kept is not None and self._kept.transaction >= transaction

        with self._wake:
            # One that failed may be a later one than the one that is being made.
            self._wake.wait_for(lambda: made() or self._stopping or (self._failed and not self.busy), timeout)
            done, failed = made(), self._failed
        if failed and not done:
            raise OSError("a checkpoint failed")
        return done

    @property
    def failed(self) -> bool:
        """Whether the last one wanted could not be made: it is to be asked for again."""
        return self._failed

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being made or waits to be."""
        return self._working or self._wanted is not None

    def stop(self) -> None:
        """Finish what was asked for and end the thread. Idempotent."""
        with self._wake:
            if self._stopping:
                return
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()
        for mark in (self._wanted, self._kept):
            if mark is not None:
                mark.pin.abort()
        self._wanted = self._kept = None
        os.close(self._data)
        os.close(self._file)

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._wanted is None and not self._stopping:
                    self._wake.wait()
                mark, self._wanted = self._wanted, None
                if mark is None:
                    return
                self._working = True
            began = time.monotonic()
            failed = False
            try:
                self._tables.env.sync(True)
                self._keep(mark.meta)
            except Exception as error:
                _log.warning("lmdb store %s: a checkpoint failed: %s", self._directory, error)
                failed = True
            with self._wake:
                self._working = False
                self.seconds += time.monotonic() - began
                if failed:
                    self.failures += 1
                    # One asked for meanwhile has its own turn.
                    self._failed = self._wanted is None
                    unused: _Mark | None = mark
                else:
                    self.made += 1
                    unused, self._kept = self._kept, mark
                # Only now may LMDB use the pages of the checkpoint before this one again.
                if unused is not None:
                    unused.pin.abort()
                self._wake.notify_all()

    def _keep(self, meta: bytes) -> None:
        body = _MAGIC + _NUMBER.pack(self._number + 1) + meta
        slot = (self._number + 1) % 2 * _SLOT  # the other one stays whole meanwhile
        record = body + _SUM.pack(xxhash.xxh3_64_intdigest(body))
        if os.pwrite(self._file, record, slot) != len(record):
            raise OSError("a write was cut short")
        os.fdatasync(self._file)
        self._number += 1


def _newest(kept: bytes) -> tuple[int, bytes]:
    """Number and meta page of the newest whole slot; 0 and nothing where none is."""
    newest = 0, b""
    head = len(_MAGIC) + _NUMBER.size
    for slot in (kept[:_SLOT], kept[_SLOT:]):
        if not slot.startswith(_MAGIC):
            continue
        with contextlib.suppress(NotLmdb, struct.error):
            end = head + read_meta(slot[head:]).page
            if len(slot) < end + _SUM.size or _SUM.unpack_from(slot, end)[0] != xxhash.xxh3_64_intdigest(slot[:end]):
                continue
            newest = max(newest, (_NUMBER.unpack_from(slot, len(_MAGIC))[0], slot[head:end]))
    return newest


def restore(directory: Path) -> bool:
    """After a power loss: make the checkpoint the file's last commit. Whether there was one that is whole."""
    try:
        page = _newest((directory / CHECKPOINT_FILE).read_bytes())[1]
    except OSError:
        return False
    if not page:
        return False
    meta = read_meta(page)
    fd = os.open(directory / DATA_FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        for slot in range(2):
            # The other slot gets the same commit under the number before: LMDB takes the newer of the two.
            number = meta.transaction - (meta.transaction & 1 != slot)
            at = _HEADER + META_SIZE - _TRANSACTION.size
            copy = slot.to_bytes(8, "little") + page[8:at] + _TRANSACTION.pack(number) + page[at + _TRANSACTION.size :]
            os.pwrite(fd, copy, slot * meta.page)
        os.fsync(fd)
    finally:
        os.close(fd)
    _log.warning("lmdb store %s: back to its checkpoint, commit %d", directory, meta.transaction)
    return True


def discard(directory: Path) -> None:
    """Forget the checkpoint: the file changes in ways it does not know of."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(directory / CHECKPOINT_FILE)
