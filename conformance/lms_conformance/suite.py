"""`conformance_suite`: the kit as a class of tests in a user's own test file."""

from __future__ import annotations

import datetime
import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lms_conformance.engine import Engine
from lms_conformance.harness import FactoryHarness, Harness
from lms_conformance.outcome import Status
from lms_conformance.profiles import profile as profile_named
from lms_conformance.run import DEFAULT_SEED, introduce, judge
from lms_conformance.spec import SPEC_VERSION, Property, features, properties
from lms_conformance.waivers import Waiver, by_property
from lms_tiers.interface import LMSBackendInterface


def conformance_suite(
    harness: Harness | Callable[..., LMSBackendInterface],
    *,
    profile: str = "ci",
    seed: int | None = None,
    spec: str = SPEC_VERSION,
    waivers: Sequence[Waiver] = (),
    strict: bool = False,
) -> type:
    """A class with one test per property, and one that fails when a required property did not run.

    A test of it that is deleted, overridden or replaced is an error as well: waive a property instead, with a reason.

    Parameters
    ----------
    harness : Harness or callable
        A factory takes nothing, or a directory, or a directory and a capacity in bytes.
    profile : {"quick", "ci", "nightly"}
    seed : int, optional
    spec : str
    waivers : sequence of Waiver
    strict : bool
        What would only warn under `spec` (a newer property that fails, a vacuous pass) is red.

    Examples
    --------
    In a test file::

        from lms_conformance import conformance_suite

        TestMine = conformance_suite(MyBackend)
    """
    subject = harness if isinstance(harness, Harness) else FactoryHarness(harness)
    session = _Session(subject, profile, seed, spec, waivers, strict)
    body: dict[str, Any] = {"__doc__": f"Conformance of {subject.name}, spec {spec}."}
    for p in properties():
        body[f"test_{p.id.lower().replace('-', '_')}"] = _test(session, p)
    body["test_zz_every_required_property_ran"] = _floor(session)
    body[_TESTS] = {name: test for name, test in body.items() if name.startswith("test_")}
    return type("ConformanceSuite", (), body)


#: Where a suite keeps its tests as they were made.
_TESTS: Final = "lms_conformance_tests"


def tampered(suite: type) -> list[str]:
    """The tests of a suite's class, or of one made from it, that were deleted, overridden or replaced."""
    made: Mapping[str, Any] = inspect.getattr_static(suite, _TESTS, {})
    return [name for name, test in made.items() if inspect.getattr_static(suite, name, None) is not test]


def what_to_do(names: Sequence[str]) -> str:
    """What to tell the author of a suite that was tampered with."""
    return (
        f"tests of the conformance suite were deleted or overridden: {', '.join(names)}. "
        "Every property is run as it is; one that is known to fail is waived, with a reason and a last day."
    )


class _Session:
    """The engine, made when the first test runs, and what has run."""

    def __init__(
        self,
        harness: Harness,
        profile: str,
        seed: int | None,
        spec: str,
        waivers: Sequence[Waiver],
        strict: bool,
    ) -> None:
        self.strict = strict
        self.harness = harness
        self.profile = profile_named(profile)
        self.seed = DEFAULT_SEED if seed is None else seed
        self.spec = spec
        self.waivers = by_property([*harness.waivers, *waivers], (p.id for p in properties()))
        self.ran: set[str] = set()
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """Open the backend once to learn what it can."""
        if self._engine is None:
            caps = introduce(self.harness).capabilities
            have = features(caps, self.harness)
            examples = Path(".lms-conformance") / "examples"
            self._engine = Engine(self.harness, caps, have, self.profile, self.seed, examples)
        return self._engine


def _test(session: _Session, p: Property) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        import pytest

        __tracebackhide__ = True
        engine = session.engine()
        waiver = session.waivers.get(p.id)
        today = datetime.date.today()
        result = judge(p, engine, engine.have, session.spec, waiver, today, strict=session.strict)
        session.ran.add(p.id)
        if result.status is Status.NOT_APPLICABLE:
            pytest.skip(f"{p.id} is not applicable: {result.reason}")
        if result.red:
            pytest.fail(result.message(), pytrace=False)
        if result.status is Status.WAIVED:
            pytest.skip(f"{p.id} is waived: {result.reason}")
        if result.status in (Status.WARNED, Status.WARNED_VACUOUS):
            warnings.warn(f"{p.id} {result.status.value}: {result.reason}", stacklevel=1)
        if result.cut:
            warnings.warn(f"{p.id} was cut down: {result.effort} examples", stacklevel=1)

    test.__doc__ = p.sentence
    test.__name__ = f"test_{p.id.lower().replace('-', '_')}"
    return test


def _floor(session: _Session) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        import pytest

        __tracebackhide__ = True
        if names := tampered(type(self)):
            pytest.fail(what_to_do(names), pytrace=False)
        if "PYTEST_XDIST_WORKER" in os.environ:
            pytest.skip("properties are spread over processes: each reports for itself")
        have = session.engine().have
        missing = [p.id for p in properties() if p.not_applicable(have) is None and p.id not in session.ran]
        if missing:
            pytest.fail(f"required properties that did not run: {', '.join(missing)}", pytrace=False)

    test.__doc__ = "Every required property ran."
    return test
