"""Taking exponents out of floats: what is left, sign and mantissa, is woven without gaps, at memory speed.

Values lie in rows. A group of rows is `hosts` and `guests`: an exponent leaves a hole in each value of a host row, and
the signs and mantissas of the guest rows fill the holes exactly. Everything runs on eight bytes at a time, whatever the
width of a value: numpy has no fast interleave, but it shifts and masks whole rows as fast as it copies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lms_tiers.codecs.scratch import scratch

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Fragment:
    """Bits of `rows` guest rows, beginning at row `guest`, that go to as many host rows, beginning at row `host`.

    `left` is how far they are shifted up (negative: down), `mask` their place in the host value.
    """

    host: int
    guest: int
    rows: int
    left: int
    mask: int


@dataclass(frozen=True, slots=True)
class Float:
    """How one kind of float is taken apart: `bits` exponent bits from bit `shift` of a value of `width` bytes."""

    code: int
    width: int
    shift: int
    bits: int
    hosts: int
    guests: int
    fragments: tuple[Fragment, ...]

    @property
    def rows(self) -> int:
        """Rows in a group."""
        return self.hosts + self.guests

    @property
    def field(self) -> int:
        """The exponent's bits in a value."""
        return ((1 << self.bits) - 1) << self.shift

    @property
    def nibble(self) -> int:
        """The four lowest of them."""
        return 15 << self.shift


#: By dtype. The codes are part of the layout on disk.
BFLOAT16: Final = Float(1, 2, 7, 8, 2, 2, (Fragment(0, 0, 2, 8, 0x7F00), Fragment(0, 0, 2, -8, 0x0080)))
FLOAT16: Final = Float(
    2, 2, 10, 5, 11, 5,
    (Fragment(0, 0, 5, 10, 0x7C00), Fragment(5, 0, 5, 5, 0x7C00),
     *(Fragment(10, i, 1, -1 - i, 0x4000 >> i) for i in range(5))),
)  # fmt: skip
FLOAT32: Final = Float(
    3, 4, 23, 8, 6, 2,
    (Fragment(0, 0, 2, 23, 0x7F800000), Fragment(2, 0, 2, 15, 0x7F800000), Fragment(4, 0, 2, 7, 0x3F800000),
     Fragment(4, 0, 2, -1, 0x40000000)),
)  # fmt: skip
E5M2: Final = Float(
    4, 1, 2, 5, 3, 5,
    (Fragment(0, 0, 3, 2, 0x0C), Fragment(0, 3, 2, 4, 0x30), Fragment(0, 0, 3, -1, 0x40), Fragment(2, 3, 1, -2, 0x20),
     Fragment(2, 4, 1, -3, 0x10)),
)  # fmt: skip
E4M3: Final = Float(5, 1, 3, 4, 1, 1, (Fragment(0, 0, 1, 4, 0x70), Fragment(0, 0, 1, -4, 0x08)))
FLOATS: Final = {kind.code: kind for kind in (BFLOAT16, FLOAT16, FLOAT32, E5M2, E4M3)}


def spread(mask: int, width: int) -> np.uint64:
    """A mask of one value, for all values in eight bytes."""
    return np.uint64(int.from_bytes(mask.to_bytes(width, "little") * (8 // width), "little"))


def shift(source: Words, left: int, out: Words) -> None:
    """`source` shifted up by `left` bits, or down where that is negative; bits cross into neighbouring values."""
    if left > 0:
        np.left_shift(source, np.uint64(left), out=out)
    elif left < 0:
        np.right_shift(source, np.uint64(-left), out=out)
    else:
        np.copyto(out, source)


def weave(kind: Float, values: Words, out: Words) -> None:
    """Signs and mantissas of `values` (groups, rows, words) into `out` (groups, hosts, words)."""
    groups, _, words = values.shape
    np.bitwise_and(values[:, : kind.hosts], spread(_hole(kind), kind.width), out=out)
    for bit in kind.fragments:
        piece = _piece(groups, bit.rows, words)
        first = kind.hosts + bit.guest
        shift(values[:, first : first + bit.rows], bit.left, piece)
        np.bitwise_and(piece, spread(bit.mask, kind.width), out=piece)
        host = out[:, bit.host : bit.host + bit.rows]
        np.bitwise_or(host, piece, out=host)


def unweave(kind: Float, woven: Words, values: Words) -> None:
    """Undo `weave`: OR signs and mantissas into `values`, which hold exponents and nothing else."""
    groups, _, words = values.shape
    piece = _piece(groups, kind.hosts, words)
    np.bitwise_and(woven, spread(_hole(kind), kind.width), out=piece)
    host = values[:, : kind.hosts]
    np.bitwise_or(host, piece, out=host)
    for bit in kind.fragments:
        piece = _piece(groups, bit.rows, words)
        np.bitwise_and(woven[:, bit.host : bit.host + bit.rows], spread(bit.mask, kind.width), out=piece)
        shift(piece, -bit.left, piece)
        first = kind.hosts + bit.guest
        guest = values[:, first : first + bit.rows]
        np.bitwise_or(guest, piece, out=guest)


def _hole(kind: Float) -> int:
    """What a host keeps: all but its exponent."""
    return ((1 << 8 * kind.width) - 1) ^ kind.field


def _piece(groups: int, rows: int, words: int) -> Words:
    array: npt.NDArray[Any] = scratch("piece", groups * rows * words * 8).view(np.uint64)
    return array.reshape(groups, rows, words)
