"""Two exponents in one byte: half the symbols for the entropy coder, and a little better ratio.

Nearly all exponents of a block lie in a window of 16 binades. Their offsets take a nibble each, beside that of the same
place in the next row; the few exponents outside are listed apart with their positions, and their nibbles mean nothing.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lms_tiers.codecs.scratch import Bytes, scratch
from lms_tiers.codecs.weave import Float, Words, shift, spread

WINDOW: Final = 16
#: Exceptions take 5 bytes each: above one in 400 a block is coded another way.
RARE: Final = 400
#: Values looked at to place the window.
_SAMPLE: Final = 2048
#: Bytes searched for an exception at once.
_RUN: Final = 512
UNSIGNED: Final[dict[int, type[np.unsignedinteger[Any]]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Values = npt.NDArray[Any]
Positions = npt.NDArray[np.intp]


def take_pairs(kind: Float, values: Values, rows: int, pairs: Words) -> tuple[int, Positions] | None:
    """Exponents of `values`, in `rows` rows, as pairs.

    Returns
    -------
    tuple of int and array, or None
        The exponent that nibble 0 stands for, and where the exceptions are; None where those are too many.
    """
    base, at = 0, np.empty(0, np.intp)
    offsets = scratch("offsets", values.nbytes)
    words = offsets.view(np.uint64)
    if kind.bits > 4:
        base = _window(kind, values)
        np.subtract(values, values.dtype.type(base << kind.shift), out=offsets.view(values.dtype))
        found = _exceptions(kind, words, values.dtype)
        if found is None or len(found) > len(values) // RARE:
            return None
        at = found
        np.bitwise_and(words, spread(kind.nibble, kind.width), out=words)
    else:
        np.bitwise_and(values.view(np.uint64), spread(kind.nibble, kind.width), out=words)
    each = 2 * kind.width  # as many nibbles as a value has
    table = words.reshape(rows // each, each, -1)
    out = pairs.reshape(rows // each, -1)
    more = scratch("piece", out.nbytes).view(np.uint64).reshape(out.shape)
    for i in range(each):
        shift(table[:, i], 4 * i - kind.shift, more if i else out)
        if i:
            np.bitwise_or(out, more, out=out)
    return base, at


def put_pairs(kind: Float, pairs: Words, base: int, rows: int, values: Words) -> None:
    """Exponents, and nothing else, into `values`."""
    each = 2 * kind.width
    source = pairs.reshape(rows // each, -1)
    table = values.reshape(rows // each, each, -1)
    for i in range(each):
        shift(source, kind.shift - 4 * i, table[:, i])
    np.bitwise_and(values, spread(kind.nibble, kind.width), out=values)
    if base:
        flat = values.view(UNSIGNED[kind.width])
        np.add(flat, flat.dtype.type(base << kind.shift), out=flat)


def put_exceptions(kind: Float, positions: npt.NDArray[Any], exponents: Bytes, values: Values) -> bool:
    """Exponents outside the window into complete values; False where one is no exponent or has no place."""
    if not len(positions):
        return True
    if int(positions.max()) >= len(values) or int(exponents.max()) >> kind.bits:
        return False
    at = positions.astype(np.intp)
    word = values.dtype.type
    rest = word(((1 << 8 * kind.width) - 1) ^ kind.field)
    values[at] = (values[at] & rest) | (exponents.astype(values.dtype) << word(kind.shift))
    return True


def exponents_at(kind: Float, at: Positions, values: Values) -> Bytes:
    """The whole exponents of some values."""
    word = values.dtype.type
    found: Bytes = ((values[at] & word(kind.field)) >> word(kind.shift)).astype(np.uint8)
    return found


def _window(kind: Float, values: Values) -> int:
    """The exponent at which the window of 16 begins that holds most of a sample."""
    sample = values[:: max(len(values) // _SAMPLE, 1)]
    word = values.dtype.type
    fields = (sample & word(kind.field)) >> word(kind.shift)
    sums = np.zeros((1 << kind.bits) + 1, np.int64)
    np.cumsum(np.bincount(fields, minlength=1 << kind.bits), out=sums[1:])
    held = sums[WINDOW:] - sums[:-WINDOW]
    best = np.flatnonzero(held == held.max())
    return int(best[len(best) // 2])  # what the sample has not seen lies beyond either end


def _exceptions(kind: Float, offsets: Words, dtype: np.dtype[Any]) -> Positions | None:
    """Where an offset leaves the nibble; None where that is in too many places to look at each."""
    outside = kind.field ^ kind.nibble
    runs = offsets[: len(offsets) // (_RUN // 8) * (_RUN // 8)].reshape(-1, _RUN // 8)
    some = np.flatnonzero(np.bitwise_or.reduce(runs, axis=1) & spread(outside, kind.width))
    if len(some) * _RUN > offsets.nbytes // 2 + _RUN:
        return None
    # Then to words, then to values: nonzero is fast on flat truth values and slow on anything else.
    hits = (runs[some] & spread(outside, kind.width)).reshape(-1)
    rest = offsets[runs.size :] & spread(outside, kind.width)
    place = (some[:, None] * (_RUN // 8) + np.arange(_RUN // 8)).reshape(-1)
    hits, place = np.concatenate([hits, rest]), np.concatenate([place, np.arange(runs.size, len(offsets))])
    full = np.flatnonzero(hits != np.uint64(0))
    each = 8 // kind.width
    word, column = np.divmod(np.flatnonzero(hits[full].view(dtype) != dtype.type(0)), each)
    found: Positions = place[full][word] * each + column
    return found
