"""The files of a directory: their names, who owns it, how it was left, and files made with its owner's rights.

A file is 0600 from its first byte, or has owner, group and mode of the store it comes into.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import lmdb

from lms_tiers.errors import FormatError, StorageFullError, StorageLockedError, StorageUnavailableError
from lms_tiers.plugins.lmdb.layout import EXPECTED, MAGIC, VERSION

DATA_FILE: Final = "data"
INDEX_FILE: Final = "index.mdb"
NEW_INDEX: Final = "index.new"
JOURNALS: Final = ("journal.0", "journal.1")
TIER_FILE: Final = "tier"
OWNER_FILE: Final = "owner"
STATE_FILE: Final = "state.json"
#: Of versions 1 and 2.
OLD_DATA: Final = "data.mdb"
_STATE_BYTES: Final = 512
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_HELD: Final = (errno.EAGAIN, errno.EACCES)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def unavailable(where: str | Path, error: OSError | lmdb.Error, doing: str = "") -> StorageUnavailableError:
    """What a caller hears of an error of the medium."""
    reason = f"{doing}: {error}" if doing else str(error)
    full = isinstance(error, lmdb.MapFullError) or "No space left" in reason
    if full or (isinstance(error, OSError) and error.errno in _FULL):
        return StorageFullError(str(where), f"{reason}: no room is left on the medium.")
    return StorageUnavailableError(str(where), f"{reason}.")


class Ownership:
    """The lock that makes one process the owner of a directory, and tells others who it is.

    Parameters
    ----------
    directory : Path
    create : bool
        Make what is missing. Where not, nothing is written: a store that can only be read is locked all the same.

    Raises
    ------
    StorageLockedError, StorageUnavailableError, FormatError
    """

    def __init__(self, directory: Path, create: bool = True) -> None:
        self._fd = -1
        self._pid = os.getpid()
        self._made: list[Path] = []
        try:
            if directory.is_file():
                raise FormatError(str(directory), "a plain file", "a directory of lms_tiers")
            if create:
                self._made = [path for path in (directory, *directory.parents) if not path.exists()]
                directory.mkdir(parents=True, exist_ok=True)
                self._made.insert(0, directory / OWNER_FILE) if not (directory / OWNER_FILE).exists() else None
                fd = create_file(directory / OWNER_FILE, os.O_RDWR)
            else:
                try:
                    fd = os.open(directory / OWNER_FILE, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return
        except OSError as error:
            raise StorageUnavailableError(str(directory), f"{error.strerror}: give a writable directory.") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            if error.errno not in _HELD:
                self.undo()
                reason = f"{error.strerror}: this file system does not lock files; use a local disk."
                raise StorageUnavailableError(str(directory), reason) from error
            me = holder == str(os.getpid())
            raise StorageLockedError(str(directory), "this process" if me else f"process {holder}") from None
        self._fd = fd
        if create:
            with contextlib.suppress(OSError):  # no room to say who: the lock holds all the same
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory back. Idempotent; nothing happens in a forked child."""
        if self._fd < 0 or os.getpid() != self._pid:
            return
        fd, self._fd = self._fd, -1
        # An explicit unlock reaches the copies of the descriptor that forked children hold.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def undo(self) -> None:
        """A directory that was made for nothing is gone again; one that holds anything stays."""
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        self.release()


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
        Closed, with everything on the medium: what follows, and what `journal.0` says of free pages, is true.
    boot : str
        Boot id of the machine that wrote last.
    seed : int
        The store's.
    capacity : int
        Of the last opening.
    index : str
        xxh3-64 of the index file.
    clock, chunks, charged, share : int
        The last sequence number, chunks held, sum of their charges, and of their shares of the index.
    """

    clean: bool
    boot: str
    seed: int
    capacity: int
    index: str = ""
    clock: int = 0
    chunks: int = 0
    charged: int = 0
    share: int = 0

    def write(self, directory: Path) -> None:
        """Keep this, on the medium, in one step; also where the disk is full and it was kept before."""
        data = json.dumps({"format": MAGIC.decode(), "version": VERSION, **asdict(self)}).encode().ljust(_STATE_BYTES)
        path = directory / STATE_FILE
        try:
            replace_file(path, data)
        except OSError as error:
            if error.errno not in _FULL or not path.exists() or path.stat().st_size != len(data):
                raise
            # A sector, over one: the medium writes it whole or not at all.
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
            Of another version.
        """
        try:
            told = json.loads((directory / STATE_FILE).read_bytes())
            if told["format"] != MAGIC.decode():
                return None
            if told["version"] != VERSION:
                raise FormatError(str(directory), f"version {told['version']}", EXPECTED)
            left = Left(**{name: told[name] for name in Left.__slots__})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        numbers = (left.seed, left.capacity, left.clock, left.chunks, left.charged, left.share)
        sound = all(type(number) is int and 0 <= number < 1 << 64 for number in numbers)
        return left if sound and type(left.clean) is bool and type(left.index) is str else None


def create_file(path: Path, flags: int = os.O_RDWR) -> int:
    """A descriptor of the file, made where missing: for its owner alone, or as the store around it."""
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        model = path.with_name(DATA_FILE)
        like = model.stat() if model.exists() else path.parent.stat()
        if os.geteuid() == 0 and (like.st_uid, like.st_gid) != (0, 0):
            os.fchown(fd, like.st_uid, like.st_gid)
        os.fchmod(fd, like.st_mode & 0o777 if model.exists() else 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` where a reader, also one after a power loss, finds the old bytes or the new ones."""
    scratch = path.with_name(path.name + ".new")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        with open(create_file(scratch), "wb") as file:
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
    with descriptor(path) as fd:
        os.fsync(fd)


@contextmanager
def descriptor(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """An open file, closed at the end."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
