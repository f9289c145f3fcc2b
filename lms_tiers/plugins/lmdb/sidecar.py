"""The small files beside data.mdb: who owns the directory, how it was left, and moving a sick file aside."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lms_tiers.errors import FormatError, StorageLockedError, StorageUnavailableError
from lms_tiers.plugins.lmdb.layout import MAGIC, VERSION

_log = logging.getLogger(__name__)

DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
OWNER_FILE: Final = "owner"
STATE_FILE: Final = "state.json"
CHECKPOINT_FILE: Final = "checkpoint"
COMPACT_DIR: Final = "compact.new"
_STATE_BYTES: Final = 256
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
#: LMDB's reader table for `MAX_READERS` readers: 64 bytes each, header included.
_LOCK_BYTES: Final = 32 << 10
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Ownership:
    """The lock that makes one process the owner of a directory, and tells others who it is.

    Raises
    ------
    StorageLockedError, StorageUnavailableError, FormatError
    """

    def __init__(self, directory: Path, create: bool = True) -> None:
        try:
            if directory.is_file():
                raise FormatError(str(directory), "a plain file", "a directory of lms_tiers")
            if create:
                directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(directory / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageUnavailableError(str(directory), f"{error.strerror}: give a writable directory.") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            me = holder == str(os.getpid())
            raise StorageLockedError(str(directory), "this process" if me else f"process {holder}") from None
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            _log.debug("%s: no room to write who owns it", directory)
        self._fd = fd
        self._pid = os.getpid()

    def release(self) -> None:
        """Give the directory back. Idempotent; nothing happens in a forked child."""
        if self._fd < 0 or os.getpid() != self._pid:
            return
        fd, self._fd = self._fd, -1
        # An explicit unlock reaches the copies of the descriptor that forked children hold.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def boot_id() -> str:
    """What changes when the machine starts anew; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Left:
    """How a directory was left.

    Attributes
    ----------
    clean : bool
        Closed, with everything on the medium.
    boot : str
        Boot id of the machine that wrote last.
    """

    clean: bool
    boot: str

    def write(self, directory: Path) -> None:
        """Keep this, on the medium, in one step; also where the disk is full and it was kept before."""
        told = {"format": MAGIC.decode(), "version": VERSION, "clean": self.clean, "boot": self.boot}
        data = json.dumps(told).encode().ljust(_STATE_BYTES)
        path = directory / STATE_FILE
        try:
            replace_file(path, data)
        except OSError as error:
            if error.errno not in _FULL or not path.exists() or path.stat().st_size != len(data):
                raise
            # Less than a sector, over one: the medium writes it whole or not at all.
            with open(path, "r+b") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    @staticmethod
    def read(directory: Path) -> Left | None:
        """What was kept; None where nothing readable of ours was.

        Raises
        ------
        FormatError
            Written by a later version.
        """
        path = directory / STATE_FILE
        try:
            told = json.loads(path.read_bytes())
            if told["format"] != MAGIC.decode():
                return None
            if told["version"] != VERSION:
                raise FormatError(
                    str(directory), f"version {told['version']}", f"format {MAGIC.decode()} version {VERSION}"
                )
            return Left(told["clean"] is True, str(told["boot"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` where a reader, also one after a power loss, finds the old bytes or the new ones."""
    scratch = path.with_name(path.name + ".new")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise
    sync_file(path.parent)


def sync_file(path: Path) -> None:
    """Put a file, or the names in a directory, on the medium."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fresh_lock_file(directory: Path) -> None:
    """Replace LMDB's reader table by an empty one that has all its blocks.

    LMDB makes it sparse and writes to it through a mapping: on a full disk the first reader in a hole would be a
    SIGBUS. Whoever the old one remembers is dead: only the owner of the directory calls this.
    """
    path = directory / LOCK_FILE
    if path.exists() and path.stat().st_size != _LOCK_BYTES:
        os.unlink(path)
    # Over the old one where there is one: a store on a full disk opens.
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(bytes(_LOCK_BYTES))


def move_aside(directory: Path, reason: str) -> Path:
    """Rename a sick data file, never delete it, and say so in the log."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    number = 0
    while (aside := directory / f"{DATA_FILE}.sick-{stamp}{f'-{number}' if number else ''}").exists():
        number += 1
    os.rename(directory / DATA_FILE, aside)
    for name in (LOCK_FILE, CHECKPOINT_FILE):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(directory / name)
    _log.error(
        "lmdb store %s is damaged (%s): it was moved to %s and the store starts empty. Delete it to get its space "
        "back; to look at it, move it to data.mdb of an empty directory and run `lms-tiers check` there.",
        directory, reason, aside,
    )  # fmt: skip
    return aside
