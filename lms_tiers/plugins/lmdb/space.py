"""How a capacity is divided, and what a chunk is charged with. Knows no file.

The promise: as long as the charges of all chunks stay within `Budget.usable`, `data`, index, journals and small files
together stay within the capacity, and every chunk finds its pages. A chunk is charged three times with what it may take
in the index, because that file never shrinks by itself: it is written anew, beside the old one, when it has grown to
twice its due.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lms_tiers.errors import ConfigError
from lms_tiers.plugins.lmdb.layout import FIXED, HASH_BYTES, MAX_DIMENSIONS, MAX_KEY_BYTES, PAGE, STAMP
from lms_tiers.sizes import format_size

MIN_CAPACITY: Final = 1 << 20
#: The reader table of the index, owner, state, and their new versions; the head of `data`.
_SIDE: Final = 64 << 10
_RUN_HEADER: Final = 16  # of a value with pages of its own
_NODE: Final = 8 + 2 + HASH_BYTES  # header, pointer and key of an entry
_INLINE_MOST: Final = (PAGE - 16) // 2 - 2
_WORN: Final = 3


def index_share(nrecord: int) -> int:
    """Bytes of the index that a record of `nrecord` bytes accounts for, with tree pages less than half full."""
    value = nrecord + STAMP.size
    if _NODE + value <= _INLINE_MOST:
        return (_NODE + value) * 9 // 4
    return (_NODE + 8) * 9 // 4 + -(-(value + _RUN_HEADER) // PAGE) * PAGE


def charge(pages: int, nrecord: int) -> int:
    """Physical bytes of a chunk: its pages of `data`, and its share of the index."""
    return pages * PAGE + _WORN * index_share(nrecord)


def pages_for(stream: int, nrecord: int) -> int:
    """Pages of stored bytes with their record."""
    return -(-(stream + nrecord) // PAGE)


def reserve(length: int) -> int:
    """The most that a chunk of `length` bytes is charged with: raw, in single pages, under the longest key."""
    nrecord = FIXED + MAX_KEY_BYTES + 8 * MAX_DIMENSIONS + 64 + 8
    pages = pages_for(length, nrecord)
    pages = pages_for(length, nrecord + 8 * (pages + pages // 256 + 1))
    # A record that just fits into the tree may be charged more than a longer one.
    return pages * PAGE + _WORN * max(index_share(nrecord + 8 * pages), (_INLINE_MOST + 1) * 9 // 4)


@dataclass(frozen=True, slots=True)
class Budget:
    """The space of one store.

    Attributes
    ----------
    capacity : int
        Bytes of all its files.
    """

    capacity: int

    def __post_init__(self) -> None:
        if self.capacity < MIN_CAPACITY:
            least, given = format_size(MIN_CAPACITY), format_size(self.capacity)
            raise ConfigError(f"an lmdb store needs a capacity of at least {least}, not {given}.")

    @property
    def journal(self) -> int:
        """Bytes of each of the two journals, all of which they have from the start."""
        return min(max(64 << 10, self.capacity >> 8), 8 << 20) // PAGE * PAGE

    @property
    def state_limit(self) -> int:
        """The most bytes of a tier's state."""
        return max(4 * PAGE, self.capacity // 256 // PAGE * PAGE)

    @property
    def spare(self) -> int:
        """Pages of the index beside its records: what one transaction writes anew, and what the last ones freed."""
        return 48 + min(self.capacity // PAGE // 200, 16384)

    @property
    def together(self) -> int:
        """Bytes for records' transactions: so many pages may one of them write."""
        return max(8, self.spare // 4)

    @property
    def files(self) -> int:
        """Bytes for `data` and the index."""
        return self.capacity - _SIDE - 2 * self.journal - 2 * self.state_limit

    @property
    def usable(self) -> int:
        """The most bytes that chunks may be charged with together."""
        return self.files - 2 * self.spare * PAGE

    @property
    def map_size(self) -> int:
        """The most bytes that the index is ever asked to have."""
        return min(max(4 << 20, self.capacity // 2), 1 << 40) // PAGE * PAGE
