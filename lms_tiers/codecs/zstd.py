"""The codec `zstd:N`: every block is one zstd frame that any zstd reads. For data that is not KV tensors."""

from __future__ import annotations

from typing import Final

from lms_tiers.codecs.base import BlockFormat, Buffer, Codec
from lms_tiers.codecs.entropy import compress, expand_into
from lms_tiers.errors import CodecError, ConfigError

LAYOUT: Final = "zstd/1"
DEFAULT_LEVEL: Final = 1


class ZstdFormat(BlockFormat):
    """Blocks that are zstd frames with the content size in the header."""

    layout = LAYOUT
    block_bytes = 1 << 19

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        self.level = level

    def bound(self, nbytes: int) -> int:
        """None of the caller's memory: zstandard makes the frame."""
        return 0

    def encode_block(self, data: memoryview, out: memoryview) -> memoryview:
        """One frame."""
        return memoryview(compress(data, self.level))

    def decode_block(self, block: Buffer, out: memoryview) -> None:
        """Straight into `out`."""
        expand_into(block, out, self.layout)


class ZstdCodec(Codec):
    """zstd at one level, 1 to 22 or a negative one; the level is not needed to read."""

    def __init__(self, argument: str = "") -> None:
        try:
            level = int(argument or DEFAULT_LEVEL)
        except ValueError:
            level = 0
        if not (-100 <= level <= 22 and level):
            raise ConfigError(f"codec zstd:{argument}: the level is a number from 1 to 22, or -1 to -100.")
        self.name = f"zstd:{level}"
        self._form = ZstdFormat(level)

    def plan(self, data: memoryview, dtype: str | None) -> BlockFormat:
        """Always the same."""
        return self._form

    def open(self, layout: str) -> BlockFormat:
        """zstd frames of any level."""
        if layout != LAYOUT:
            raise CodecError(layout, f"this version reads {LAYOUT}.")
        return self._form
