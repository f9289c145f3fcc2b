"""The built-in codecs by name, and their layouts."""

from __future__ import annotations

from lms_tiers.codecs.base import BlockFormat, Codec, codec_of
from lms_tiers.codecs.raw import RawCodec
from lms_tiers.errors import CodecError


def open_layout(layout: str) -> BlockFormat:
    """The block format of a layout that a built-in codec writes.

    Raises
    ------
    CodecError
        No built-in codec of this version reads it.
    """
    codec = _READERS.get(codec_of(layout))
    if codec is None:
        raise CodecError(layout, f"no built-in codec reads it; known: {', '.join(sorted(_READERS))}.")
    return codec.open(layout)


_READERS: dict[str, Codec] = {"raw": RawCodec()}
