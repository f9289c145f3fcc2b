"""A backend that kills the process it runs in is a named result, and the properties after it still run."""

from __future__ import annotations

import datetime
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from lms_conformance import ConformanceError, FactoryHarness, Waiver, run_supervised
from lms_conformance.outcome import Status
from lms_conformance.zoo.memory import MemoryReference

from lms_tiers import CacheEngineKey, ChunkMeta
from lms_tiers.errors import ConfigError


class DiesInGetInto(MemoryReference):
    """As native code does that writes where it must not."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        os.kill(os.getpid(), signal.SIGSEGV)
        return None


class DiesAtOpening(MemoryReference):
    def __init__(self, path: str = "") -> None:
        os.kill(os.getpid(), signal.SIGABRT)


class LeavesInFlush(MemoryReference):
    """As a library does that calls exit()."""

    def flush(self, timeout: float | None = None) -> None:
        os._exit(3)


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())


def test_a_segmentation_fault_is_the_result_of_the_property_that_ran() -> None:
    told: list[str] = []
    report = run_supervised(
        FactoryHarness(DiesInGetInto), profile="quick", only=["GET", "OVR-01"],
        waivers=[Waiver("GET-05", "mended in its next release", datetime.date(9999, 12, 31))],
        on_result=lambda r: told.append(r.id),
    )  # fmt: skip
    found = {r.id: r.status for r in report.results}
    assert list(found) == told == [f"GET-0{i}" for i in range(1, 8)] + ["OVR-01"]
    assert {k for k, status in found.items() if status is Status.CRASHED} == {"GET-04"}
    assert found.pop("GET-05") is Status.WAIVED
    assert {status for k, status in found.items() if k != "GET-04"} == {Status.PASSED}
    assert not report.ok
    (crash,) = report.failures()
    assert "SIGSEGV" in crash.got
    assert "get_into" in crash.trace
    assert "backend.get_into(key('a')" in crash.program
    assert "survive" in crash.message()


def test_a_backend_that_ends_the_process_is_told_by_its_exit_status() -> None:
    report = run_supervised(FactoryHarness(LeavesInFlush), profile="quick", only=["RES-06", "RES-03"])
    assert [r.status for r in report.results] == [Status.CRASHED] * 2
    assert "exit status 3" in report.results[0].got


def test_a_backend_that_dies_at_opening_cannot_be_tried() -> None:
    with pytest.raises(ConformanceError, match="opening DiesAtOpening died of SIGABRT"):
        run_supervised(FactoryHarness(DiesAtOpening), only=["GET"])


def test_a_wrong_request_is_told_as_without_supervision() -> None:
    with pytest.raises(ConfigError, match="there is no property"):
        run_supervised(FactoryHarness(MemoryReference), only=["XXX-01"])


def test_a_closure_runs_in_this_process() -> None:
    report = run_supervised(FactoryHarness(lambda: MemoryReference()), only=["CNT-05"])
    assert report.ok
