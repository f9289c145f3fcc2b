"""The pytest plugin: options for ``pytest --pyargs lms_conformance --lms-device DEVICE``.

It is loaded into every pytest of an environment that holds the package: it imports neither hypothesis nor torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("lms_conformance", "conformance of lms_tiers backends")
    group.addoption("--lms-device", default=None, help="backend name or device text to run `lms_conformance` on")
    group.addoption("--lms-profile", default="ci", help="quick, ci or nightly (default: ci)")
    group.addoption("--lms-seed", type=int, default=None, help="seed of the drawn examples")
    group.addoption("--lms-strict", action="store_true", help="what would only warn under the spec fails")
    group.addoption("--lms-waivers", default=None, help="TOML file of [[waiver]] tables")
    pytest.register_assert_rewrite("lms_conformance.families")


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> Any:
    """Put the suite of the device that the command line names in the place of the kit's placeholder.

    A suite some of whose tests were deleted or overridden is not collected, but an error.
    """
    if isinstance(obj, type) and hasattr(obj, "lms_conformance_tests"):
        from lms_conformance.suite import tampered, what_to_do

        if names := tampered(obj):
            raise collector.CollectError(f"{name}: {what_to_do(names)}")
        return None
    if obj is not None or name != "TestConformance":
        return None
    if not collector.module.__name__.endswith("lms_conformance.test_conformance"):
        return None
    collector.module.TestConformance = _suite(collector.config)
    return pytest.Class.from_parent(collector, name=name)


def _suite(config: pytest.Config) -> type:
    device = config.getoption("--lms-device")
    if not device:
        raise pytest.UsageError(
            "name what is to be tested: pytest --pyargs lms_conformance --lms-device DEVICE "
            "(a registered backend's name or a device text)"
        )
    from lms_conformance.devices import harness_for
    from lms_conformance.suite import conformance_suite
    from lms_conformance.waivers import read_waivers

    waivers = config.getoption("--lms-waivers")
    return conformance_suite(
        harness_for(device),
        profile=config.getoption("--lms-profile"),
        seed=config.getoption("--lms-seed"),
        waivers=read_waivers(Path(waivers)) if waivers else (),
        strict=config.getoption("--lms-strict"),
    )
