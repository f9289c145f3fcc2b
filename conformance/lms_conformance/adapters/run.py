"""Runs the properties of an interface on one adapter and makes the report that every run of the kit makes."""

from __future__ import annotations

import dataclasses
import datetime
import random
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import IO

from lms_conformance.adapters.harness import AdapterHarness
from lms_conformance.adapters.interface import Rule, rules
from lms_conformance.adapters.trial import AdapterTrial, NotApplicable
from lms_conformance.engine import Engine
from lms_conformance.outcome import Report, Result, Status
from lms_conformance.profiles import Profile
from lms_conformance.profiles import profile as profile_named
from lms_conformance.run import DEFAULT_SEED, distribution, environment, weigh
from lms_conformance.spec import SPEC_VERSION, Property
from lms_conformance.trial import Trial
from lms_conformance.waivers import Waiver, by_property
from lms_tiers import __version__
from lms_tiers.errors import ConfigError
from lms_tiers.interface import Capabilities


class AbsentEngineError(ConfigError):
    """The engine of an interface cannot be imported here."""


class AdapterEngine(Engine):
    """Runs properties of adapters.

    Parameters
    ----------
    harness : AdapterHarness
    profile : Profile
    seed : int
    journal : file, optional
        See `Engine`.
    """

    def __init__(self, harness: AdapterHarness, profile: Profile, seed: int, journal: IO[str] | None = None) -> None:
        super().__init__(harness, Capabilities(), harness.features(), profile, seed, None, journal)
        self.adapters = harness

    def _trial(self, rng: random.Random, exact: int | None) -> Trial:
        return AdapterTrial(self.adapters, self.caps, self.have, self.profile, rng, self.journal, exact)

    def run(self, p: Property) -> Result:
        """The result of one property, which may find that it does not apply."""
        reason = p.not_applicable(self.have)
        found: list[str] = []

        def check(trial: AdapterTrial, *drawn: object) -> None:
            try:
                p.check(trial, *drawn)
            except NotApplicable as why:
                found.append(str(why))

        if reason is None:
            result = super().run(dataclasses.replace(p, check=check))
            if not found or result.status is not Status.PASSED:
                return result
            (reason,) = set(found)
        return Result(p.id, p.sentence, Status.NOT_APPLICABLE, reason=reason)


def run_adapter(
    harness: AdapterHarness,
    *,
    profile: str = "ci",
    seed: int | None = None,
    only: Iterable[str] = (),
    waivers: Sequence[Waiver] = (),
    on_result: Callable[[Result], None] | None = None,
    today: datetime.date | None = None,
) -> Report:
    """Run every property of the harness's interface that applies; parameters as of `run_properties`.

    Every property of an interface is required from its first day: nobody relied on less.

    Raises
    ------
    AbsentEngineError
        The engine cannot be imported here.
    ConfigError
        An unknown profile or ID; a waiver that names nothing.
    ConformanceError
        The adapter cannot be opened at all.
    """
    missing = harness.interface.missing()
    if missing is not None:
        raise AbsentEngineError(f"{missing}: run the kit where {harness.interface.engine} is installed.")
    began = time.monotonic()
    effort = profile_named(profile)
    everything = rules(harness.of)
    chosen = _chosen(everything, only)
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32) if effort.randomised else DEFAULT_SEED
    granted = by_property([*harness.waivers, *waivers], (p.id for p in everything))
    backend = harness.introduce()
    report = Report(
        subject=harness.name, backend=f"{backend.__module__}.{backend.__qualname__}",
        plugin=distribution(backend.__module__), spec=SPEC_VERSION, kit=__version__, profile=profile, seed=seed,
        capabilities={"interface": harness.of, "has": sorted(harness.features())},
        environment={**environment(), harness.interface.package: _version(harness.interface.package)},
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        complete=len(chosen) == len(everything),
    )  # fmt: skip
    engine = AdapterEngine(harness, effort, seed)
    for p in chosen:
        result = engine.run(p)
        waiver = granted.get(p.id)
        result = weigh(result, p, SPEC_VERSION, waiver, today or datetime.date.today())
        report.results.append(result)
        if on_result is not None:
            on_result(result)
    report.seconds = time.monotonic() - began
    return report


def _chosen(everything: Sequence[Rule], only: Iterable[str]) -> list[Rule]:
    wanted = {name.strip().upper() for text in only for name in text.split(",") if name.strip()}
    known = {p.id for p in everything} | {p.family for p in everything}
    for name in wanted - known:
        raise ConfigError(f"there is no property {name!r} of this interface.", unknown=name, known=known)
    return [p for p in everything if not wanted or p.id in wanted or p.family in wanted]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "sources"
