"""How the kit makes an adapter: the class or the name that its engine knows, and options with a place of its own."""

from __future__ import annotations

import abc
import copy
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lms_conformance.adapters.interface import Interface, interface
from lms_conformance.harness import Harness
from lms_conformance.waivers import Waiver
from lms_tiers.errors import ConfigError


class AdapterHarness(Harness):
    """Opens adapters of one interface.

    Parameters
    ----------
    subject : str
        ``package.module:Class``, or a name that the engine itself knows.
    options : mapping
        As the engine hands them to the adapter; ``{tmp}`` in a text is a fresh directory. They are what keeps one
        place from another: without ``{tmp}`` an adapter would meet what an earlier property left.
    failing : mapping, optional
        Options under which the adapter's medium fails at random; None: it has no such option.
    stalling : mapping, optional
        Options under which the medium keeps every call waiting for some seconds; None: it has no such option.

    Attributes
    ----------
    of : str
        Name of the interface.
    """

    of: ClassVar[str]

    def __init__(
        self, subject: str, options: Mapping[str, Any] | None = None, failing: Mapping[str, Any] | None = None,
        waivers: Sequence[Waiver] = (), stalling: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.subject = subject
        self.options = dict(options or {})
        self.failing = None if failing is None else dict(failing)
        self.stalling = None if stalling is None else dict(stalling)
        self.waivers = tuple(waivers)
        self.name = f"{subject} as {self.of}"

    def __reduce__(self) -> tuple[Any, ...]:
        # What was learnt by opening the adapter stays here: it may hold classes that another process has to load first.
        return type(self), (self.subject, self.options, self.failing, self.waivers, self.stalling)

    @property
    def interface(self) -> Interface:
        """What it is an adapter of."""
        return interface(self.of)

    @abc.abstractmethod
    def drive(self, path: Path, **how: Any) -> Any:
        """An adapter at `path` as its engine drives it; `how` is the interface's own."""

    @abc.abstractmethod
    def introduce(self) -> type[Any]:
        """The adapter's class; a `ConformanceError` where it cannot be opened at all."""

    def open(self, path: Path, capacity: int | None) -> Any:
        """An adapter at `path`."""
        return self.drive(path)

    def features(self) -> frozenset[str]:
        """What properties may need, and this adapter has."""
        given = {"failing": self.failing, "stalling": self.stalling}
        return frozenset(name for name, options in given.items() if options is not None)

    def class_of(self) -> type[Any]:
        """The class named by the subject.

        Raises
        ------
        ConfigError
            It cannot be imported, or is no class.
        """
        module, _, name = self.subject.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.subject} cannot be had: {error}.") from error
        if not isinstance(found, type):
            raise ConfigError(f"{self.subject} is no class.")
        return found

    def options_at(self, path: Path, failing: bool = False, stalling: bool = False) -> dict[str, Any]:
        """The options with their place filled in."""
        options = self.failing if failing else self.stalling if stalling else self.options
        return {name: _filled(value, str(path)) for name, value in (options or {}).items()}

    def source(self) -> str:
        """Python that defines ``open_adapter(path, **how)``."""
        cls = type(self)
        given = ", ".join(map(repr, (self.subject, self.options, self.failing)))
        if self.stalling is not None:
            given += f", stalling={self.stalling!r}"
        return (
            f"from {cls.__module__} import {cls.__qualname__}\n\n"
            f"def open_adapter(path, **how):\n    return {cls.__qualname__}({given}).drive(path, **how)\n"
        )


def _filled(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return value.replace("{tmp}", path)
    if isinstance(value, Mapping):
        return {name: _filled(inner, path) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, path) for inner in value]
    return copy.copy(value)
