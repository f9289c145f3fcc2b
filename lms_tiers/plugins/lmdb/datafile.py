"""The file `data`: runs of pages read with `preadv` and written with `pwritev`, never mapped. Knows no chunk.

A file cut short under a running store is a short read; a full disk an `OSError` of the write.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from lms_tiers.buffers import copy_bytes
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb.layout import PAGE
from lms_tiers.plugins.lmdb.sidecar import create_file

#: Where, and the buffers that lie there one after another.
Run: TypeAlias = tuple[int, list[Any]]

_IOV_MOST: Final = 1024
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
#: Bytes of aligned memory that are kept for the next read or write past the page cache.
_KEPT: Final = 64 << 20
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class DataFile:
    """An open `data`.

    Parameters
    ----------
    path : Path
    direct : bool
        Past the page cache, through memory that is aligned.
    writable : bool
        Made where missing.
    """

    def __init__(self, path: Path, *, direct: bool = False, writable: bool = True) -> None:
        self.path: Final = path
        self.fd: Final = create_file(path) if writable else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._aligned: Final = Aligned() if direct else None
        self._io = self.fd
        if direct:
            try:
                self._io = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_DIRECT)
            except OSError as error:
                os.close(self.fd)
                raise StorageUnavailableError(
                    str(path), f"{error.strerror}: this file system takes no direct=true."
                ) from error
        self.written = 0
        self.read = 0
        self._lost: OSError | None = None

    def readv(self, offset: int, buffers: list[Any], nbytes: int) -> bool:
        """Fill `buffers`, together `nbytes` bytes, from `offset` on; whether the file has that many."""
        if self._aligned is not None:
            return self._read_aligned(offset, buffers, nbytes)
        if not nbytes:
            return True
        got = os.preadv(self.fd, buffers, offset)
        while got < nbytes:
            if got <= 0:
                return False
            buffers = _after(buffers, got)
            offset, nbytes = offset + got, nbytes - got
            got = os.preadv(self.fd, buffers, offset)
        self.read += nbytes
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
                self._write_aligned(offset, buffers)
                continue
            begin = 0
            while begin < len(buffers):
                some = buffers[begin : begin + _IOV_MOST]
                begin += _IOV_MOST
                left = sum(len(buffer) for buffer in some)
                while left:
                    put = os.pwritev(self.fd, some, offset)
                    offset, left = offset + put, left - put
                    self.written += put
                    if left:
                        some = _after(some, put)

    def wipe(self, page: int) -> None:
        """Zeros over one page."""
        os.pwrite(self._io, _ZEROS, page * PAGE)

    def _read_aligned(self, offset: int, buffers: list[Any], nbytes: int) -> bool:
        assert self._aligned is not None
        whole = -(-nbytes // PAGE) * PAGE
        with self._aligned.lent(whole) as memory:
            got = 0
            while got < nbytes:
                more = os.preadv(self._io, [memory[got:]], offset + got)
                if more <= 0:
                    return False
                got += more
            at = 0
            for buffer in buffers:
                copy_bytes(memoryview(buffer).cast("B"), memory[at : at + len(buffer)])
                at += len(buffer)
        self.read += nbytes
        return True

    def _write_aligned(self, offset: int, buffers: list[Any]) -> None:
        assert self._aligned is not None
        nbytes = sum(len(buffer) for buffer in buffers)
        with self._aligned.lent(nbytes) as memory:
            at = 0
            for buffer in buffers:
                copy_bytes(memory[at : at + len(buffer)], memoryview(buffer).cast("B"))
                at += len(buffer)
            put = 0
            while put < nbytes:
                put += os.pwrite(self._io, memory[put:], offset + put)
        self.written += nbytes

    def sync(self) -> None:
        """Everything written is on the medium.

        Raises
        ------
        OSError
            From then on always: the kernel forgets pages that it could not write, so no later sync proves anything.
        """
        if self._lost is not None:
            raise self._lost
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            self._lost = error
            raise

    def punch(self, page: int, count: int) -> bool:
        """Take the blocks from a run of pages; whether the file system can."""
        return allocate(self.fd, _KEEP_SIZE | _PUNCH_HOLE, page * PAGE, count * PAGE)

    def cut(self, page: int) -> None:
        """End the file before `page`."""
        os.ftruncate(self.fd, page * PAGE)

    @property
    def nbytes(self) -> int:
        """Blocks on the medium, in bytes."""
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        """Close the descriptors."""
        if self._io != self.fd:
            os.close(self._io)
        os.close(self.fd)


def allocate(fd: int, mode: int, offset: int, nbytes: int) -> bool:
    """`fallocate(2)`, which Python has for one of its modes only; whether it was done."""
    return bool(_libc.fallocate(fd, mode, offset, nbytes) == 0)


def hold_blocks(fd: int, nbytes: int) -> None:
    """Blocks for `nbytes` more than the file has, which keeps its size: it grows on a full disk as well."""
    allocate(fd, _KEEP_SIZE, os.fstat(fd).st_size, nbytes)


class Aligned:
    """Memory that begins at a page, reused."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._free: Final[list[mmap.mmap]] = []
        self._kept = 0

    @contextmanager
    def lent(self, nbytes: int) -> Iterator[memoryview]:
        """`nbytes` bytes, undefined, inside the block."""
        memory = self._take(nbytes)
        try:
            with memoryview(memory) as whole, whole[:nbytes] as view:
                yield view
        finally:
            with self._lock:
                if self._kept + len(memory) <= _KEPT:
                    self._free.append(memory)
                    self._kept += len(memory)

    def _take(self, nbytes: int) -> mmap.mmap:
        with self._lock:
            for at, memory in enumerate(self._free):
                if nbytes <= len(memory) <= 4 * nbytes:
                    self._kept -= len(memory)
                    return self._free.pop(at)
        return mmap.mmap(-1, max(nbytes, PAGE))


def _after(buffers: list[Any], done: int) -> list[Any]:
    """What is left of `buffers` after their first `done` bytes."""
    rest: list[Any] = []
    for buffer in buffers:
        size = len(buffer)
        if done >= size:
            done -= size
            continue
        rest.append(memoryview(buffer).cast("B")[done:] if done else buffer)
        done = 0
    return rest


_ZEROS: Final = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
