"""A backend that kills the process it runs in is a named result, and the properties after it still run."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lms_conformance import ConformanceError, FactoryHarness, Waiver, run_supervised
from lms_conformance.outcome import Status
from lms_conformance.zoo.memory import MemoryReference

from lms_tiers import CacheEngineKey, ChunkMeta, ClientMetaMessage
from lms_tiers.errors import ConfigError


class DiesInGetInto(MemoryReference):
    """As native code does that writes where it must not."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        signal.raise_signal(signal.SIGSEGV)  # to this very thread, as a bad access is
        return None


class DiesAtOpening(MemoryReference):
    def __init__(self, path: str = "") -> None:
        signal.raise_signal(signal.SIGABRT)


class LeavesInFlush(MemoryReference):
    """As a library does that calls exit()."""

    def flush(self, timeout: float | None = None) -> None:
        os._exit(3)


class Waits(MemoryReference):
    """As a driver does that never answers."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        Path(os.environ["WAITS_PID"]).write_text(str(os.getpid()))
        threading.Event().wait()


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.deep
def test_a_segmentation_fault_is_the_result_of_the_property_that_ran() -> None:
    told: list[str] = []
    report = run_supervised(
        FactoryHarness(DiesInGetInto), profile="quick", only=["GET-03", "GET-04", "GET-05", "OVR-01"],
        waivers=[Waiver("GET-05", "mended in its next release", datetime.date(9999, 12, 31))],
        on_result=lambda r: told.append(r.id),
    )  # fmt: skip
    found = {r.id: r.status for r in report.results}
    assert list(found) == told == ["GET-03", "GET-04", "GET-05", "OVR-01"]
    assert {k for k, status in found.items() if status is Status.CRASHED} == {"GET-04"}
    assert found.pop("GET-05") is Status.WAIVED
    assert {status for k, status in found.items() if k != "GET-04"} == {Status.PASSED}
    assert not report.ok
    (crash,) = report.failures()
    assert "SIGSEGV" in crash.got
    assert "get_into" in crash.trace
    assert "backend.get_into(key('a')" in crash.program
    assert "survive" in crash.message()


@pytest.mark.deep
def test_a_backend_that_ends_the_process_is_told_by_its_exit_status() -> None:
    report = run_supervised(FactoryHarness(LeavesInFlush), profile="quick", only=["RES-06", "TEN-01"])
    assert [r.status for r in report.results] == [Status.CRASHED, Status.PASSED]
    assert "exit status 3" in report.results[0].got


def test_a_backend_that_dies_at_opening_cannot_be_tried() -> None:
    with pytest.raises(ConformanceError, match="opening DiesAtOpening died of SIGABRT"):
        run_supervised(FactoryHarness(DiesAtOpening), only=["GET"])


def test_a_wrong_request_is_told_as_without_supervision() -> None:
    with pytest.raises(ConfigError, match="there is no property"):
        run_supervised(FactoryHarness(MemoryReference), only=["XXX-01"])


def test_a_run_whose_parent_is_killed_ends_and_leaves_nothing(tmp_path: Path) -> None:
    told = tmp_path.parent / "waits.pid"
    code = (
        "import tempfile; from lms_conformance import FactoryHarness, run_supervised; import test_supervise as t;"
        f"tempfile.tempdir = {str(tmp_path)!r}; run_supervised(FactoryHarness(t.Waits), only=['GET-01', 'OVR-01'])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    environment["WAITS_PID"] = str(told)
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        _until(lambda: told.exists() and told.read_text())
        parent.kill()
    child = int(told.read_text())
    _until(lambda: not Path(f"/proc/{child}").exists() and not list(tmp_path.iterdir()))


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_a_closure_runs_in_this_process() -> None:
    report = run_supervised(FactoryHarness(lambda: MemoryReference()), only=["CNT-05"])
    assert report.ok
