"""The codec `planes`: the bits that carry information are entropy coded, the noise is stored as it is.

A block describes itself, so one layout serves all dtypes; docs/codecs.md has its form byte by byte. What is coded how
is chosen by the dtype; any bytes round-trip under any dtype.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any, Final

import numpy as np

from lms_tiers.codecs.base import BlockFormat, Buffer, Codec, block_count
from lms_tiers.codecs.entropy import expand_into, shrink
from lms_tiers.codecs.nibbles import ROW, merge_nibbles, split_nibbles
from lms_tiers.codecs.parts import SHIFT, WORDS, covered, merge_parts, part_bytes, split_parts
from lms_tiers.codecs.scratch import Bytes, scratch
from lms_tiers.codecs.split import SHIFTS, merge_words, split_words
from lms_tiers.errors import CodecError

LAYOUT: Final = "planes/3"

#: The most bytes in a block. Each costs 20 to 50 µs beside its bytes, more than large ones lose by outgrowing caches.
MAX_BLOCK: Final = 3 << 19
#: A chunk of this many bytes has at least two blocks, for two threads.
_TWO: Final = 1 << 19
#: By how much the last block is shorter, in blocks: the thread that takes it begins later than the caller, by the time
#: that waking takes.
_LATER: Final = 0.12
#: Blocks are cut on multiples of this.
_GRAIN: Final = 4096
#: Below this a block is stored: its header and table would eat the gain.
_SMALLEST: Final = 2 * ROW
#: About what a Huffman table takes.
_TABLE: Final = 64
#: Values of two bytes are split in groups of this many.
_GROUP: Final = 16
#: Blocks are padded to this, so that blocks one after another stay aligned.
_WORD: Final = 8

_U8: Final = np.dtype(np.uint8)
_STORED, _CODED = range(2)
# mode, padding, width, shift, last byte, halved, bytes of the frame and of the noise
_HEAD: Final = struct.Struct("<6B2x2I")

#: Bytes per value, and where in its top 16 bits the plane begins that is coded, by dtype; others are coded as bytes.
_SHAPES: Final = {
    "bfloat16": (2, 7), "float32": (4, 7), "complex64": (4, 7), "float64": (8, 7), "complex128": (8, 7),
    "float16": (2, 8), "complex32": (2, 8), "int16": (2, 8), "uint16": (2, 8),
    "float8_e4m3fn": (1, 3), "float8_e4m3fnuz": (1, 3),
}  # fmt: skip
_BYTES: Final = (1, 0)
_NIBBLES: Final = (1, 3)
_KNOWN: Final = {_BYTES, _NIBBLES, (4, SHIFT), (8, SHIFT), *((2, shift) for shift in SHIFTS)}


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
    source, target = np.frombuffer(data, np.uint8), np.frombuffer(out, np.uint8, room)
    halved = width > 2 and _low_half_is_zero(source, width)
    if halved:
        width //= 2
        values = source.view(WORDS[2 * width])
        source = scratch("halved", room // 2)
        np.right_shift(values, values.dtype.type(8 * width), out=source.view(WORDS[width]), casting="unsafe")
    body, noise_bytes = _extent(len(source), width, shift)
    end = _HEAD.size + noise_bytes
    noise = target[_HEAD.size : end]
    last = 0
    if not noise_bytes:
        plane = source
    else:
        if width == 1:
            plane = split_nibbles(source[:body], noise)
        elif width == 2:
            plane, last = split_words(source[:body].view(np.uint16), shift, noise)
        else:
            plane = split_parts(source[:body], width, noise)
        noise_bytes = _shrink_noise(noise)
        end = _HEAD.size + noise_bytes
    frame = shrink(plane.data)
    tail = source[body:]
    if end + len(frame) + len(tail) + _WORD > room:
        return 0
    out[: _HEAD.size] = _HEAD.pack(_CODED, 0, width, shift, last, halved, len(frame), noise_bytes)
    target[end : end + len(frame)] = np.frombuffer(frame, np.uint8)  # unlike memoryview, without the GIL
    end += len(frame)
    target[end : end + len(tail)] = tail
    return end + len(tail)


def _extent(length: int, width: int, shift: int) -> tuple[int, int]:
    """How many of a block's bytes are split, and the bytes of noise that this gives; the rest is the tail."""
    if (width, shift) == _BYTES:
        return length, 0
    if width == 1:
        pairs = length // (2 * ROW)
        return pairs * 2 * ROW, pairs * ROW
    if width == 2:
        count = length // (2 * _GROUP) * _GROUP
        return 2 * count, count
    part = part_bytes(length, width)
    return covered(part, width), part * (width - 1)


