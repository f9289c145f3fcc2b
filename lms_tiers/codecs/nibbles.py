"""Splitting values of one byte with exponents of four bits: two exponents in each byte of the coded plane.

zstd takes as long for a byte of eight bits of information as for one of three, so half as many bytes are twice as
fast. Partners are one row apart. The nibbles of the second swapped, its exponent lies where the first has noise: one
mask gathers both exponents, and the XOR of the two is the noise, of which the exponents know what was added.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from lms_tiers.codecs.scratch import Bytes, scratch

#: Bytes of a row: a multiple of the usual sizes of a head, so that partners belong to one channel of nearby tokens.
ROW: Final = 768
_EXPONENT: Final = np.uint8(0x78)
#: Sign and mantissa: the exponent with its nibbles swapped.
_NOISE: Final = np.uint8(0x87)
_BITS: Final = np.uint8(4)
#: A multiplication shifts to the left: numpy's own shift of bytes takes eight times as long.
_LEFT: Final = np.uint8(16)


def split_nibbles(data: Bytes, noise: Bytes) -> Bytes:
    """The exponents of pairs of rows (scratch memory), and their signs and mantissas into `noise`."""
    size = len(noise)
    first, second = _rows(data)
    swapped, plane = scratch("masked", size), scratch("plane", size)
    # Rows are slow to calculate with and fast to copy, and shifting bytes in place takes three times as long.
    np.copyto(plane.reshape(-1, ROW), second)
    np.multiply(plane, _LEFT, out=swapped)
    np.right_shift(plane, _BITS, out=noise)
    np.bitwise_or(swapped, noise, out=swapped)
    np.bitwise_xor(first, swapped.reshape(-1, ROW), out=noise.reshape(-1, ROW))
    # The exponents of the first stand in the noise as well, with the second added.
    np.bitwise_and(noise, _EXPONENT, out=plane)
    np.bitwise_xor(plane, swapped, out=plane)
    return plane


def merge_nibbles(coded: Bytes, noise: Bytes, data: Bytes) -> None:
    """Undo `split_nibbles` into `data`; `coded` is used up."""
    size = len(coded)
    first, second = _rows(data)
    values, swapped = scratch("masked", size), scratch("turned", size)
    np.bitwise_and(noise, _NOISE, out=values)
    np.bitwise_xor(values, coded, out=values)
    np.copyto(first, values.reshape(-1, ROW))
    np.bitwise_xor(values, noise, out=values)
    np.multiply(values, _LEFT, out=swapped)
    np.right_shift(values, _BITS, out=coded)
    np.bitwise_or(coded, swapped, out=coded)
    np.copyto(second, coded.reshape(-1, ROW))


def _rows(data: Bytes) -> tuple[Bytes, Bytes]:
    pairs = data.reshape(-1, 2, ROW)
    return pairs[:, 0], pairs[:, 1]
