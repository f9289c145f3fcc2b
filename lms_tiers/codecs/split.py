"""Splitting 16-bit lanes into the plane that is coded and the residual plane, and back, at memory speed.

With `shift` 8 these are the high and the low byte. With `shift` 7 the coded plane is the whole exponent of a bfloat16;
numpy has no fast interleave, so there the residual is not the packed sign and mantissa bits: it is one XOR of the
block's first half with its second half, shifted by one byte. There every byte meets a byte of the other kind (high with
low), and of the 16 bits of such a pair the exponent plane knows exactly those that the other byte does not, so the
exponents undo the XOR.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from lms_tiers.codecs.scratch import Bytes, scratch

Words = npt.NDArray[np.uint16]

SHIFTS: Final = (7, 8)
#: Sign and mantissa of a bfloat16. A byte swap of it is its complement.
_NOISE: Final = np.uint16(0x807F)


def split(lane: Words, shift: int, plane: Bytes, rest: Bytes) -> int:
    """Bits ``shift`` to ``shift + 7`` of m values (m even) into `plane`, the others into `rest`, m bytes each.

    Returns the one byte that `rest` leaves over.
    """
    np.right_shift(lane, np.uint16(shift), out=plane, casting="unsafe")
    if shift == 8:
        np.copyto(rest, lane, casting="unsafe")
        return 0
    m = len(lane)
    data = lane.view(np.uint8)
    np.bitwise_xor(data[:m], data[m - 1 : -1], out=rest)
    return int(data[-1])


def merge(plane: Bytes, rest: Bytes, last: int, shift: int, lane: Words) -> None:
    """Undo `split` into `lane`."""
    np.copyto(lane, plane)
    np.multiply(lane, np.uint16(1 << shift), out=lane)  # a multiplication: numpy's shift is half as fast
    if shift == 8:
        np.bitwise_or(lane, rest, out=lane)
        return
    m = len(lane)
    half = m // 2
    data = lane.view(np.uint8)
    # `lane` holds all exponents in place; XOR removes those of the second half from the residual of the first.
    known = scratch("merge", m)
    np.bitwise_xor(rest, data[m - 1 : -1], out=known)
    bits = known.view(np.uint16)
    np.bitwise_and(bits, _NOISE, out=bits)
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
    step = values.dtype.type(1 << 16)
    np.copyto(values, lanes[0])
    for lane in lanes[1:]:
        np.multiply(values, step, out=values)
        np.bitwise_or(values, lane, out=values)
