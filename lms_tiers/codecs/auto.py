"""The codec `auto`: chooses `planes`, `zstd` or `raw` for each chunk by its dtype and by what a sample of it gains.

The choice is a function of the chunk alone: nothing is remembered from one chunk to the next.
"""

from __future__ import annotations

from typing import Final

from lms_tiers.codecs.base import BlockFormat, Codec, codec_of
from lms_tiers.codecs.entropy import compress
from lms_tiers.codecs.planes import PlanesCodec, planes_format, sample_gain
from lms_tiers.codecs.raw import RAW, RawCodec
from lms_tiers.codecs.zstd import ZstdCodec, ZstdFormat
from lms_tiers.errors import CodecError

#: The least share of the bytes that coding must save.
LEAST_GAIN: Final = 0.03
#: Chunks below this are stored raw.
_SMALLEST: Final = 1024
#: The sample lies within the first block; big enough to tell 3 % apart from noise, small enough to cost nothing.
_SAMPLE: Final = 2048
_TEXT_SAMPLE: Final = 16384
_ZSTD: Final = ZstdFormat(1)
_CHOICE: Final[dict[str, Codec]] = {"planes": PlanesCodec(), "raw": RawCodec(), "zstd": ZstdCodec()}

#: Dtypes that say nothing about what the bytes hold: quantised and packed caches come as these.
_ANY: Final = (None, "uint8", "int8", "bool")
_FLOATS: Final = frozenset({"bfloat16", "float16", "float32", "float64", "complex32", "complex64", "complex128"})


class AutoCodec(Codec):
    """Chooses per chunk."""

    name = "auto"

    def plan(self, data: memoryview, dtype: str | None) -> BlockFormat:
        """What a sample of the first block gains most by; incompressible chunks are stored raw."""
        if len(data) < _SMALLEST:
            return RAW
        sample = data[:_SAMPLE]
        kind, gain = dtype, sample_gain(sample, dtype)
        if dtype in _ANY:
            other = sample_gain(sample, "bfloat16")
            if other > gain:
                kind, gain = "bfloat16", other
        if gain < LEAST_GAIN:
            return RAW
        if dtype not in _FLOATS and not str(dtype).startswith("float8"):
            # Text, tables of indices: there matches are no noise.
            head = data[:_TEXT_SAMPLE]
            if 1 - len(compress(head, 1)) / len(head) > gain + LEAST_GAIN:
                return _ZSTD
        return planes_format(kind, len(data))

    def open(self, layout: str) -> BlockFormat:
        """A layout of one of those that it chooses from."""
        codec = _CHOICE.get(codec_of(layout))
        if codec is None:
            raise CodecError(layout, f"codec auto reads {', '.join(sorted(_CHOICE))}.")
        return codec.open(layout)
