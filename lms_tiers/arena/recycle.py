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
from collections import deque
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
        self.idle_bytes = 0
        self.lent_bytes = 0
        self.reused = 0
        self.made = 0
        self._make: Final = make
        self._idle: Final[dict[int, list[Any]]] = {}
        self._lock: Final = threading.Lock()
        # A block's end may come inside any allocation, also of a thread that holds the lock: then it waits here.
        self._returned: Final[deque[_Loan]] = deque()
        self._loans: Final[dict[int, _Loan]] = {}  # by id: a reference hashes as what it refers to
        self._closed = False

    def take(self, nbytes: int) -> memoryview:
        """A writable buffer of exactly `nbytes`, its contents undefined."""
        if nbytes < SMALLEST:
            return memoryview(bytearray(nbytes))
        import numpy as np

        size = -(-nbytes // _STEP) * _STEP
        with self._lock:
            if self._returned:
                self._sort_in()
            self.lent_bytes += size
            blocks = self._idle.get(size)
            block = blocks.pop() if blocks else None
            if block is not None:
                self.idle_bytes -= size
                self.reused += 1
        try:
            if block is None:
                block = memoryview(self._make(size))
                self.made += 1
            # Its base is no array, so numpy keeps this very object alive for every view of it.
            lent = np.frombuffer(block, dtype=np.uint8, count=nbytes)
            loan = _Loan(lent, self._come_back)
            loan.block, loan.size = block, size
            self._loans[id(loan)] = loan
        except BaseException:
            with self._lock:
                self.lent_bytes -= size
            raise
        return memoryview(lent)  # type: ignore[arg-type]  # numpy's stubs hide the buffer protocol before 3.12

    def close(self) -> None:
        """Give idle blocks back to the system; those lent out follow when their borrowers are done."""
        with self._lock:
            self._closed = True
            self._sort_in()
            self._idle.clear()
            self.idle_bytes = 0

    def _come_back(self, loan: _Loan) -> None:
        self._returned.append(loan)
        if self._lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self._lock.release()

    def _sort_in(self) -> None:
        while self._returned:
            loan = self._returned.popleft()
            self._loans.pop(id(loan), None)
            self.lent_bytes -= loan.size
            if self._closed or self.idle_bytes + loan.size > self.limit:
                continue
            self._idle.setdefault(loan.size, []).append(loan.block)
            self.idle_bytes += loan.size
