"""Splitting 16-bit lanes into an exponent plane and a residual plane, and back, at memory speed.

The exponents of KV values take 2.7 bits of 8, sign and mantissa are noise. numpy has no fast interleave, so the
residual plane is not the packed sign and mantissa bits: it is one XOR of the block's first half with its second half,
shifted by one byte. There every byte meets a byte of the other kind (high with low), and of the 16 bits of such a pair
the exponent plane knows exactly those that the other byte does not, so the exponents undo the XOR.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from lms_tiers.codecs.scratch import Bytes, scratch

Words = npt.NDArray[np.uint16]

#: Bits of a lane that the residual must bring back, by the shift that cut the exponent plane out:
#: 7 leaves sign and 7 low bits (bfloat16: the mantissa), 8 the low byte. A byte swap of each is its complement.
RESIDUAL_MASK: Final = {7: np.uint16(0x807F), 8: np.uint16(0x00FF)}


def exponents(lane: Words, shift: int, out: Bytes) -> None:
    """Bits ``shift`` to ``shift + 7`` of each of the lane's values."""
    np.right_shift(lane, np.uint16(shift), out=out, casting="unsafe")


def residual(lane: Words, out: Bytes) -> int:
    """The residual plane of a lane of m values (m even) into `out` (m bytes); returns the one byte it leaves over."""
    m = len(lane)
    data = lane.view(np.uint8)
    np.bitwise_xor(data[:m], data[m - 1 : -1], out=out)
    return int(data[-1])


def merge(plane: Bytes, rest: Bytes, last: int, shift: int, lane: Words) -> None:
    """Undo `exponents` and `residual` into `lane`."""
    m = len(lane)
    half = m // 2
    data = lane.view(np.uint8)
    np.copyto(lane, plane)
    np.multiply(lane, np.uint16(1 << shift), out=lane)  # a multiplication: numpy's shift is half as fast
    # `lane` holds all exponents in place; XOR removes those of the second half from the residual of the first.
    known = scratch("merge", m)
    np.bitwise_xor(rest, data[m - 1 : -1], out=known)
    bits = known.view(np.uint16)
    np.bitwise_and(bits, RESIDUAL_MASK[shift], out=bits)
    np.bitwise_or(lane[:half], bits, out=lane[:half])
    # The first half is complete: it gives the second. (Byte 0 of the residual was for the first half's last byte.)
    np.bitwise_xor(rest[1:], data[1:m], out=data[m:-1])
    data[-1] = last


def take_lane(values: npt.NDArray[np.unsignedinteger], index: int, out: Words) -> None:
    """Lane `index` (0: the lowest 16 bits) of wider values."""
    if index:
        np.right_shift(values, values.dtype.type(16 * index), out=out, casting="unsafe")
    else:
        np.copyto(out, values, casting="unsafe")


def put_lanes(lanes: list[Words], values: npt.NDArray[np.unsignedinteger]) -> None:
    """Wider values from their lanes, the highest first."""
    wide = values.dtype.type
    np.copyto(values, lanes[0])
    more = scratch("lanes", values.nbytes).view(values.dtype)
    for lane in lanes[1:]:
        np.multiply(values, wide(1 << 16), out=values)
        np.copyto(more, lane)
        np.bitwise_or(values, more, out=values)
