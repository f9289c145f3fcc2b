"""`check_backend`: the kit as a plain function, without pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lms_conformance.harness import FactoryHarness, Harness
from lms_conformance.outcome import Report
from lms_conformance.run import run_properties
from lms_conformance.spec import SPEC_VERSION
from lms_conformance.violation import ConformanceError
from lms_conformance.waivers import Waiver
from lms_tiers.interface import LMSBackendInterface


def check_backend(
    factory: Callable[..., LMSBackendInterface] | Harness,
    *,
    profile: str = "ci",
    seed: int | None = None,
    only: Iterable[str] = (),
    spec: str = SPEC_VERSION,
    waivers: Sequence[Waiver] = (),
    strict: bool = False,
) -> Report:
    """Prove that a backend keeps the contract.

    Parameters
    ----------
    factory : callable or Harness
        Opens a fresh backend; takes nothing, or a directory, or a directory and a capacity in bytes. Crash properties
        (of a persistent backend) need one that another process can import.
    profile : {"quick", "ci", "nightly"}
    seed : int, optional
    only : iterable of str
        Property IDs or families.
    spec : str
    waivers : sequence of Waiver
    strict : bool
        What would only warn under `spec` (a newer property that fails, a vacuous pass) is red.

    Returns
    -------
    Report

    Raises
    ------
    ConformanceError
        A property failed; the message tells each one's sentence, program, and what was expected.
    ConfigError
        An unknown profile, ID or spec version; a waiver that names nothing.

    Examples
    --------
    >>> from lms_tiers import LMSLocalBackend
    >>> check_backend(LMSLocalBackend, profile="quick", only=["KEY", "OVR"]).ok
    True
    """
    harness = factory if isinstance(factory, Harness) else FactoryHarness(factory)
    report = run_properties(harness, profile=profile, seed=seed, only=only, spec=spec, waivers=waivers, strict=strict)
    if not report.ok:
        raise ConformanceError(explain(report))
    return report


def explain(report: Report) -> str:
    """The red results of a run, one after the other."""
    failures = report.failures()
    head = f"{report.subject}: {len(failures)} of {report.required} properties of spec {report.spec} failed"
    if not report.required:
        head = f"{report.subject}: no property was required, so nothing is proven"
    return "\n\n".join([head, *(r.message() for r in failures)])
