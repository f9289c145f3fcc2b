"""Which codecs a backend may use while it opens: the built-in ones, or those of the registry that opens it.

A backend takes `current()` in its constructor and keeps it: codecs are looked up by the name in its option, and by the
layout that stands on disk. Nothing here knows plugins.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from lms_tiers.codecs.base import Codec, codec_of
from lms_tiers.errors import CodecError, ConfigError
from lms_tiers.hookspecs import CodecSpec


class Catalog:
    """Codecs by name.

    Parameters
    ----------
    specs : mapping of str to CodecSpec
        Asking it for an unknown name raises `ConfigError`.
    """

    def __init__(self, specs: Mapping[str, CodecSpec]) -> None:
        self._specs = specs

    def make(self, text: str) -> Codec:
        """The codec of a text such as ``auto`` or ``zstd:3``.

        Raises
        ------
        ConfigError
            No codec is called so, or its argument is wrong.
        """
        name, _, argument = text.partition(":")
        factory: Any = self._specs[name].factory
        if isinstance(factory, str):
            module, _, attribute = factory.partition(":")
            factory = getattr(importlib.import_module(module), attribute)
        codec: Codec = factory(argument)
        return codec

    def reader(self, layout: str) -> Codec:
        """A codec that reads what stands on disk under `layout`.

        Raises
        ------
        CodecError
            The codec that wrote it is not installed.
        """
        try:
            return self.make(codec_of(layout))
        except ConfigError as error:
            raise CodecError(layout, f"the codec that wrote it is not installed: {error}") from error


class _BuiltIn(dict[str, CodecSpec]):
    def __missing__(self, name: str) -> CodecSpec:
        raise ConfigError(f"there is no codec {name!r}.", unknown=name, known=self)


def built_in() -> Catalog:
    """The codecs of this package."""
    from lms_tiers import codecs

    specs = _BuiltIn()

    def register(spec: CodecSpec) -> None:
        specs[spec.name] = spec

    codecs.register_codecs(register)
    return Catalog(specs)


_offered: Final[ContextVar[Catalog | None]] = ContextVar("lms_tiers_codecs", default=None)


@contextmanager
def offering(catalog: Catalog) -> Iterator[None]:
    """Let the backends opened inside the block use `catalog`."""
    token = _offered.set(catalog)
    try:
        yield
    finally:
        _offered.reset(token)


def current() -> Catalog:
    """What the backend being opened may use."""
    return _offered.get() or built_in()
