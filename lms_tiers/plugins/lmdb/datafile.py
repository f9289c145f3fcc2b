"""The file `data`: runs of pages read with `preadv` and written with `pwritev`, never mapped. Knows no chunk.

A file cut short under a running store is a short read; a full disk an `OSError` of the write.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from lms_tiers.arena.recycle import SMALLEST, Recycler
from lms_tiers.buffers import leading_bytes, scatter_bytes
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb.directory import Syncable, create_file
from lms_tiers.plugins.lmdb.layout import PAGE, Extent

T = TypeVar("T")
#: Where, the buffers that lie there one after another, and how many bytes they have.
Piece: TypeAlias = tuple[int, list[Any], int]

#: Pieces that are joined take up to so many bytes and buffers together.
_TOGETHER: Final = 8 << 20
_BUFFERS: Final = 1000
#: Pages that may lie between two that are joined, and what takes what is read of them.
_GAP: Final = 2 * PAGE
_SKIPPED: Final = memoryview(bytearray(_GAP))
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
        if self._aligned is None:
            return self._whole(os.preadv, offset, buffers, nbytes)
        memory = self._lent(nbytes)
        if not self._whole(os.preadv, offset, [memory], nbytes):
            return False
        scatter_bytes([memory[:nbytes]], buffers)
        return True

    def write(self, pieces: Iterable[Piece]) -> None:
        """Write every piece; each is whole pages.

        Raises
        ------
        OSError
            Some of it may be written.
        """
        for offset, buffers, nbytes in pieces:
            if self._aligned is not None:
                memory = self._lent(nbytes)
                scatter_bytes(buffers, [memory])
                buffers = [memory]
            self._whole(os.pwritev, offset, buffers, nbytes)
            self.written += nbytes

    def _whole(self, call: Callable[[int, list[Any], int], int], offset: int, buffers: list[Any], nbytes: int) -> bool:
        """Read or write until all is done; whether there was no end before."""
        while nbytes > 0:
            done = call(self._io, buffers[:_IOV_MOST], offset)
            if done <= 0:
                return False
            nbytes, offset = nbytes - done, offset + done
            if nbytes > 0:
                buffers = _after(buffers, done)
        return True

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


def laid(extents: Iterable[Extent], buffers: Sequence[Any], nbytes: int) -> list[Piece]:
    """What lies where, of the first `nbytes` bytes of buffers that lie in extents one after another."""
    pieces: list[Piece] = []
    rest = list(buffers)
    for page, count in extents:
        size = min(nbytes, count * PAGE)
        if size:
            pieces.append((page * PAGE, leading_bytes(rest, size), size))
            rest, nbytes = _after(rest, size), nbytes - size
    return pieces


def joined(pieces: list[tuple[Piece, T]], gaps: bool) -> Iterator[tuple[Piece, list[T]]]:
    """Pieces of some, those that are neighbours as one. `gaps`: to be read, with a little between them maybe."""
    pieces.sort(key=lambda one: one[0][0])
    at = 0
    while at < len(pieces):
        (begin, buffers, length), owner = pieces[at]
        buffers, whose, at = list(buffers), [owner], at + 1
        while at < len(pieces):
            (offset, more, nbytes), owner = pieces[at]
            gap = offset - begin - length
            if not 0 <= gap <= (_GAP if gaps else 0) or length + nbytes > _TOGETHER:
                break
            if len(buffers) + len(more) >= _BUFFERS:
                break
            if gap:
                buffers.append(_SKIPPED[:gap])
            buffers += more
            whose.append(owner)
            length, at = length + gap + nbytes, at + 1
        yield (begin, buffers, length), whose


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
