"""The conformance kit: proves that a storage backend keeps the contract of lms_tiers, property by property.

Importing this imports neither hypothesis nor torch nor pytest; each name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lms_conformance.check import check_backend
    from lms_conformance.devices import DeviceHarness, NameHarness, harness_for
    from lms_conformance.harness import FactoryHarness, Harness
    from lms_conformance.outcome import Report, Result
    from lms_conformance.run import run_properties
    from lms_conformance.server_harness import ServerHarness
    from lms_conformance.spec import SPEC_VERSION
    from lms_conformance.suite import conformance_suite
    from lms_conformance.supervise import run_supervised
    from lms_conformance.violation import ConformanceError, Violation
    from lms_conformance.waivers import Waiver

_HOME = {
    "check_backend": "check",
    "DeviceHarness": "devices", "NameHarness": "devices", "harness_for": "devices",
    "FactoryHarness": "harness", "Harness": "harness",
    "Report": "outcome", "Result": "outcome",
    "run_properties": "run", "run_supervised": "supervise",
    "ServerHarness": "server_harness",
    "SPEC_VERSION": "spec",
    "conformance_suite": "suite",
    "ConformanceError": "violation", "Violation": "violation",
    "Waiver": "waivers",
}  # fmt: skip

__all__ = [
    "SPEC_VERSION",
    "ConformanceError",
    "DeviceHarness",
    "FactoryHarness",
    "Harness",
    "NameHarness",
    "Report",
    "Result",
    "ServerHarness",
    "Violation",
    "Waiver",
    "check_backend",
    "conformance_suite",
    "harness_for",
    "run_properties",
    "run_supervised",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