def _low_half_is_zero(source: Bytes, width: int) -> bool:
    """Whether these are narrower values in wider words: float32 made from bfloat16."""
    if len(source) % (2 * width):
        return False
    values = source.view(WORDS[width])
    low = values.dtype.type((1 << 4 * width) - 1)
    if (values[:64] & low).any():
        return False
    return not np.bitwise_and(values, low, out=scratch("low", len(source)).view(WORDS[width])).any()


def _shrink_noise(noise: Bytes) -> int:
    """Replace noise by its frame where a sample says that it is none (zeros, values rounded to fewer bits)."""
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
    _, _, width, shift, last, halved, frame_bytes, stored = _HEAD.unpack_from(block)
    if (width, shift) not in _KNOWN or halved > 1 or (halved and (width < 2 or len(target) % (4 * width))):
        raise CodecError(
            LAYOUT, f"values of {width} bytes shifted by {shift}, halved {halved}, which this version does not know."
        )
    values = scratch("halved", len(target) // 2) if halved else target
    body, noise_bytes = _extent(len(values), width, shift)
    start = _HEAD.size + stored
    end = start + frame_bytes
    tail = len(values) - body
    if body <= 0 or stored > noise_bytes:
        raise CodecError(LAYOUT, f"{len(values)} bytes, {stored} of noise, in a block for others.")
    _check_end(block, end + tail)
    if not noise_bytes:
        expand_into(block[start:end], values.data, LAYOUT)
    else:
        plane = scratch("plane", noise_bytes // max(width - 1, 1))
        expand_into(block[start:end], plane.data, LAYOUT)
        noise = np.frombuffer(block, np.uint8, stored, _HEAD.size)
        if stored < noise_bytes:
            noise = scratch("noise", noise_bytes)
            expand_into(block[_HEAD.size : start], noise.data, LAYOUT)
        if width == 1:
            merge_nibbles(plane, noise, values[:body])
        elif width == 2:
            merge_words(plane, noise, last, shift, values[:body].view(np.uint16))
        else:
            merge_parts(plane, noise, width, values[:body])
    if tail:
        values[body:] = np.frombuffer(block, np.uint8, tail, end)
    if halved:
        wide = target.view(WORDS[2 * width])
        np.multiply(values.view(WORDS[width]), wide.dtype.type(1 << 8 * width), out=wide, dtype=wide.dtype)


def _check_end(block: memoryview, end: int) -> None:
    padding = -end % _WORD
    if len(block) != end + padding or block[1] != padding or any(block[end:]):
        raise CodecError(LAYOUT, f"{len(block)} bytes, {block[1]} of them padding, where {end} were stored.")


@lru_cache(maxsize=256)
def planes_format(dtype: str | None, nbytes: int) -> PlanesFormat:
    """The format for chunks of `nbytes` bytes of a dtype, cut into an even number of blocks (for two threads)."""
    count = 1
    if nbytes >= _TWO:
        count = max(math.ceil(nbytes / MAX_BLOCK + _LATER), 2)
        count += count & 1
    share = math.ceil(nbytes / (count - _LATER * (count > 1)))
    return PlanesFormat(*_SHAPES.get(dtype or "", _BYTES), block_count(max(share, 1), _GRAIN) * _GRAIN)


def sample_gain(sample: memoryview, dtype: str | None) -> float:
    """The share of its bytes that a sample of 1 KiB to a few saves as planes of a dtype, headers apart."""
    width, kind, bits = _sampled(dtype)
    plane = sample
    if width > 1:
        plane = np.right_shift(np.frombuffer(sample, kind, len(sample) // width), bits).astype(_U8).data
    # The table of a small frame weighs more than a large one's: judged by the rest it would be too pessimistic.
    return max(len(plane) + _TABLE - len(shrink(plane)), 0) / len(sample)


@lru_cache(maxsize=64)
def _sampled(dtype: str | None) -> tuple[int, np.dtype[Any], np.unsignedinteger[Any]]:
    # Objects of numpy made once: chunks of noise are sampled too, and cost little else.
    width, shift = _SHAPES.get(dtype or "", _BYTES)
    kind: np.dtype[Any] = np.dtype(WORDS.get(width, np.uint8))
    return width, kind, kind.type(max(8 * width - 16 + shift, 0))


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
