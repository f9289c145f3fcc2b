"""Two exponents in one byte: half the symbols for the entropy coder, and a little better ratio.

Nearly all exponents of a block lie in a window of 16 binades. Their offsets take a nibble each, the first half of the
plane in the low nibbles, the second half in the high ones; the few exponents outside are listed apart with their
positions, and their nibbles mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lms_tiers.codecs.scratch import Bytes, scratch

WINDOW: Final = 16
#: Exceptions take 3 bytes each: above one in 256 the plain exponent plane is smaller.
RARE: Final = 256
#: Positions within a half are 16 bits wide.
MAX_PAIRS: Final = 1 << 16

# Bytes are handled eight at a time: numpy's operations on uint64 are as fast per byte, and shifts faster.
_LOW: Final = np.uint64(0x0F0F0F0F0F0F0F0F)
_HIGH: Final = np.uint64(0xF0F0F0F0F0F0F0F0)
_FOUR: Final = np.uint64(4)
_ZERO: Final = np.uint64(0)


@dataclass(frozen=True, slots=True)
class Paired:
    """An exponent plane as pairs.

    Attributes
    ----------
    base : int
        The exponent that nibble 0 stands for.
    pairs : array
        Scratch of the thread.
    low : int
        How many exceptions are in the first half.
    positions : array of uint16
        Within their half, ascending; those of the first half first.
    values : array of uint8
    """

    base: int
    pairs: Bytes
    low: int
    positions: npt.NDArray[np.uint16]
    values: Bytes


def pair(plane: Bytes) -> Paired | None:
    """Pair the exponents of a plane (length a multiple of 16), or None where too many fall outside any window."""
    m = len(plane)
    half = m // 2
    if half > MAX_PAIRS:
        return None
    offsets = scratch("offsets", m)
    base = max(int(plane.max()) - WINDOW + 1, 0)
    at = _exceptions(plane, base, offsets)
    if at is None:
        counts = np.bincount(plane[:: max(m // 4096, 1)], minlength=255 + WINDOW)
        base = int(np.argmax(np.convolve(counts, np.ones(WINDOW, np.int64), "valid")))
        at = _exceptions(plane, base, offsets)
        if at is None:
            return None
    pairs = scratch("pairs", half)
    wide = pairs.view(np.uint64)
    first, second = offsets[:half].view(np.uint64), offsets[half:].view(np.uint64)
    np.left_shift(second, _FOUR, out=wide)
    np.bitwise_and(wide, _HIGH, out=wide)
    np.bitwise_and(first, _LOW, out=first)
    np.bitwise_or(wide, first, out=wide)
    low = int(np.searchsorted(at, half))
    values = plane[at]
    at[low:] -= half
    return Paired(base, pairs, low, at.astype("<u2"), values)


def unpair(pairs: Bytes, base: int, low: int, positions: npt.NDArray[Any], values: Bytes, plane: Bytes) -> bool:
    """Undo `pair` into `plane`; False where a position lies outside its half."""
    half = len(pairs)
    wide = pairs.view(np.uint64)
    first, second = plane[:half].view(np.uint64), plane[half:].view(np.uint64)
    np.bitwise_and(wide, _LOW, out=first)
    np.right_shift(wide, _FOUR, out=second)
    np.bitwise_and(second, _LOW, out=second)
    np.add(plane, np.uint8(base), out=plane)
    if len(positions):
        at = positions.astype(np.intp)
        if int(at.max()) >= half:
            return False
        at[low:] += half
        plane[at] = values
    return True


def _exceptions(plane: Bytes, base: int, offsets: Bytes) -> npt.NDArray[np.intp] | None:
    """Offsets from `base` into `offsets`, and where they leave the window; None where those are too many."""
    np.subtract(plane, np.uint8(base), out=offsets)  # below the base wraps round to far above it
    words = scratch("outside", len(offsets)).view(np.uint64)
    np.bitwise_and(offsets.view(np.uint64), _HIGH, out=words)
    # Exceptions are rare: looking for words that hold some first is three times faster than for bytes.
    some = np.flatnonzero(np.not_equal(words, _ZERO))
    limit = len(plane) // RARE
    if len(some) > limit:
        return None
    row, column = np.nonzero(words[some].view(np.uint8).reshape(-1, 8))
    return (some[row] << 3) + column if len(row) <= limit else None
