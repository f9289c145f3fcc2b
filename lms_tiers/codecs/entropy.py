"""zstd as an entropy coder, and exact decoding of single frames, with contexts kept per thread.

Matches in KV bytes are noise: looking for them costs time and makes the Huffman stage worse. The parameters here all
but switch them off; any zstd decoder reads the result. Nothing here knows blocks or dtypes.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from lms_tiers.codecs.base import Buffer
from lms_tiers.errors import CodecError

#: Bytes that share one Huffman table (the window bounds zstd's blocks): fewer adapt better, more code faster.
TABLE_BYTES: Final = 1 << 16


class _Contexts(threading.local):
    """zstd objects are not thread-safe, and making one costs more than a block: each thread keeps its own."""

    def __init__(self) -> None:
        self.entropy = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(
                strategy=zstandard.STRATEGY_FAST,
                window_log=TABLE_BYTES.bit_length() - 1,
                min_match=7,
                hash_log=6,
                chain_log=6,
                search_log=1,
                target_length=0,
            )
        )
        self.levels: dict[int, zstandard.ZstdCompressor] = {}
        self.reader = zstandard.ZstdDecompressor()


_contexts: Final = _Contexts()


def shrink(data: memoryview) -> bytes:
    """One zstd frame of `data`, entropy coded."""
    return _contexts.entropy.compress(data)


def compress(data: memoryview, level: int) -> bytes:
    """One zstd frame of `data` at a zstd level."""
    compressor = _contexts.levels.get(level)
    if compressor is None:
        compressor = _contexts.levels[level] = zstandard.ZstdCompressor(level=level)
    return compressor.compress(data)


def expand_into(frame: Buffer, out: memoryview, layout: str) -> None:
    """Exactly one zstd frame, straight into the whole of `out`.

    Raises
    ------
    CodecError
        Not a frame of that size, or bytes follow it.
    """
    _check_size(frame, len(out), layout)
    if _frame_end(frame) != len(frame):
        raise CodecError(layout, "the block does not end where its zstd frame ends.")
    try:
        with _contexts.reader.stream_reader(frame) as reader:
            done = reader.readinto(out)
    except zstandard.ZstdError as error:
        raise CodecError(layout, f"damaged zstd frame: {error}.") from None
    if done != len(out):
        raise CodecError(layout, f"a zstd frame of {done} bytes where {len(out)} were stored.")


def _check_size(frame: Buffer, size: int, layout: str) -> None:
    # The decoder allocates what the frame's header claims: a damaged claim must not reach it.
    try:
        claimed = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise CodecError(layout, f"no zstd frame: {error}.") from None
    if claimed != size:
        raise CodecError(layout, f"a zstd frame of {claimed} bytes where {size} were stored.")


def _frame_end(frame: Buffer) -> int:
    """Where the frame ends by its block headers (RFC 8878, 3.1.1), or -1."""
    try:
        at = zstandard.frame_header_size(frame)
        last = False
        while not last:
            head = frame[at] | frame[at + 1] << 8 | frame[at + 2] << 16
            last = bool(head & 1)
            kind = head >> 1 & 3
            at += 3 + (1 if kind == 1 else head >> 3)
        return at + (4 if frame[4] & 4 else 0)
    except (IndexError, zstandard.ZstdError):
        return -1
