"""Space in physical pages: what a chunk takes, and how much of a file chunks may take together.

The promise: as long as the stored bytes of all chunks stay within `Budget.usable`, no write runs out of pages. It
rests on upper bounds (tree pages counted as less than half full) and on headroom for what a commit needs beside the
chunks: copies of tree pages, the list of free pages, pages freed a moment ago.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lms_tiers.errors import ConfigError
from lms_tiers.plugins.lmdb.layout import HASH_BYTES, PART_KEY, STAMP
from lms_tiers.plugins.lmdb.parts import RUN_HEADER, Groups
from lms_tiers.sizes import format_size

#: lock.mdb and our own small files beside data.mdb.
SIDE_FILES: Final = 96 * 1024
MIN_CAPACITY: Final = 1 << 20
_NODE: Final = 8 + 2  # header and pointer of a tree entry
_PAGE_NUMBER: Final = 8


def _in_tree(key: int, value: int) -> int:
    return _NODE + key + value + 2 & ~1


@dataclass(frozen=True, slots=True)
class Budget:
    """The space of one file.

    Attributes
    ----------
    capacity : int
        Bytes of all files of the store.
    page : int
        Bytes of a page.
    """

    capacity: int
    page: int

    def __post_init__(self) -> None:
        if self.capacity < MIN_CAPACITY:
            least, given = format_size(MIN_CAPACITY), format_size(self.capacity)
            raise ConfigError(f"an lmdb store needs a capacity of at least {least}, not {given}.")

    @property
    def map_size(self) -> int:
        """The most bytes data.mdb may have."""
        return (self.capacity - SIDE_FILES) // self.page * self.page

    @property
    def state_limit(self) -> int:
        """The most bytes of a tier's state."""
        return max(4 * self.page, self.capacity // 256 // self.page * self.page)

    @property
    def usable(self) -> int:
        """The most bytes that chunks may be charged with together."""
        pages = self.map_size // self.page
        headroom = 64 + pages // 40
        return (pages - headroom) * self.page - 2 * self.state_limit

    @property
    def pinned_most(self) -> int:
        """Bytes whose pages a checkpoint may hold back: half of the headroom."""
        return self.map_size // 80

    @property
    def _inline_most(self) -> int:
        """The largest entry that lies in a tree page."""
        return (self.page - RUN_HEADER) // 2 - 2

    @property
    def manifest_most(self) -> int:
        """The longest manifest that lies in a tree page."""
        return self._inline_most - (_in_tree(HASH_BYTES, 0) - 2)

    def charge(self, manifest: int, groups: Groups) -> int:
        """Physical bytes of a chunk whose manifest has `manifest` bytes: whole runs, and its share of tree pages."""
        inline_most = self._inline_most
        runs = 0
        entries = _in_tree(HASH_BYTES, STAMP.size)
        if _in_tree(HASH_BYTES, manifest) - 2 > inline_most:
            runs += -(-(manifest + RUN_HEADER) // self.page)
            manifest = _PAGE_NUMBER
        entries += _in_tree(HASH_BYTES, manifest)
        for count, size in groups:
            if _in_tree(PART_KEY.size, size) - 2 > inline_most:
                runs += count * -(-(size + RUN_HEADER) // self.page)
                size = _PAGE_NUMBER
            entries += count * _in_tree(PART_KEY.size, size)
        return runs * self.page + entries * 9 // 4
