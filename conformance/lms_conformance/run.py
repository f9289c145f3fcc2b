"""Runs the properties that apply to a backend and makes the report; a required property that did not run is red."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from lms_conformance import gauges, spawned
from lms_conformance.engine import Engine
from lms_conformance.harness import DEFAULT_CAPACITY, Harness
from lms_conformance.outcome import RED, Report, Result, Status
from lms_conformance.places import refuse_a_used_place, refuse_one_place_for_all
from lms_conformance.profiles import profile as profile_named
from lms_conformance.spec import (
    MARKS_SINCE,
    SPEC_VERSION,
    Property,
    features,
    gates,
    marks_gate,
    parse_version,
    properties,
    select,
)
from lms_conformance.violation import ConformanceError
from lms_conformance.waivers import Waiver, by_property
from lms_tiers import __version__
from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.interface import Capabilities, LMSBackendInterface

#: A seed for every run that does not choose one, so that a run in CI repeats the run before.
DEFAULT_SEED = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Introduction:
    """What was learnt by opening the backend once."""

    capabilities: Capabilities
    backend: str
    plugin: str


def introduce(harness: Harness) -> Introduction:
    """Open the backend once, ask what it can, and close it.

    Raises
    ------
    ConfigError
        There is no such backend or option, or its place is not empty, or one for all; its server cannot be started.
    ConformanceError
        It is no backend, or raised.
    """
    import torch  # noqa: F401  # now, so that no property pays for it

    with tempfile.TemporaryDirectory(prefix="lms-conformance-") as tmp:
        capacity = DEFAULT_CAPACITY if harness.takes_capacity else None
        try:
            harness.start(Path(tmp), capacity)
        except StorageUnavailableError as error:  # nothing of the backend was tried
            raise ConfigError(f"{harness.name} cannot be tried: {error}") from error
        try:
            backend = harness.open(Path(tmp), capacity)
        except ConfigError:
            raise
        except Exception as error:
            raise ConformanceError(f"{harness.name} cannot be opened: {type(error).__name__}: {error}") from error
        caps = getattr(backend, "capabilities", None)
        if not isinstance(backend, LMSBackendInterface) or not isinstance(caps, Capabilities):
            raise ConformanceError(f"{type(backend).__name__} is no LMSBackendInterface with Capabilities.")
        try:
            if not (harness.local and harness.known):
                refuse_a_used_place(harness, backend)
        finally:
            backend.close()
            harness.stop(Path(tmp))
    if not harness.known:
        refuse_one_place_for_all(harness, capacity)
    cls = type(backend)
    return Introduction(caps, f"{cls.__module__}.{cls.__qualname__}", distribution(cls.__module__))


def distribution(module: str) -> str:
    """Name and version of the distribution that a module came with."""
    return _of_package(module.partition(".")[0])


@lru_cache(maxsize=8)
def _of_package(top: str) -> str:
    """Reads what every installed distribution holds: two tenths of a second, and the zoo asks at each hunt."""
    for name in metadata.packages_distributions().get(top, []):
        return f"{name} {metadata.version(name)}"
    return "not installed as a distribution"


def run_properties(
    harness: Harness,
    *,
    profile: str = "ci",
    seed: int | None = None,
    only: Iterable[str] = (),
    spec: str = SPEC_VERSION,
    waivers: Sequence[Waiver] = (),
    on_result: Callable[[Result], None] | None = None,
    examples: Path | None = None,
    today: datetime.date | None = None,
    strict: bool = False,
    exact: Mapping[str, int] | None = None,
) -> Report:
    """Run every property that applies.

    Parameters
    ----------
    harness : Harness
    profile : {"quick", "ci", "nightly"}
    seed : int, optional
        The same seed repeats the same examples. A randomised profile draws one where none is given.
    only : iterable of str
        IDs or families; the run is then partial.
    spec : str
        The spec version that gates.
    waivers : sequence of Waiver
        Beside those of the harness.
    on_result : callable, optional
        Called with each result as it is known.
    examples : pathlib.Path, optional
        Example database of a randomised profile.
    today : datetime.date, optional
    strict : bool
        What would only warn under `spec` (a newer property that fails, a vacuous pass) is red.
    exact : mapping of str to int, optional
        Examples by property, as a run that is repeated made them, however long they take.

    Raises
    ------
    ConfigError
        An unknown profile, ID or spec version; a waiver that names nothing.
    ConformanceError
        The backend cannot be opened at all.
    """
    try:
        run = prepare(
            harness, profile=profile, seed=seed, only=only, spec=spec, waivers=waivers, examples=examples,
            strict=strict, exact=exact,
        )  # fmt: skip
        began = time.monotonic()
        for p in run.chosen:
            result = run.result(p, today)
            if on_result is not None:
                on_result(result)
        run.report.seconds += time.monotonic() - began
        return run.report
    finally:
        harness.end()
        gc.unfreeze()


@dataclasses.dataclass(slots=True)
class Run:
    """A run that is about to begin.

    Attributes
    ----------
    report : Report
        Without results yet.
    chosen : list of Property
    engine : Engine
    waivers : dict
        By property.
    """

    report: Report
    chosen: list[Property]
    engine: Engine
    waivers: dict[str, Waiver]

    def result(self, p: Property, today: datetime.date | None = None) -> Result:
        """Run one property and note its result."""
        result = judge(
            p, self.engine, self.engine.have, self.report.spec, self.waivers.get(p.id), today or datetime.date.today(),
            strict=self.report.strict,
        )  # fmt: skip
        self.report.results.append(result)
        return result


def prepare(
    harness: Harness,
    *,
    profile: str,
    seed: int | None,
    only: Iterable[str],
    spec: str,
    waivers: Sequence[Waiver],
    examples: Path | None,
    journal: IO[str] | None = None,
    strict: bool = False,
    exact: Mapping[str, int] | None = None,
) -> Run:
    """Check what was asked for and open the backend once; see `run_properties`."""
    began = time.monotonic()
    effort = profile_named(profile)
    if parse_version(spec) > parse_version(SPEC_VERSION):
        raise ConfigError(f"this kit knows the spec up to {SPEC_VERSION}, not {spec}.")
    chosen = select(only)
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32) if effort.randomised else DEFAULT_SEED
    granted = by_property([*harness.waivers, *waivers], (p.id for p in properties()))
    who = introduce(harness)
    have = features(who.capabilities, harness)
    if who.capabilities.persistent and any(p.family == "CRA" for p in chosen):
        spawned.zygote()  # it takes a second to start, and the other families come first
    report = Report(
        subject=harness.name,
        backend=who.backend,
        plugin=who.plugin,
        spec=spec,
        kit=__version__,
        profile=profile,
        seed=seed,
        capabilities=dataclasses.asdict(who.capabilities),
        environment=environment(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        complete=len(chosen) == len(properties()),
        only=[] if len(chosen) == len(properties()) else [p.id for p in chosen],
        strict=strict,
        seconds=time.monotonic() - began,
    )
    engine = Engine(harness, who.capabilities, have, effort, seed, examples, journal, exact)
    gauges.settle()
    return Run(report, chosen, engine, granted)


def judge(
    p: Property,
    engine: Engine,
    have: frozenset[str],
    spec: str,
    waiver: Waiver | None,
    today: datetime.date,
    *,
    strict: bool = False,
) -> Result:
    """Run one property, and weigh its outcome against the spec version and its waiver."""
    reason = p.not_applicable(have)
    if reason is not None:
        if waiver is not None:
            return Result(p.id, p.sentence, Status.STALE_WAIVER, reason=f"waived, but not applicable: {reason}")
        return Result(p.id, p.sentence, Status.NOT_APPLICABLE, reason=reason)
    return weigh(engine.run(p), p, spec, waiver, today, strict=strict)


def weigh(
    result: Result, p: Property, spec: str, waiver: Waiver | None, today: datetime.date, *, strict: bool = False
) -> Result:
    """What an outcome counts, by the spec version and the property's waiver."""
    if waiver is not None:
        if result.status in (Status.PASSED, Status.NOT_APPLICABLE):
            why = "passes" if result.status is Status.PASSED else f"does not apply ({result.reason})"
            result.status = Status.STALE_WAIVER
            result.reason = f"it {why}: drop the waiver ({waiver.reason})"
        elif waiver.holds(today):
            result.status = Status.WAIVED
            result.reason = f"{waiver.reason} (until {waiver.expires})"
        else:
            result.reason = f"its waiver expired on {waiver.expires}: {waiver.reason}"
    elif strict:
        pass
    elif result.status is Status.VACUOUS and not marks_gate(p, spec):
        result.status = Status.WARNED_VACUOUS
        result.reason += f"; marks came with spec {MARKS_SINCE} and gate from the version after it on"
    elif result.status in RED and not gates(p, spec):
        result.status = Status.WARNED
        result.reason = f"came with spec {p.since} and gates from the version after it on"
    return result


def environment() -> dict[str, str]:
    """Versions and machine, for the report."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("lms-tiers", "torch", "hypothesis", "lmdb", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["executable"] = sys.implementation.name
    return found
