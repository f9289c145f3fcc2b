"""The codec `planes`: the bits that carry information are entropy coded, the noise is stored as it is.

A block describes itself, so one layout serves all dtypes; docs/codecs.md has its form byte by byte. What is coded how
is chosen by the dtype; any bytes round-trip under any dtype.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lms_tiers.codecs.base import BlockFormat, Buffer, Codec, block_count
from lms_tiers.codecs.entropy import expand_into, shrink
from lms_tiers.codecs.scratch import Bytes, scratch
from lms_tiers.codecs.split import SHIFTS, merge, put_lanes, split, take_lane
from lms_tiers.errors import CodecError

LAYOUT: Final = "planes/2"

#: The most bytes in a block: larger ones outgrow a core's L2 cache, smaller ones pay more for each call into numpy.
MAX_BLOCK: Final = 3 << 18
#: A chunk of this many bytes has at least two blocks, for two threads.
_TWO: Final = 1 << 19
#: Blocks are cut on multiples of this.
_GRAIN: Final = 4096
#: Below this a block is stored: its header and table would eat the gain.
_SMALLEST: Final = 512
#: About what a Huffman table takes.
_TABLE: Final = 64
#: Values are split in groups of this many, the rest is stored at the block's end.
_GROUP: Final = 16
#: Blocks are padded to this, so that blocks one after another stay aligned.
_WORD: Final = 8

_STORED, _CODED = range(2)
# mode, padding, width, shift, last byte, frame bytes, stored bytes of the residual plane and of each lower lane
_HEAD: Final = struct.Struct("<5B3x5I4x")
_UNSIGNED: Final[dict[int, type[np.unsignedinteger[Any]]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}

#: Bytes per value, and where in its top 16 bits the plane begins that is coded, by dtype; others are coded as bytes.
_SHAPES: Final = {
    "bfloat16": (2, 7), "float32": (4, 7), "complex64": (4, 7), "float64": (8, 7), "complex128": (8, 7),
    "float16": (2, 8), "complex32": (2, 8), "int16": (2, 8), "uint16": (2, 8), "int32": (4, 8), "uint32": (4, 8),
    "int64": (8, 8), "uint64": (8, 8),
}  # fmt: skip
_BYTES: Final = (1, 0)


class PlanesFormat(BlockFormat):
    """Blocks of planes, for values of `width` bytes; 1 codes plain bytes."""

    layout = LAYOUT

    def __init__(self, width: int, shift: int, block_bytes: int) -> None:
        self.width = width
        self.shift = shift
        self.block_bytes = block_bytes

    def bound(self, nbytes: int) -> int:
        """A stored block and its padding, in steps that keep blocks aligned."""
        return (nbytes + _WORD) // 64 * 64 + 64

    def encode_block(self, data: memoryview, out: memoryview) -> memoryview:
        """Planes, or the data behind one word where planes are no smaller."""
        size = _encode(data, out, self.width, self.shift) if len(data) >= _SMALLEST else 0
        if not size:
            size = _WORD + len(data)
            out[:_WORD] = bytes(_WORD)
            np.copyto(np.frombuffer(out, np.uint8, len(data), _WORD), np.frombuffer(data, np.uint8))
        padding = -size % _WORD
        out[1] = padding
        out[size : size + padding] = bytes(padding)
        return out[: size + padding]

    def decode_block(self, block: Buffer, out: memoryview) -> None:
        """Whatever the block says it is; the shape of this object does not matter."""
        if len(block) < _WORD:
            raise CodecError(LAYOUT, "the block ends within its header.")
        block = memoryview(block)
        if block[0] == _STORED:
            end = _WORD + len(out)
            _check_end(block, end)
            np.copyto(np.frombuffer(out, np.uint8), np.frombuffer(block, np.uint8, len(out), _WORD))
        elif block[0] == _CODED:
            _decode(block, np.frombuffer(out, np.uint8))
        else:
            raise CodecError(LAYOUT, f"a block of mode {block[0]}, which this version does not know.")


def _encode(data: memoryview, out: memoryview, width: int, shift: int) -> int:
    """The bytes of a coded block, or 0 where it would be no smaller than the data."""
    room = len(data)
    count = room // (width * _GROUP) * _GROUP
    body = count * width
    plane = source = np.frombuffer(data, np.uint8, body)
    target = np.frombuffer(out, np.uint8, room)
    end = _HEAD.size
    sizes = [0, 0, 0, 0]
    last = 0
    if width > 1:
        values = source.view(_UNSIGNED[width])
        top, plane = values, scratch("plane", count)
        if width > 2:
            top = scratch("top", 2 * count).view(np.uint16)
            take_lane(values, width // 2 - 1, top)
        for i in range(width // 2):
            noise = target[end : end + (2 * count if i else count)]
            if i:
                take_lane(values, width // 2 - 1 - i, noise.view(np.uint16))
            else:
                last = split(top, shift, plane, noise)
            sizes[i] = _shrink_noise(noise)
            end += sizes[i]
    frame = shrink(plane.data)
    if end + len(frame) + room - body + _WORD > room:
        return 0
    out[: _HEAD.size] = _HEAD.pack(_CODED, 0, width, shift, last, len(frame), *sizes)
    target[end : end + len(frame)] = np.frombuffer(frame, np.uint8)  # unlike memoryview, without the GIL
    end += len(frame)
    out[end : end + room - body] = data[body:]
    return end + room - body


def _shrink_noise(noise: Bytes) -> int:
    """Replace a plane by its frame where a sample says that it is no noise (zeros, values rounded to fewer bits)."""
    begin = len(noise) // 3
    sample = noise[begin : begin + 1024]
    if 8 * len(shrink(sample.data)) > 7 * len(sample):
        return len(noise)
    frame = np.frombuffer(shrink(noise.data), np.uint8)
    if len(frame) >= len(noise):
        return len(noise)
    noise[: len(frame)] = frame
    return len(frame)


def _decode(block: memoryview, target: Bytes) -> None:
    if len(block) < _HEAD.size:
        raise CodecError(LAYOUT, "the block ends within its header.")
    _, _, width, shift, last, frame_bytes, *sizes = _HEAD.unpack_from(block)
    lanes = width // 2
    known = shift in SHIFTS if width in _UNSIGNED else (width, shift) == _BYTES
    if not known or any(sizes[lanes:]):
        raise CodecError(LAYOUT, f"values of {width} bytes shifted by {shift}, which this version does not know.")
    count = len(target) // (width * _GROUP) * _GROUP
    if not count:
        raise CodecError(LAYOUT, f"{len(target)} bytes in a block for more.")
    body = count * width
    start = _HEAD.size + sum(sizes)
    end = start + frame_bytes
    tail = len(target) - body
    _check_end(block, end + tail)
    plane = target[:body] if width == 1 else scratch("plane", count)
    expand_into(block[start:end], plane.data, LAYOUT)
    if tail:
        target[body:] = np.frombuffer(block, np.uint8, tail, end)
    if width == 1:
        return
    noise = []
    at = _HEAD.size
    for i, size in enumerate(sizes[:lanes]):
        noise.append(_noise(block[at : at + size], 2 * count if i else count, i))
        at += size
    values: npt.NDArray[Any] = target[:body].view(_UNSIGNED[width])
    top = values if width == 2 else scratch("top", 2 * count).view(np.uint16)
    merge(plane, noise[0], last, shift, top)
    if width > 2:
        put_lanes([top, *(lane.view(np.uint16) for lane in noise[1:])], values)


def _noise(stored: memoryview, size: int, index: int) -> Bytes:
    if len(stored) == size:
        return np.frombuffer(stored, np.uint8)
    plane = scratch(f"noise {index}", size)
    expand_into(stored, plane.data, LAYOUT)
    return plane


def _check_end(block: memoryview, end: int) -> None:
    padding = -end % _WORD
    if len(block) != end + padding or block[1] != padding or any(block[end:]):
        raise CodecError(LAYOUT, f"{len(block)} bytes, {block[1]} of them padding, where {end} were stored.")


@lru_cache(maxsize=256)
def planes_format(dtype: str | None, nbytes: int) -> PlanesFormat:
    """The format for chunks of `nbytes` bytes of a dtype, cut into an even number of equal blocks (for two threads)."""
    count = max(block_count(nbytes, MAX_BLOCK), 1 + (nbytes >= _TWO))
    count += count & 1 if count > 1 else 0
    size = block_count(max(nbytes, 1), count * _GRAIN) * _GRAIN
    return PlanesFormat(*_SHAPES.get(dtype or "", _BYTES), size)


def sample_gain(sample: memoryview, dtype: str | None) -> float:
    """The share of its bytes that a sample of 1 KiB to a few saves as planes of a dtype, headers apart."""
    width, shift = _SHAPES.get(dtype or "", _BYTES)
    plane = sample
    if width > 1:
        values = np.frombuffer(sample, _UNSIGNED[width], len(sample) // width)
        plane = (values >> values.dtype.type(8 * width - 16 + shift)).astype(np.uint8).data
    # The table of a small frame weighs more than a large one's: judged by the rest it would be too pessimistic.
    return max(len(plane) + _TABLE - len(shrink(plane)), 0) / len(sample)


class PlanesCodec(Codec):
    """Entropy coding of the bits that carry information, by dtype."""

    name = "planes"

    def plan(self, data: memoryview, dtype: str | None) -> BlockFormat:
        """By the dtype alone."""
        return planes_format(dtype, len(data))

    def open(self, layout: str) -> BlockFormat:
        """Blocks of any dtype."""
        if layout != LAYOUT:
            raise CodecError(layout, f"this version reads {LAYOUT}.")
        return _READER


_READER: Final = PlanesFormat(*_BYTES, MAX_BLOCK)
