"""The zoos of adapters: what is broken, and who must say so by its own assertion."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from lms_conformance.adapters.driven import Driven
from lms_conformance.adapters.interface import interface, rules
from lms_conformance.adapters.run import AdapterEngine
from lms_conformance.outcome import Result
from lms_conformance.profiles import Profile
from lms_conformance.zoo.hunt import zoo_profile

Built = TypeVar("Built", bound=type[Any])


@dataclass(frozen=True, slots=True)
class Broken:
    """One broken adapter.

    Attributes
    ----------
    subject : str
        ``module:Class``.
    sentence : str
        What is broken.
    kills : tuple of str
        The properties that must catch it.
    failing : mapping or None
        Options under which it fails at random.
    """

    subject: str
    sentence: str
    kills: tuple[str, ...]
    failing: Mapping[str, Any] | None = None


class Zoo:
    """The broken adapters of one interface.

    Parameters
    ----------
    name : str
        Of the interface.
    options : mapping
        What they and the reference are opened with.
    stalling : mapping, optional
        What they are opened with where their medium is to keep calls waiting, beside `options`.
    """

    def __init__(self, name: str, options: Mapping[str, Any], stalling: Mapping[str, Any] | None = None) -> None:
        self.of: Final = name
        self.options: Final = options
        self.stalling: Final = None if stalling is None else {**options, **stalling}
        self.broken: Final[list[Broken]] = []

    def __call__(self, *kills: str, failing: Mapping[str, Any] | None = None) -> Callable[[Built], Built]:
        """Register a class; the first line of its docstring says what is broken."""

        def register(build: Built) -> Built:
            sentence = (build.__doc__ or "").strip().splitlines()[0]
            failing_too = None if failing is None else {**self.options, **failing}
            self.broken.append(Broken(f"{build.__module__}:{build.__qualname__}", sentence, kills, failing_too))
            return build

        return register

    @property
    def reference(self) -> str:
        """The adapter that keeps every property."""
        return f"{interface(self.of).folder}.reference:Reference"

    def unbroken(self) -> set[str]:
        """Properties that no adapter here breaks."""
        return {p.id for p in rules(self.of)} - {id for one in self.broken for id in one.kills}


def zoo(name: str) -> Zoo:
    """The zoo of an interface; its engine has to be there."""
    found: Zoo = importlib.import_module(f"{interface(name).folder}.broken").ZOO
    return found


def hunt(zoo: Zoo, one: Broken, effort: Profile | None = None, seed: int = 20) -> dict[str, Result]:
    """What the properties that must catch it say of a broken adapter."""
    harness = interface(zoo.of).harness(one.subject, zoo.options, one.failing, zoo.stalling)
    engine = AdapterEngine(harness, effort or zoo_profile("quick"), seed)
    before, Driven.patience = Driven.patience, 2.0  # what never answers is not waited for long
    try:
        return {p.id: engine.run(p) for p in rules(zoo.of) if p.id in one.kills}
    finally:
        Driven.patience = before
