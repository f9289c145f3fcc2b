"""The codec that leaves bytes as they are: a block is the chunk's own memory, decoding one is a copy."""

from __future__ import annotations

from typing import Final

import numpy as np

from lms_tiers.codecs.base import BlockFormat, Buffer, Codec
from lms_tiers.errors import CodecError

LAYOUT: Final = "raw/1"


class RawFormat(BlockFormat):
    """Blocks that are the data."""

    layout = LAYOUT
    block_bytes = 1 << 20

    def bound(self, nbytes: int) -> int:
        """Nothing."""
        return 0

    def encode_block(self, data: memoryview, out: memoryview) -> memoryview:
        """The data itself."""
        return data

    def decode_block(self, block: Buffer, out: memoryview) -> None:
        """A copy."""
        if len(block) != len(out):
            raise CodecError(self.layout, f"a block of {len(block)} bytes where {len(out)} were stored.")
        # numpy copies without the GIL, a memoryview's assignment with it.
        np.copyto(np.frombuffer(out, np.uint8), np.frombuffer(block, np.uint8))


class RawCodec(Codec):
    """Stores chunks as they are."""

    name = "raw"

    def plan(self, data: memoryview, dtype: str | None) -> BlockFormat:
        """Always the same."""
        return RAW

    def open(self, layout: str) -> BlockFormat:
        """The one layout."""
        if layout != LAYOUT:
            raise CodecError(layout, f"this version reads {LAYOUT}.")
        return RAW


RAW: Final = RawFormat()
