"""The file as it lies in memory: where a part has its pages, and copies of parts without asking LMDB for each.

Every call of LMDB lets the interpreter's lock go, and with two readers whoever lets it go waits to get it back longer
than the call takes. So the writer notes in a chunk's manifest on which pages its parts are, and a reader that holds a
transaction in which the manifest lives copies those pages: nobody writes to them as long as the transaction does.
What is there is trusted as little as anything else of the file: the copy must have the chunk's checksum.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lms_tiers.plugins.lmdb.parts import RUN_HEADER, Groups

#: The header LMDB keeps before a value that has pages of its own: page number, padding, flags, pages.
_RUN_HEAD: Final = struct.Struct("<QHHI")
_OVERFLOW, _DIRTY = 0x04, 0x10
#: Pages of larger numbers are not noted.
_NOTED_MOST: Final = 2**32 - 1

Bytes = npt.NDArray[np.uint8]


def own_pages(size: int, key: int, page: int) -> int:
    """How many pages of its own LMDB gives a value of `size` bytes under a key of `key` bytes; 0: it has none."""
    if size + key + 8 <= (page - RUN_HEADER) // 2 - 2:
        return 0
    return -(-(size + RUN_HEADER) // page)


def address(value: memoryview) -> int:
    """Where a value lies in memory."""
    return int(np.frombuffer(value, np.uint8).__array_interface__["data"][0])


def _run_head(at: int) -> tuple[int, int, int]:
    """Page number, flags and pages by the header before the address `at`."""
    number, _, flags, pages = _RUN_HEAD.unpack(ctypes.string_at(at - _RUN_HEAD.size, _RUN_HEAD.size))
    return int(number), int(flags), int(pages)


class Mapped:
    """The map of one open file.

    Parameters
    ----------
    nbytes : int
        Of the map.
    page : int
    file_bytes : callable
        The file's size now; it never shrinks.
    """

    def __init__(self, nbytes: int, page: int, file_bytes: Callable[[], int]) -> None:
        self.page: Final = page
        self._nbytes: Final = nbytes
        self._file_bytes: Final = file_bytes
        self._memory: Any = None
        self._begin = 0
        self._end = 0
        self._wrong = False

    def locate(self, record: memoryview) -> None:
        """Find out where the map begins, from a small record that a read transaction answered.

        It lies in a tree page, whose number was checked when the file was opened; the headers of parts were not, and
        a begin worked out from a damaged one would be nobody's memory.
        """
        head = address(record) // self.page * self.page
        number, _, _ = _run_head(head + RUN_HEADER)
        self._begin = head - number * self.page
        self._memory = (ctypes.c_ubyte * self._nbytes).from_address(self._begin)

    def first_page(self, part: memoryview, key: int) -> int:
        """The number of a part's first page; 0 where it has none of its own, or its header says otherwise."""
        pages = own_pages(len(part), key, self.page)
        if not pages:
            return 0
        at = address(part)
        number, flags, told = _run_head(at)
        if self._begin <= at < self._begin + self._nbytes:
            right = flags == _OVERFLOW and at == self._begin + number * self.page + RUN_HEADER
        else:
            # Not written yet: memory of LMDB's, and dirty. It says where the part will lie.
            right = flags & ~_DIRTY == _OVERFLOW
        return number if right and told == pages else 0

    def note(self, part: memoryview, key: int) -> int:
        """The first page of a part under a key of `key` bytes, to be noted; 0 where none can be."""
        number = self.first_page(part, key)
        return number if number <= _NOTED_MOST else 0

    def copy(self, pages: Sequence[int], groups: Groups, target: memoryview) -> tuple[int, int]:
        """Copy parts from the pages that were noted, one after another, into `target`; releases the GIL.

        Parts that lie side by side are copied in one step. What was copied is to be checked; where it is not the
        chunk, say so by `distrust`.

        Returns
        -------
        parts, nbytes : int
            How much was copied: all up to the first part whose page is not known.
        """
        parts = at = 0
        if self._memory is None or self._wrong:
            return parts, at
        whole = np.frombuffer(target, np.uint8)
        for run in self._runs(pages, groups):
            np.copyto(whole[at : at + run.size].reshape(run.shape), run)
            parts += len(run)
            at += run.size
        return parts, at

    def distrust(self) -> None:
        """Pages are not what manifests say: another tool has rewritten the file. Ask LMDB from now on."""
        self._wrong = True

    def _runs(self, pages: Sequence[int], groups: Groups) -> Iterator[Bytes]:
        """The parts as few arrays, a row each, up to the first one that is not known to lie in the file."""
        begin = 0
        for count, size in groups:
            step = -(-(size + RUN_HEADER) // self.page)
            end = begin + count
            while begin < end:
                first = pages[begin]
                rows = 1
                while begin + rows < end and pages[begin + rows] == first + rows * step:
                    rows += 1
                if not first or not self._holds((first + rows * step) * self.page):
                    return
                where = first * self.page + RUN_HEADER
                yield np.ndarray((rows, size), np.uint8, self._memory, where, (step * self.page, 1))
                begin += rows

    def _holds(self, end: int) -> bool:
        """Whether the file reaches as far as `end`: beyond its end there is no memory to read."""
        if end > self._end:
            self._end = min(self._file_bytes(), self._nbytes)
        return end <= self._end
