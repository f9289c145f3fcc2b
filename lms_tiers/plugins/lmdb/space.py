"""How a capacity is divided, and what a chunk is charged with. Knows no file.

The promise: as long as the charges of all chunks stay within `Budget.usable`, `data`, index, journals and small files
together stay within the capacity, and every chunk finds its pages. A chunk is charged three times with what it may take
in the index, because that file never shrinks by itself: it is written anew, beside the old one, when it has grown to
twice its due.
"""

from __future__ import annotations

from typing import Final

from lms_tiers.errors import ConfigError
from lms_tiers.plugins.lmdb.layout import HASH_BYTES, LONGEST_RECORD, PAGE, STAMP
from lms_tiers.sizes import format_size

MIN_CAPACITY: Final = 1 << 20
#: The reader tables of the index and its new version, owner; the head of `data`.
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


def pages_of(charged: int, share: int) -> int:
    """Pages of the chunks that are charged so much, with such a share of the index."""
    return (charged - _WORN * share) // PAGE


def pages_for(stream: int, nrecord: int) -> int:
    """Pages of stored bytes with their record."""
    return -(-(stream + nrecord) // PAGE)


def reserve(length: int) -> int:
    """The most that a chunk of `length` bytes is charged with: raw, in single pages, under the longest key."""
    nrecord = LONGEST_RECORD
    pages = pages_for(length, nrecord)
    pages = pages_for(length, nrecord + 8 * (pages + pages // 256 + 1))
    # A record that just fits into the tree may be charged more than a longer one.
    return pages * PAGE + _WORN * max(index_share(nrecord + 8 * pages), (_INLINE_MOST + 1) * 9 // 4)


class Budget:
    """The space of one store.

    Parameters
    ----------
    capacity : int
        Bytes of all its files.

    Attributes
    ----------
    journal : int
        Bytes of the journal, all of which it has from the start.
    state_limit : int
        The most bytes of a tier's state.
    spare : int
        Pages of the index beside its records: what one transaction writes anew, and what the last ones freed.
    together : int
        Records written in one transaction of the index.
    files : int
        Bytes for `data` and the index.
    usable : int
        The most bytes that chunks may be charged with together.
    map_size : int
        The most bytes that the index is ever asked to have.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < MIN_CAPACITY:
            least, given = format_size(MIN_CAPACITY), format_size(capacity)
            raise ConfigError(f"an lmdb store needs a capacity of at least {least}, not {given}.")
        self.capacity: Final = capacity
        self.journal: Final = min(max(128 << 10, capacity >> 7), 16 << 20) // PAGE * PAGE
        self.state_limit: Final = max(4 * PAGE, capacity // 256 // PAGE * PAGE)
        self.spare: Final = 48 + min(capacity // PAGE // 200, 16384)
        self.together: Final = max(8, self.spare // 4)
        self.files: Final = capacity - _SIDE - self.journal - 2 * self.state_limit
        self.usable: Final = self.files - 2 * self.spare * PAGE
        self.map_size: Final = min(max(4 << 20, capacity // 2), 1 << 40) // PAGE * PAGE
