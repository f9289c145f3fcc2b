"""The files of a directory: their names, who owns it, files made with its owner's rights, and a tier's state.

A file is 0600 from its first byte, or has owner, group and mode of the store it comes into.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from lms_tiers.errors import FormatError, StorageFullError, StorageLockedError, StorageUnavailableError
from lms_tiers.plugins.lmdb.layout import Damaged

_log = logging.getLogger(__name__)

DATA_FILE: Final = "data"
INDEX_FILE: Final = "index.mdb"
NEW_INDEX: Final = "index.new"
JOURNAL_FILE: Final = "journal"
TIER_FILE: Final = "tier"
OWNER_FILE: Final = "owner"
#: Of versions 1 and 2.
OLD_DATA: Final = "data.mdb"
#: Nanoseconds between two looks whether the directory still leads to the files that are open.
LOOK: int = 10_000_000
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_HELD: Final = (errno.EAGAIN, errno.EACCES)


def is_full(error: BaseException) -> bool:
    """Whether the medium has no room left."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, lmdb.Error) and (isinstance(error, lmdb.MapFullError) or "No space left" in str(error))


def unavailable(where: str | Path, error: OSError | lmdb.Error, doing: str = "") -> StorageUnavailableError:
    """What a caller hears of an error of the medium."""
    reason = f"{doing}: {error}" if doing else str(error)
    if is_full(error):
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
        # An explicit unlock reaches the copies of the descriptor that forked children hold. It comes first: whatever an
        # interrupt leaves here, the next `release` ends it.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        fd, self._fd = self._fd, -1
        os.close(fd)

    def undo(self) -> None:
        """A directory that was made for nothing is gone again; one that holds anything stays."""
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        self.release()


class Place:
    """The directory of an open store, whose `data` is open as `fd`."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path: Final = path
        found = os.fstat(fd)
        self._identity: Final = found.st_ino, found.st_dev
        self._looked = 0

    def look(self, now: bool = True) -> None:
        """Raise where the files have lost their names: what is written would be gone with the last descriptor.

        `now`: also where somebody has just looked.

        Raises
        ------
        StorageUnavailableError
        """
        if not now and time.monotonic_ns() - self._looked <= LOOK:
            return
        with contextlib.suppress(OSError):
            found = (self._path / DATA_FILE).stat()
            if (found.st_ino, found.st_dev) == self._identity:
                self._looked = time.monotonic_ns()
                return
        raise StorageUnavailableError(str(self._path), "the files were deleted or replaced under the store.")

    def keep_state(self, state: bytes, limit: int) -> None:
        """Keep a tier's state, compressed and checked; nothing, with a warning, where that takes over `limit` bytes.

        A reader, also one after a power loss, finds the state before or this one.

        Raises
        ------
        OSError
        """
        import zstandard

        packed = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(state) if state else b""
        if len(packed) > limit:
            _log.warning(
                "lmdb store %s: a tier's state of %d bytes is over the limit of %d and is not kept",
                self._path, len(packed), limit,
            )  # fmt: skip
            packed = b""
        with written_anew(self._path / TIER_FILE) as scratch, open(create_file(scratch), "wb") as file:
            file.write(packed)

    def kept_state(self) -> bytes | None:
        """What `keep_state` kept last; None without it.

        Raises
        ------
        Damaged
        """
        import zstandard

        try:
            packed = (self._path / TIER_FILE).read_bytes()
            return zstandard.ZstdDecompressor().decompress(packed) if packed else None
        except OSError:
            return None
        except zstandard.ZstdError as error:
            raise Damaged(f"a tier's state: {error}") from error


class Syncable:
    """An open file that is synced.

    Attributes
    ----------
    lost : OSError or None
        Why a sync failed: from then on all do. The kernel forgets pages that it could not write, so no later sync
        proves anything.
    """

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd
        self.lost: OSError | None = None
        self._closed = False

    def sync(self) -> None:
        """Everything written is on the medium.

        Raises
        ------
        OSError
        """
        if self.lost is not None:
            raise self.lost
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            self.lost = error
            raise

    def close(self) -> None:
        """Close the file. Idempotent."""
        if not self._closed:
            self._closed = True  # first: after an interrupt it may be another's descriptor
            os.close(self.fd)


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


@contextmanager
def written_anew(path: Path, place: Callable[[Path, Path], None] = os.replace) -> Iterator[Path]:
    """The name of a file to be made, which takes the place of `path` at the end, on the medium.

    Where that fails the old file is as it was.
    """
    scratch = path.with_suffix(".new")
    try:
        scratch.unlink(missing_ok=True)
        yield scratch
        sync_file(scratch)
        place(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
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
