"""The codec `keptcodec`: zlib, block by block. Replace the two calls of zlib by your own format."""

from __future__ import annotations

import zlib

from lms_tiers.codecs.base import BlockFormat, Buffer, Codec
from lms_tiers.errors import CodecError, ConfigError

#: Written to disk beside the blocks: change the number when what the blocks look like changes.
LAYOUT = "keptcodec/1"


class KeptcodecFormat(BlockFormat):
    """One byte that says how a block is stored, then the block: as it is (0), or deflated (1)."""

    layout = LAYOUT
    block_bytes = 1 << 18

    def bound(self, nbytes: int) -> int:
        """One byte more than the data."""
        return nbytes + 1

    def encode_block(self, data: memoryview, out: memoryview) -> memoryview:
        """Deflate where that is smaller."""
        packed = zlib.compress(data, 1)
        body: Buffer = packed if len(packed) < len(data) else data
        out[0] = body is packed
        out[1 : 1 + len(body)] = body
        return out[: 1 + len(body)]

    def decode_block(self, block: Buffer, out: memoryview) -> None:
        """Exactly what was encoded, or `CodecError`."""
        view = memoryview(block)
        try:
            if view[0] > 1:
                raise CodecError(LAYOUT, f"a block of kind {view[0]}.")
            data: Buffer = _inflate(view[1:], len(out)) if view[0] else view[1:]
        except (IndexError, zlib.error) as error:
            raise CodecError(LAYOUT, f"a damaged block: {error}.") from None
        if len(data) != len(out):
            raise CodecError(LAYOUT, f"a block of {len(data)} bytes where {len(out)} were stored.")
        out[:] = data


def _inflate(data: memoryview, size: int) -> bytes:
    inflate = zlib.decompressobj()
    found = inflate.decompress(data, size + 1)  # never more than one byte too many, whatever the block says
    if not inflate.eof or inflate.unused_data or len(found) != size:
        raise CodecError(LAYOUT, "a block that does not end where it should.")
    return found


class KeptcodecCodec(Codec):
    """Every chunk in the one format."""

    name = "keptcodec"

    def plan(self, data: memoryview, dtype: str | None) -> BlockFormat:
        """The one format."""
        return FORMAT

    def open(self, layout: str) -> BlockFormat:
        """The one format, by its layout."""
        if layout != LAYOUT:
            raise CodecError(layout, f"this version reads {LAYOUT}.")
        return FORMAT


FORMAT = KeptcodecFormat()


def open_codec(argument: str) -> KeptcodecCodec:
    """The codec; what stands after the colon in ``keptcodec:argument`` is `argument`."""
    if argument:
        raise ConfigError(f"codec 'keptcodec' takes no argument, {argument!r} was given.")
    return KeptcodecCodec()
