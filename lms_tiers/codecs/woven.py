"""The block of floats: exponents entropy coded in pairs, signs and mantissas as they are, woven without gaps."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lms_tiers.codecs.entropy import TABLE_OF_PAIRS, expand, shrink
from lms_tiers.codecs.pairs import UNSIGNED, exponents_at, put_exceptions, put_pairs, take_pairs
from lms_tiers.codecs.scratch import Bytes, scratch
from lms_tiers.codecs.weave import FLOATS, Float, unweave, weave
from lms_tiers.errors import CodecError

MODE: Final = 3
#: Values in a row where there are enough: a multiple of many a model's hidden size, so that the two exponents of a pair
#: belong to one channel and resemble each other.
ROW: Final = 768
#: Rows are cut on multiples of this many values, so that they are whole words of eight bytes.
_STEP: Final = 8
_HEAD: Final = struct.Struct("<BBBBIIHH")  # mode, kind, base, padding, frame bytes, exceptions, groups, values in a row


def encode_woven(kind: Float, data: memoryview, out: memoryview) -> int:
    """Encode a block into `out`; returns its length, or 0 where another form would be smaller."""
    total = len(data) // kind.width
    groups = max(total // (kind.rows * ROW), 1)
    row = total // (groups * kind.rows) // _STEP * _STEP
    if not row:
        return 0
    rows = groups * kind.rows
    count = rows * row
    values = _aligned(np.frombuffer(data, UNSIGNED[kind.width], count), "values")
    pairs = scratch("pairs", count // 2).view(np.uint64)
    taken = take_pairs(kind, values, rows, pairs)
    if taken is None:
        return 0
    base, at = taken
    frame = shrink(pairs.view(np.uint8).data, TABLE_OF_PAIRS)
    noise = groups * kind.hosts * row * kind.width
    tail = data[count * kind.width :]
    exceptions = at.astype("<u4").tobytes() + exponents_at(kind, at, values).tobytes()
    end = _HEAD.size + noise + len(exceptions) + len(frame) + len(tail)
    if _padded(end) >= len(data):
        return 0
    rest = np.frombuffer(out, np.uint8, noise, _HEAD.size)
    target = rest.view(np.uint64)
    aligned = target if target.flags.aligned else scratch("woven", noise).view(np.uint64)
    words = values.view(np.uint64).reshape(groups, kind.rows, -1)
    weave(kind, words, aligned.reshape(groups, kind.hosts, -1))
    if aligned is not target:
        np.copyto(target, aligned)
    if not is_noise(rest):
        return 0
    out[: _HEAD.size] = _HEAD.pack(MODE, kind.code, base, _padded(end) - end, len(frame), len(at), groups, row)
    place = _HEAD.size + noise
    for piece in (exceptions, frame, tail, bytes(_padded(end) - end)):
        out[place : place + len(piece)] = piece
        place += len(piece)
    return place


def decode_woven(block: memoryview, target: Bytes, layout: str) -> None:
    """Decode a block into the whole of `target`.

    Raises
    ------
    CodecError
        Not a block of that many bytes.
    """
    if len(block) < _HEAD.size:
        raise CodecError(layout, "the block ends within its header.")
    _, code, base, padding, frame_bytes, exceptions, groups, row = _HEAD.unpack_from(block)
    kind = FLOATS.get(code)
    if kind is None or base > max((1 << kind.bits) - 16, 0):
        raise CodecError(layout, f"floats of kind {code} from {base}, which this version does not know.")
    rows = groups * kind.rows
    count = rows * row
    tail = len(target) - count * kind.width
    noise = groups * kind.hosts * row * kind.width
    end = _HEAD.size + noise + 5 * exceptions + frame_bytes + tail
    if (
        not count
        or row % _STEP
        or tail < 0
        or _padded(end) != len(block)
        or padding != len(block) - end
        or any(block[end:])
    ):
        raise CodecError(layout, f"{len(block)} bytes where its header says otherwise.")

    at = _HEAD.size + noise
    positions = np.frombuffer(block, "<u4", exceptions, at)
    exponents = np.frombuffer(block, np.uint8, exceptions, at + 4 * exceptions)
    at += 5 * exceptions
    pairs = expand(block[at : at + frame_bytes], count // 2, layout).view(np.uint64)
    woven = _aligned(np.frombuffer(block, np.uint64, noise // 8, _HEAD.size), "woven")
    body = target[: count * kind.width].view(UNSIGNED[kind.width])
    whole = body.view(np.uint64).flags.aligned
    values = body if whole else scratch("values", count * kind.width).view(body.dtype)
    words = values.view(np.uint64)
    put_pairs(kind, _aligned(pairs, "pairs"), base, rows, words)
    unweave(kind, woven.reshape(groups, kind.hosts, -1), words.reshape(groups, kind.rows, -1))
    if not put_exceptions(kind, positions, exponents, values):
        raise CodecError(layout, "an exception lies outside the block.")
    if not whole:
        np.copyto(body, values)
    if tail:
        target[count * kind.width :] = np.frombuffer(block, np.uint8, tail, at + frame_bytes)


def is_noise(plane: Bytes) -> bool:
    """Whether a sample of a plane says that entropy coding saves next to nothing."""
    begin = len(plane) // 3
    sample = plane[begin : begin + 1024]
    return 8 * len(shrink(sample.data)) > 7 * len(sample)


def _aligned(values: npt.NDArray[Any], use: str) -> npt.NDArray[Any]:
    """`values`, or a copy where their address is odd: numpy works several times slower on such."""
    if values.ctypes.data % 8 == 0:
        return values
    copy = scratch(use, values.nbytes).view(values.dtype)
    np.copyto(copy, values)
    return copy


def _padded(nbytes: int) -> int:
    """Blocks are stored one after another: whole words keep the next one aligned."""
    return -(-nbytes // 8) * 8
