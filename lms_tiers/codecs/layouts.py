"""The layouts that the built-in codecs write, and who reads them."""

from __future__ import annotations

from typing import Final

from lms_tiers.codecs.base import BlockFormat, Codec, codec_of
from lms_tiers.codecs.planes import PlanesCodec
from lms_tiers.codecs.raw import RawCodec
from lms_tiers.codecs.zstd import ZstdCodec
from lms_tiers.errors import CodecError

_READERS: Final[dict[str, Codec]] = {"raw": RawCodec(), "zstd": ZstdCodec(), "planes": PlanesCodec()}


def reader(layout: str) -> Codec:
    """The built-in codec that reads a layout.

    Raises
    ------
    CodecError
        No built-in codec of this version reads it.
    """
    codec = _READERS.get(codec_of(layout))
    if codec is None:
        raise CodecError(layout, f"no built-in codec reads it; known: {', '.join(sorted(_READERS))}.")
    return codec


def open_layout(layout: str) -> BlockFormat:
    """The block format of a layout that a built-in codec writes; `CodecError` where there is none."""
    return reader(layout).open(layout)
