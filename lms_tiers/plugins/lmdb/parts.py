"""How a value is cut into parts, and how parts are checked and copied back.

LMDB needs one contiguous run of pages for a big value, and whole values fragment the file until it is slow and full.
Parts of one fixed size leave holes that the next part fits into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import xxhash

#: LMDB puts this header before a value that has pages of its own.
RUN_HEADER: Final = 16
#: Pages of a part: full ones first, the rest of a value in ever smaller ones. Chosen by measuring churn and reads:
#: large parts read fast, and small ones fill the holes that a rest of any other size would leave.
PART_PAGES: Final = (64, 16, 4, 1)
#: Finer cuts, tried one after another for a file whose free pages lie scattered. The last needs no two together.
FINER_PAGES: Final = ((4, 1), (1,))

Groups: TypeAlias = tuple[tuple[int, int], ...]


def cut(length: int, page: int, pages: tuple[int, ...] = PART_PAGES) -> Groups:
    """The parts of a value of `length` bytes, as runs of (count, size): each but the last fills its pages.

    Examples
    --------
    >>> cut(2 << 20, 4096)
    ((8, 262128), (1, 128))
    """
    groups: list[tuple[int, int]] = []
    for run in pages:
        full = run * page - RUN_HEADER
        count, length = divmod(length, full)
        if count:
            groups.append((count, full))
    if length:
        groups.append((1, length))
    return tuple(groups)


def sizes(groups: Groups) -> Iterator[int]:
    """The size of each part, in order."""
    for count, size in groups:
        for _ in range(count):
            yield size


def slices(stream: memoryview, groups: Groups) -> list[memoryview]:
    """`stream` as parts, borrowed."""
    parts: list[memoryview] = []
    at = 0
    for size in sizes(groups):
        parts.append(stream[at : at + size])
        at += size
    return parts


def checksum(part: memoryview) -> int:
    """The checksum of a part; releases the GIL."""
    return xxhash.xxh3_64_intdigest(part)


def scatter(buffers: Sequence[memoryview], targets: Sequence[memoryview]) -> None:
    """Copy `buffers`, one after another, over `targets`, which together have room; releases the GIL."""
    pending = iter(targets)
    target, at = memoryview(b""), 0
    for buffer in buffers:
        begin = 0
        while begin < len(buffer):
            if at == len(target):
                target, at = next(pending), 0
                continue
            size = min(len(buffer) - begin, len(target) - at)
            np.copyto(
                np.frombuffer(target[at : at + size], np.uint8), np.frombuffer(buffer[begin : begin + size], np.uint8)
            )
            begin += size
            at += size
