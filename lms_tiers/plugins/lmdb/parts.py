"""How a value is cut into parts, and how parts are copied back.

LMDB needs one contiguous run of pages for a big value, and whole values fragment the file until it is slow and full.
Parts of one fixed size leave holes that the next part fits into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np

#: LMDB puts this header before a value that has pages of its own.
RUN_HEADER: Final = 16
#: Pages of a part: full ones first, the rest of a value in ever smaller ones. Chosen by measuring churn and reads:
#: large parts read fast, and small ones fill the holes that a rest of any other size would leave.
PART_PAGES: Final = (64, 16, 4, 1)
#: Finer cuts, tried one after another for a file whose free pages lie scattered. The last needs no two together.
FINER_PAGES: Final = ((4, 1), (1,))
#: A rest of at most so many bytes is no part: it lies in the chunk's manifest. Parts of whole pages leave 16 bytes
#: of every 64 KiB or 256 KiB of a chunk, so that this is the rest of nearly all chunks of usual sizes.
TAIL_MOST: Final = 512

Groups: TypeAlias = tuple[tuple[int, int], ...]


def cut(length: int, page: int, pages: tuple[int, ...] = PART_PAGES, *, tail: int = 0) -> Groups:
    """The parts of a value of `length` bytes, as runs of (count, size): each but the last fills its pages.

    A rest of at most `tail` bytes is left over.

    Examples
    --------
    >>> cut(2 << 20, 4096)
    ((8, 262128), (1, 128))
    >>> cut(2 << 20, 4096, tail=TAIL_MOST)
    ((8, 262128),)
    """
    groups: list[tuple[int, int]] = []
    for run in pages:
        full = run * page - RUN_HEADER
        count, length = divmod(length, full)
        if count:
            groups.append((count, full))
    if length > tail:
        groups.append((1, length))
    return tuple(groups)


def sizes(groups: Groups) -> Iterator[int]:
    """The size of each part, in order."""
    for count, size in groups:
        for _ in range(count):
            yield size


def slices(stream: memoryview, groups: Groups) -> list[memoryview]:
    """`stream` as parts, borrowed; what the groups leave over is not among them."""
    parts: list[memoryview] = []
    at = 0
    for size in sizes(groups):
        parts.append(stream[at : at + size])
        at += size
    return parts


def gather(parts: Sequence[memoryview], tail: bytes, target: memoryview) -> None:
    """Copy `parts` and `tail`, one after another, over the whole of `target`; releases the GIL."""
    at = len(target) - len(tail)
    if parts:
        np.concatenate([np.frombuffer(part, np.uint8) for part in parts], out=np.frombuffer(target[:at], np.uint8))
    target[at:] = tail
