"""The file `data`: runs of pages read with `preadv` and written with `pwritev`, never mapped. Knows no chunk.

A file cut short under a running store is a short read; a full disk an `OSError` of the write.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from lms_tiers.arena.recycle import SMALLEST, Recycler
from lms_tiers.buffers import scatter_bytes
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb.directory import Syncable, create_file
from lms_tiers.plugins.lmdb.layout import PAGE

#: Where, and the buffers that lie there one after another.
Run: TypeAlias = tuple[int, list[Any]]

_IOV_MOST: Final = 1024
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_ZEROS: Final = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class DataFile(Syncable):
    """An open `data`.

    Parameters
    ----------
    path : Path
    aligned : Recycler, optional
        Read and write past the page cache, through its memory, which begins at pages.
    writable : bool
        Made where missing.
    """

    def __init__(self, path: Path, *, aligned: Recycler | None = None, writable: bool = True) -> None:
        super().__init__(create_file(path) if writable else os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self._aligned: Final = aligned
        self._io = self.fd
        if aligned is not None:
            try:
                self._io = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
            except OSError as error:
                os.close(self.fd)
                reason = f"{error.strerror}: this file system takes no direct=true."
                raise StorageUnavailableError(str(path), reason) from error
        self.written = 0

    def readv(self, offset: int, buffers: list[Any], nbytes: int) -> bool:
        """Fill `buffers`, together `nbytes` bytes, from `offset` on; whether the file has that many."""
        if self._aligned is not None:
            memory = self._lent(nbytes)
            if not self._filled(offset, [memory], nbytes):
                return False
            scatter_bytes([memory[:nbytes]], buffers)
            return True
        got = os.preadv(self.fd, buffers, offset) if nbytes else 0
        return got == nbytes or (got > 0 and self._filled(offset + got, _after(buffers, got), nbytes - got))

    def _filled(self, offset: int, buffers: list[Any], nbytes: int) -> bool:
        while nbytes > 0:
            got = os.preadv(self._io, buffers, offset)
            if got <= 0:
                return False
            buffers, offset, nbytes = _after(buffers, got), offset + got, nbytes - got
        return True

    def write(self, runs: Sequence[Run]) -> None:
        """Write every run; each is whole pages.

        Raises
        ------
        OSError
            Some of it may be written.
        """
        for offset, buffers in runs:
            if self._aligned is not None:
                memory = self._lent(sum(map(len, buffers)))
                scatter_bytes(buffers, [memory])
                buffers = [memory]
            for begin in range(0, len(buffers), _IOV_MOST):
                some = buffers[begin : begin + _IOV_MOST]
                left = sum(map(len, some))
                while left:
                    put = os.pwritev(self._io, some, offset)
                    offset, left = offset + put, left - put
                    self.written += put
                    if left:
                        some = _after(some, put)

    def _lent(self, nbytes: int) -> memoryview:
        assert self._aligned is not None
        whole = -(-nbytes // PAGE) * PAGE
        return self._aligned.take(max(whole, SMALLEST))[:whole]

    def wipe(self, page: int) -> None:
        """Zeros over one page."""
        os.pwrite(self._io, _ZEROS, page * PAGE)

    def punch(self, page: int, count: int) -> bool:
        """Take the blocks from a run of pages; whether the file system can."""
        return allocate(self.fd, _KEEP_SIZE | _PUNCH_HOLE, page * PAGE, count * PAGE)

    @property
    def cached(self) -> bool:
        """Whether it is read by way of the page cache."""
        return self._aligned is None

    @property
    def pages(self) -> int:
        """Pages up to the end of the file."""
        return -(-os.fstat(self.fd).st_size // PAGE)

    @property
    def nbytes(self) -> int:
        """Blocks on the medium, in bytes."""
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        if self._io != self.fd:
            io, self._io = self._io, self.fd
            os.close(io)
        super().close()


def allocate(fd: int, mode: int, offset: int, nbytes: int) -> bool:
    """`fallocate(2)`, which Python has for one of its modes only; whether it was done."""
    return bool(_libc.fallocate(fd, mode, offset, nbytes) == 0)


def hold_blocks(fd: int, nbytes: int) -> None:
    """Blocks for `nbytes` more than the file has, which keeps its size: it grows on a full disk as well."""
    allocate(fd, _KEEP_SIZE, os.fstat(fd).st_size, nbytes)


def _after(buffers: list[Any], done: int) -> list[Any]:
    """What is left of `buffers` after their first `done` bytes."""
    rest: list[Any] = []
    for buffer in buffers:
        size = len(buffer)
        if done < size:
            rest.append(memoryview(buffer).cast("B")[done:] if done else buffer)
        done = max(0, done - size)
    return rest
