"""Buffers that `get` lends out and takes back when nobody can see them any more.

The first touch of fresh memory costs several times a copy into memory already mapped, so blocks are kept for the next
reader. A block comes back when the object that exports it dies: every memoryview, array and tensor over it keeps that
object alive, so no caller can do anything that makes a block come back early.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

#: Blocks are made in steps of this many bytes, so that chunks of nearly one size share them.
_STEP: Final = 64 << 10
#: Smaller buffers come from the allocator, which keeps them warm by itself.
SMALLEST: Final = 32 << 10


@lru_cache(maxsize=256)
def byte_array(nbytes: int) -> Any:
    """The ctypes type of `nbytes` bytes; its instances export a buffer and can be watched by a weak reference."""
    return ctypes.c_ubyte * nbytes


def map_block(nbytes: int) -> mmap.mmap:
    """Private memory of its own, in large pages where the system has them."""
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if nbytes >= 2 << 20 and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            block.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them: ordinary pages serve as well
            return block
    return block


class _Loan(weakref.ref[Any]):
    """A watched buffer and the block under it; `weakref.finalize` would do, at five times the cost."""

    __slots__ = ("block", "size")

    block: Any
    size: int


class Recycler:
    """Lends buffers of any size and keeps at most `limit` bytes of idle ones.

    Parameters
    ----------
    limit : int
        Bytes kept while nobody uses them; what is lent out is the borrower's.
    make : callable
        A new block of so many bytes: any writable exporter of a buffer.
    """

    def __init__(self, limit: int, make: Callable[[int], Any] = map_block) -> None:
        self.limit: Final = limit
        self.reused = 0
        self.made = 0
        self._make: Final = make
        self._idle: Final[dict[int, list[Any]]] = {}
        # A block's end may come inside any allocation, also of a thread that holds the lock.
        self._lock: Final = threading.RLock()
        self._loans: Final[dict[int, _Loan]] = {}  # by id: a reference hashes as what it refers to
        self._closed = False

    @property
    def idle_bytes(self) -> int:
        """Bytes of blocks that nobody uses."""
        with self._lock:
            # A block may end, and come back, inside any step of this very thread: sizes come and go meanwhile.
            return sum(size * len(self._idle.get(size, ())) for size in list(self._idle))

    @property
    def lent_bytes(self) -> int:
        """Bytes of blocks that somebody can see."""
        with self._lock:
            self._find_lost()
            return sum(loan.size for loan in list(self._loans.values()))

    def take(self, nbytes: int) -> memoryview:
        """A writable buffer of exactly `nbytes`, its contents undefined."""
        if nbytes < SMALLEST:
            return memoryview(bytearray(nbytes))
        import numpy as np

        size = -(-nbytes // _STEP) * _STEP
        with self._lock:
            blocks = self._idle.get(size)
            block = blocks.pop() if blocks else None
            if blocks is not None and not blocks:
                self._idle.pop(size, None)
        if block is None:
            self._find_lost()
            block = memoryview(self._make(size))
            self.made += 1
        else:
            self.reused += 1
        # Its base is no array, so numpy keeps this very object alive for every view of it.
        lent = np.frombuffer(block, dtype=np.uint8, count=nbytes)
        loan = _Loan(lent, self._come_back)
        loan.block, loan.size = block, size
        self._loans[id(loan)] = loan
        return memoryview(lent)  # type: ignore[arg-type]  # numpy's stubs hide the buffer protocol before 3.12

    def close(self) -> None:
        """Give idle blocks back to the system; those lent out follow when their borrowers are done."""
        with self._lock:
            self._closed = True
            self._idle.clear()

    def _come_back(self, loan: _Loan) -> None:
        with self._lock:
            lent = self._loans.pop(id(loan), None)
            if lent is not None and not self._closed and self.idle_bytes + loan.size <= self.limit:
                self._idle.setdefault(loan.size, []).append(loan.block)

    def _find_lost(self) -> None:
        """Take back blocks whose end an interrupt came into, which is not told to anybody."""
        for loan in list(self._loans.values()):
            if loan() is None:
                self._come_back(loan)
