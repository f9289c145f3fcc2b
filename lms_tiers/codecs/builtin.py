"""The built-in codecs by name, and their layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.codecs.base import BlockFormat, Codec, codec_of
from lms_tiers.codecs.planes import PlanesCodec
from lms_tiers.codecs.raw import RawCodec
from lms_tiers.codecs.zstd import ZstdCodec
from lms_tiers.errors import CodecError, ConfigError

_READERS: Final[dict[str, Codec]] = {"raw": RawCodec(), "zstd": ZstdCodec(), "planes": PlanesCodec()}


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


def make_codec(text: str) -> Codec:
    """The built-in codec of a text such as ``auto`` or ``zstd:3``.

    Raises
    ------
    ConfigError
        No built-in codec is called so, or its argument is wrong.
    """
    name, _, argument = text.partition(":")
    factory = _FACTORIES.get(name)
    if factory is None:
        raise ConfigError(f"no built-in codec is called {name!r}.", unknown=name, known=_FACTORIES)
    return factory(argument)


def raw(argument: str = "") -> Codec:
    """The codec `raw`."""
    _none("raw", argument)
    return RawCodec()


def planes(argument: str = "") -> Codec:
    """The codec `planes`."""
    _none("planes", argument)
    return PlanesCodec()


def zstd(argument: str = "") -> Codec:
    """The codec `zstd` of a level, 1 without an argument."""
    return ZstdCodec(argument)


def auto(argument: str = "") -> Codec:
    """The codec `auto`."""
    from lms_tiers.codecs.auto import AutoCodec

    _none("auto", argument)
    return AutoCodec()


def _none(name: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"codec {name} takes no argument; {argument!r} was given.")


_FACTORIES: Final[dict[str, Callable[[str], Codec]]] = {"auto": auto, "planes": planes, "raw": raw, "zstd": zstd}
