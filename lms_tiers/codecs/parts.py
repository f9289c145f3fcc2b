"""Splitting values of four or eight bytes into exponents and planes of noise, and back, in few passes over memory.

Taking values apart and putting them together byte by byte is what numpy is slow at. So the block is cut into *parts*,
one for each byte of a value, each turned by one byte more than the last, so that the exponents of each part lie where
the other parts have noise. One mask for each part gathers the exponents of them all in one plane, and the XOR of a part
with the first is a plane of noise: of each of its bits the coded plane knows one of the two that were added.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np

from lms_tiers.codecs.scratch import Bytes, scratch

Word: TypeAlias = np.unsignedinteger[Any]

WORDS: Final[dict[int, type[Word]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}
#: Parts are multiples of this.
GRAIN: Final = 64
#: An exponent begins at this bit of the top 16, and the plane of them at this bit of the first part.
SHIFT: Final = 7
_FORTH: Final = np.uint64(SHIFT)
_BACK: Final = np.uint64(64 - SHIFT)


def part_bytes(length: int, width: int) -> int:
    """The length of a part of a block of `length` bytes."""
    return (length + width - 1) // (width * GRAIN) * GRAIN


def covered(part: int, width: int) -> int:
    """How many bytes the parts cover: each begins at the last byte of the one before."""
    return width * part - (width - 1)


@lru_cache(maxsize=16)
def _masks(width: int) -> list[Word]:
    """Where the exponents of parts 1 … width - 1 lie: those of part 0, turned by a byte for each part."""
    bits = 8 * width
    first = 0xFF << (bits - 16 + SHIFT)
    return [WORDS[width]((first << 8 * k | first >> bits - 8 * k) & (1 << bits) - 1) for k in range(1, width)]


def split_parts(data: Bytes, width: int, noise: Bytes) -> Bytes:
    """The exponents of ``covered(part, width)`` bytes (scratch memory), and ``width - 1`` planes into `noise`."""
    size = len(noise) // (width - 1)
    word = WORDS[width]
    first = coded = data[:size]
    plane, masked = scratch("plane", size), scratch("masked", size)
    for k, mask in enumerate(_masks(width), 1):
        begin = k * (size - 1)
        rest = noise[(k - 1) * size : k * size]
        np.bitwise_xor(first, data[begin : begin + size], out=rest)
        np.bitwise_and(rest.view(word), mask, out=masked.view(word))
        np.bitwise_xor(coded, masked, out=plane)
        coded = plane
    # The plane is one string of bits in which every eighth from bit 7 begins an exponent: turn it by 7 bits.
    words, over = plane.view(np.uint64), masked.view(np.uint64)
    turned = scratch("turned", size)
    out = turned.view(np.uint64)
    np.right_shift(words, _FORTH, out=out)
    np.left_shift(words, _BACK, out=over)
    np.bitwise_or(out[:-1], over[1:], out=out[:-1])
    out[-1] |= over[0]
    return turned


def merge_parts(coded: Bytes, noise: Bytes, width: int, data: Bytes) -> None:
    """Undo `split_parts` into the whole of `data`."""
    size = len(coded)
    word = WORDS[width]
    masked = scratch("masked", size)
    words, over = coded.view(np.uint64), masked.view(np.uint64)
    coded = scratch("turned", size)
    out = coded.view(np.uint64)
    np.left_shift(words, _FORTH, out=out)
    np.right_shift(words, _BACK, out=over)
    np.bitwise_or(out[1:], over[:-1], out=out[1:])
    out[0] |= over[-1]
    first = data[:size]
    for k, mask in enumerate(_masks(width)):
        np.bitwise_and(noise[k * size : (k + 1) * size].view(word), mask, out=masked.view(word))
        np.bitwise_xor(coded, masked, out=first)
        coded = first
    for k in range(1, width):
        # The first byte is there already; writing it again would make numpy copy for the overlap.
        begin = k * (size - 1)
        np.bitwise_xor(first[1:], noise[(k - 1) * size + 1 : k * size], out=data[begin + 1 : begin + size])
