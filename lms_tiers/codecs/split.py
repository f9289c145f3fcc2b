"""Splitting 16-bit values into the plane that is coded and the residual plane, and back, at memory speed.

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


def split_words(values: Words, shift: int, rest: Bytes) -> tuple[Bytes, int]:
    """Bits ``shift`` to ``shift + 7`` of m values (m even) as a plane (scratch memory), the others into `rest`.

    Both have m bytes; the number is the one byte that `rest` leaves over.
    """
    plane = scratch("plane", len(values))
    np.right_shift(values, np.uint16(shift), out=plane, casting="unsafe")
    if shift == 8:
        np.copyto(rest, values, casting="unsafe")
        return plane, 0
    m = len(values)
    data = values.view(np.uint8)
    np.bitwise_xor(data[:m], data[m - 1 : -1], out=rest)
    return plane, int(data[-1])


def merge_words(plane: Bytes, rest: Bytes, last: int, shift: int, values: Words) -> None:
    """Undo `split_words` into `values`."""
    np.copyto(values, plane)
    np.multiply(values, np.uint16(1 << shift), out=values)  # a multiplication: numpy's shift is half as fast
    if shift == 8:
        np.bitwise_or(values, rest, out=values)
        return
    m = len(values)
    half = m // 2
    data = values.view(np.uint8)
    # `values` holds all exponents in place; XOR removes those of the second half from the residual of the first.
    known = scratch("merge", m)
    np.bitwise_xor(rest, data[m - 1 : -1], out=known)
    bits = known.view(np.uint16)
    np.bitwise_and(bits, _NOISE, out=bits)
    np.bitwise_or(values[:half], bits, out=values[:half])
    # The first half is complete: it gives the second. (Byte 0 of the residual was for the first half's last byte.)
    np.bitwise_xor(rest[1:], data[1:m], out=data[m:-1])
    data[-1] = last
