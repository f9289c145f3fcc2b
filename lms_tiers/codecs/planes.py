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
from lms_tiers.codecs.entropy import expand, expand_into, shrink
from lms_tiers.codecs.pairs import pair, unpair
from lms_tiers.codecs.scratch import Bytes, scratch
from lms_tiers.codecs.split import RESIDUAL_MASK, Words, exponents, merge, put_lanes, residual, take_lane
from lms_tiers.errors import CodecError

LAYOUT: Final = "planes/1"

#: The largest block: its arrays stay in a core's L2 cache, and positions of exceptions fit 16 bits.
MAX_BLOCK: Final = 1 << 18
#: Blocks are cut on multiples of this.
_GRAIN: Final = 4096
#: Below this a block is stored: its header and table would eat the gain.
_SMALLEST: Final = 512
#: About what a Huffman table takes.
_TABLE: Final = 64
#: Values are split in groups of this many, the rest is stored at the block's end.
_GROUP: Final = 16

_STORED, _BYTES, _PLANE, _PAIRS = range(4)
_HEAD: Final = struct.Struct("<BBBBIHHB3x")  # mode, width, shift, base, frame bytes, exceptions low, high, last byte
_SIZE: Final = struct.Struct("<I")
_UNSIGNED: Final[dict[int, type[np.unsignedinteger[Any]]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}

#: Bytes per value and where its exponent plane begins in the top 16 bits, by dtype; others are coded as bytes.
_SHAPES: Final = {
    "bfloat16": (2, 7), "float16": (2, 7), "complex32": (2, 7), "float32": (4, 7), "complex64": (4, 7),
    "float64": (8, 7), "complex128": (8, 7), "int16": (2, 8), "uint16": (2, 8), "int32": (4, 8), "uint32": (4, 8),
    "int64": (8, 8), "uint64": (8, 8),
}  # fmt: skip
#: Dtypes whose exponent plane holds a whole exponent and nothing else: worth pairing.
_PAIRED: Final = frozenset({"bfloat16", "float32", "complex64"})


class PlanesFormat(BlockFormat):
    """Blocks of planes, for values of `width` bytes; 1 codes plain bytes."""

    layout = LAYOUT

    def __init__(self, width: int = 1, shift: int = 7, paired: bool = False, block_bytes: int = MAX_BLOCK) -> None:
        self.width = width
        self.shift = shift
        self.paired = paired
        self.block_bytes = block_bytes

    def threads_help(self, first: Buffer | None = None) -> bool:
        """Not with pairs: there most of the work is numpy operations of a few microseconds.

        Each gives the GIL up and wants it back; two threads sleep and wake each other for longer than they work.
        """
        return not self.paired if first is None else not len(first) or first[0] != _PAIRS

    def bound(self, nbytes: int) -> int:
        """A stored block has one byte before the data."""
        return nbytes + 1

    def encode_block(self, data: memoryview, out: memoryview) -> memoryview:
        """Planes, or the data behind one byte where planes are no smaller."""
        size = 0
        if len(data) >= _SMALLEST:
            size = _encode_bytes(data, out) if self.width == 1 else self._encode_planes(data, out)
        if not size:
            size = len(data) + 1
            out[0] = _STORED
            np.copyto(np.frombuffer(out, np.uint8, len(data), 1), np.frombuffer(data, np.uint8))
        return out[:size]

    def _encode_planes(self, data: memoryview, out: memoryview) -> int:
        room = len(data)  # a block that takes as much is stored
        count = room // (self.width * _GROUP) * _GROUP
        body = count * self.width
        parts = self.width // 2
        at = _HEAD.size + _SIZE.size * parts
        source = np.frombuffer(data, np.uint8, body)
        target = np.frombuffer(out, np.uint8, room)
        lanes = _lanes(source, self.width, count)
        plane = scratch("plane", count)
        exponents(lanes[0], self.shift, plane)
        paired = pair(plane) if self.paired else None
        rest = target[at : at + count]
        last = residual(lanes[0], rest)
        sizes = []
        for noise in (rest, *(lane.view(np.uint8) for lane in lanes[1:])):
            packed = _shrink_noise(noise)
            end = at + len(packed)
            if end > room:
                return 0
            if packed is not rest:
                target[at:end] = packed
            at = end
            sizes.append(len(packed))
        frame = shrink((plane if paired is None else paired.pairs).data)

        mode, base, low, high, exceptions = _PLANE, 0, 0, 0, b""
        if paired is not None:
            mode, base, low, high = _PAIRS, paired.base, paired.low, len(paired.positions) - paired.low
            exceptions = paired.positions.tobytes() + paired.values.tobytes()
        head = _HEAD.pack(mode, self.width, self.shift, base, len(frame), low, high, last)
        head += struct.pack(f"<{parts}I", *sizes)
        out[: len(head)] = head
        for piece in (exceptions, frame, data[body:]):
            end = at + len(piece)
            if end >= room:
                return 0
            out[at:end] = piece
            at = end
        return at

    def decode_block(self, block: Buffer, out: memoryview) -> None:
        """Whatever the block says it is; `width` and the rest of this object do not matter."""
        if not len(block):
            raise CodecError(LAYOUT, "an empty block.")
        mode = block[0]
        body = memoryview(block)[1:]
        if mode == _STORED:
            if len(body) != len(out):
                raise CodecError(LAYOUT, f"{len(body)} bytes where {len(out)} were stored.")
            np.copyto(np.frombuffer(out, np.uint8), np.frombuffer(body, np.uint8))
        elif mode == _BYTES:
            expand_into(body, out, LAYOUT)
        elif mode in (_PLANE, _PAIRS):
            _decode_planes(memoryview(block), np.frombuffer(out, np.uint8))
        else:
            raise CodecError(LAYOUT, f"a block of mode {mode}, which this version does not know.")


def _encode_bytes(data: memoryview, out: memoryview) -> int:
    frame = shrink(data)
    if len(frame) >= len(data):
        return 0
    out[0] = _BYTES
    out[1 : 1 + len(frame)] = frame
    return 1 + len(frame)


def _lanes(body: Bytes, width: int, count: int) -> list[Words]:
    """The 16-bit lanes of the values, the highest first."""
    values = body.view(_UNSIGNED[width])
    if width == 2:
        return [values]
    parts = width // 2
    room = scratch("split", parts * 2 * count).view(np.uint16).reshape(parts, count)
    for row, index in enumerate(reversed(range(parts))):
        take_lane(values, index, room[row])
    return list(room)


def _shrink_noise(noise: Bytes) -> Bytes:
    """A plane as it is, or its frame where a sample says that it is no noise (zeros, values rounded to fewer bits)."""
    begin = len(noise) // 3
    sample = noise[begin : begin + 1024]
    if 8 * len(shrink(sample.data)) > 7 * len(sample):
        return noise
    frame = np.frombuffer(shrink(noise.data), np.uint8)
    return frame if len(frame) < len(noise) else noise


def _decode_planes(block: memoryview, target: Bytes) -> None:
    if len(block) < _HEAD.size:
        raise CodecError(LAYOUT, "the block ends within its header.")
    mode, width, shift, base, frame_bytes, low, high, last = _HEAD.unpack_from(block)
    if width not in _UNSIGNED or shift not in RESIDUAL_MASK:
        raise CodecError(LAYOUT, f"values of {width} bytes shifted by {shift}, which this version does not know.")
    parts = width // 2
    count = len(target) // (width * _GROUP) * _GROUP
    body = count * width
    start = _HEAD.size + _SIZE.size * parts
    if not count or len(block) < start:
        raise CodecError(LAYOUT, "the block ends within its header.")
    sizes = struct.unpack_from(f"<{parts}I", block, _HEAD.size)
    escapes = low + high
    tail = len(target) - body
    if start + frame_bytes + 3 * escapes + sum(sizes) + tail != len(block):
        raise CodecError(LAYOUT, f"{len(block)} bytes where its header says otherwise.")

    at = start
    noise: list[Bytes] = []
    for size, full in zip(sizes, (count, *(2 * count,) * (parts - 1)), strict=True):
        piece = block[at : at + size]
        noise.append(np.frombuffer(piece, np.uint8) if size == full else expand(piece, full, LAYOUT))
        at += size
    positions = np.frombuffer(block, "<u2", escapes, at)
    values = np.frombuffer(block, np.uint8, escapes, at + 2 * escapes)
    at += 3 * escapes
    frame = block[at : at + frame_bytes]
    plane = expand(frame, count // 2 if mode == _PAIRS else count, LAYOUT)
    if mode == _PLANE and escapes:
        raise CodecError(LAYOUT, "exceptions to a plane that has none.")

    if mode == _PAIRS:
        pairs, plane = plane, scratch("plane", count)
        if not unpair(pairs, base, low, positions, values, plane):
            raise CodecError(LAYOUT, "an exception lies outside the block.")
    words = target[:body].view(np.uint16) if width == 2 else scratch("top", 2 * count).view(np.uint16)
    merge(plane, noise[0], last, shift, words)
    if width > 2:
        wide: npt.NDArray[Any] = target[:body].view(_UNSIGNED[width])
        put_lanes([words, *(lane.view(np.uint16) for lane in noise[1:])], wide)
    if tail:
        target[body:] = np.frombuffer(block, np.uint8, tail, at + frame_bytes)


@lru_cache(maxsize=256)
def planes_format(dtype: str | None, nbytes: int) -> PlanesFormat:
    """The format for chunks of `nbytes` bytes of a dtype, cut into an even number of equal blocks (for two threads)."""
    width, shift = _SHAPES.get(dtype or "", (1, 7))
    count = block_count(nbytes, MAX_BLOCK)
    count += count & 1 if count > 1 else 0
    size = block_count(max(nbytes, 1), max(count, 1) * _GRAIN) * _GRAIN
    return PlanesFormat(width, shift, dtype in _PAIRED, size)


def sample_gain(sample: Bytes, dtype: str | None) -> float:
    """The share of its bytes that a sample of 1 KiB to a few saves as planes of a dtype, headers apart."""
    width, shift = _SHAPES.get(dtype or "", (1, 7))
    plane = sample
    if width > 1:
        values = sample[: len(sample) // width * width].view(_UNSIGNED[width])
        plane = (values >> values.dtype.type(8 * width - 16 + shift)).astype(np.uint8)
    # The table of a small frame weighs more than a large one's: judged by the rest it would be too pessimistic.
    return max(len(plane) + _TABLE - len(shrink(plane.data)), 0) / len(sample)


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


_READER: Final = PlanesFormat()
