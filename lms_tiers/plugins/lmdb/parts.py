"""How a value is cut into parts, and how parts are checked and copied back.

LMDB needs one contiguous run of pages for a big value, and whole values fragment the file until it is slow and full.
Parts of one fixed size leave holes that the next part fits into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import xxhash

Buffer: TypeAlias = bytes | bytearray | memoryview

#: LMDB puts this header before a value that has pages of its own.
RUN_HEADER: Final = 16
#: Pages of a full part. Measured in benchmarks/lmdb_parts.py: small parts churn well, large ones read fast.
PART_PAGES: Final = 16

Groups: TypeAlias = tuple[tuple[int, int], ...]


def cut(length: int, page: int) -> Groups:
    """The parts of a value of `length` bytes, as runs of (count, size): each fills its pages, but the last."""
    full = PART_PAGES * page - RUN_HEADER
    count, rest = divmod(length, full)
    groups: list[tuple[int, int]] = []
    if count:
        groups.append((count, full))
    if rest:
        groups.append((1, rest))
    return tuple(groups)


def sizes(groups: Groups) -> Iterator[int]:
    """The size of each part, in order."""
    for count, size in groups:
        for _ in range(count):
            yield size


def slices(buffers: Sequence[Buffer], groups: Groups) -> list[Buffer]:
    """The bytes of `buffers`, one after another, as parts: borrowed where a part lies in one buffer, else joined."""
    if len(buffers) == 1:
        view = memoryview(buffers[0])
        ends = np.cumsum(np.fromiter(sizes(groups), np.int64)).tolist()
        return [view[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
    parts: list[Buffer] = []
    queue = iter(buffers)
    current, at = memoryview(b""), 0
    for size in sizes(groups):
        pieces: list[Buffer] = []
        while size:
            if at == len(current):
                current, at = memoryview(next(queue)), 0
                continue
            piece = current[at : at + size]
            pieces.append(piece)
            at += len(piece)
            size -= len(piece)
        parts.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
    return parts


def checksum(part: Buffer) -> int:
    """The checksum of a part; releases the GIL."""
    return xxhash.xxh3_64_intdigest(part)
