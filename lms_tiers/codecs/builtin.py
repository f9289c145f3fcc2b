"""The built-in codecs by name, and their layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final

from lms_tiers.codecs import base
from lms_tiers.codecs.auto import AutoCodec
from lms_tiers.codecs.base import Buffer, Codec
from lms_tiers.codecs.layouts import open_layout, reader
from lms_tiers.codecs.planes import PlanesCodec
from lms_tiers.codecs.raw import RawCodec
from lms_tiers.codecs.zstd import ZstdCodec
from lms_tiers.errors import ConfigError

__all__ = ["auto", "decode_into", "make_codec", "open_layout", "planes", "raw", "zstd"]


def decode_into(
    layout: str, block_bytes: int, blocks: Sequence[Buffer], out: memoryview, *, executor: Executor | None = None
) -> None:
    """Decode a chunk of a layout that a built-in codec writes; see `base.decode_into`."""
    base.decode_into(layout, block_bytes, blocks, out, codec=reader(layout), executor=executor)


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
    _none("auto", argument)
    return AutoCodec()


def _none(name: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"codec {name} takes no argument; {argument!r} was given.")


_FACTORIES: Final[dict[str, Callable[[str], Codec]]] = {"auto": auto, "planes": planes, "raw": raw, "zstd": zstd}
