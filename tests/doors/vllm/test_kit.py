"""The kit's properties of vLLM's tiers: on the door, on the reference, on vLLM's own, and on broken ones."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from lms_conformance.adapters.broken import zoo
from lms_conformance.adapters.interface import interface
from lms_conformance.adapters.run import run_adapter
from lms_conformance.adapters.vllm_tier.harness import TierHarness

from tests.doors.kit import catches, keeps
from tests.doors.vllm import double
from tests.doors.vllm.conftest import REAL

OURS: Final = "lms_tiers.doors.vllm:LMSTier"
#: A look-up on a busy machine takes long; it is not to be given up.
PATIENT: Final = {"lookup_patience": "5min"}
LMDB: Final = {"device": "lmdb:{tmp}/kv?capacity=256MiB&codec=raw&sync=none", "enable_kv_events": True, **PATIENT}
FAILING: Final = {
    **PATIENT,
    "device": "store?breaker_threshold=1000&back_pressure=10ms > "
    "faulty:cpu?capacity=64MiB&nothing=0.15&wrong_length=0.15&lie=0.1&fail_after=0.2&seed=3",
}
#: What a store in memory has not: files to damage, a place to be opened again.
IN_MEMORY: Final = [f"DOR-V{n}" for n in (11, 12, 13, 15, 16, 18, 19, 20, 21)]

needs_vllm = pytest.mark.skipif(not REAL, reason="vLLM is not installed: make doors")


#: What the double put in place stays while this is there.
IN_THE_PROCESS: Final = contextlib.ExitStack()


class Doubled(TierHarness):
    """Over the double in every process."""

    def drive(self, path: Path, *given: Any, **how: Any) -> Any:
        if "vllm" not in sys.modules:  # in the process that is killed
            IN_THE_PROCESS.enter_context(double.installed())
        return super().drive(path, *given, **how)


def harness(options: dict[str, Any], failing: dict[str, Any] | None = None) -> TierHarness:
    return (TierHarness if REAL else Doubled)(OURS, options, failing)


@pytest.mark.deep
def test_the_door_over_lmdb_keeps_every_property() -> None:
    keeps(harness(LMDB, FAILING))


@pytest.mark.deep
def test_the_door_over_memory_keeps_every_property_that_memory_can() -> None:
    keeps(harness({"device": "cpu?capacity=256MiB", "enable_kv_events": True, **PATIENT}), [*IN_MEMORY, "DOR-V14"])


@pytest.mark.deep
@needs_vllm
def test_the_reference_keeps_every_property() -> None:
    of = zoo("vllm-tier")
    keeps(interface("vllm-tier").harness(of.reference, of.options), ["DOR-V10", "DOR-V14"])


@needs_vllm
def test_every_property_has_a_broken_tier() -> None:
    assert zoo("vllm-tier").unbroken() == set()


@pytest.mark.deep
@needs_vllm
@pytest.mark.parametrize("one", zoo("vllm-tier").broken if REAL else [], ids=lambda one: one.subject.partition(":")[2])
def test_a_broken_tier_is_caught_by_name(one: Any) -> None:
    catches("vllm-tier", one)


@pytest.mark.deep
@needs_vllm
def test_vllms_own_file_tier_fails_what_the_findings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    # It logs the errors that it meets; pytest would keep them, and by their tracebacks views of the primary tier.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    report = run_adapter(TierHarness("fs", {"root_dir": "{tmp}/kv", "enable_kv_events": True}), profile="quick")
    failed = [result.id for result in report.failures()]
    assert failed == ["DOR-V12", "DOR-V18", "DOR-V19"], "\n".join(r.message() for r in report.failures())
