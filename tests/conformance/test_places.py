"""Where a run makes its places, and what it leaves there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lms_conformance import FactoryHarness, run_supervised
from lms_conformance.outcome import Status
from lms_conformance.places import VARIABLE, folder_of, memory
from lms_conformance.profiles import profile
from lms_conformance.run import run_properties
from lms_conformance.zoo.files import FileReference


def test_places_of_a_quick_run_are_in_memory_but_for_what_outlives_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert folder_of("OVR", profile("quick")) == str(tmp_path)
    assert [folder_of(family, profile("quick")) for family in ("PER", "CRA", "UPG", "DOR")] == [None] * 4
    assert folder_of("OVR", profile("ci")) is None
    monkeypatch.setenv(VARIABLE, "")
    assert folder_of("OVR", profile("quick")) is None


def test_a_small_file_system_in_memory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    real = os.statvfs("/")
    small = os.statvfs_result((real.f_bsize, 4096, 16384, 16384, 16384, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    assert memory() is None


def test_a_run_opens_its_backends_there_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    seen: list[str] = []

    def opened(path: str) -> FileReference:
        seen.append(path)
        return FileReference(path)

    report = run_properties(FactoryHarness(opened), profile="quick", only=["GET-01"])
    assert report.results[0].status is Status.PASSED
    assert any(Path(path).parent == tmp_path for path in seen)
    assert not list(tmp_path.iterdir())


class Dies(FileReference):
    """Kills its process when it is read."""

    def get(self, key: object) -> None:
        os.abort()


def test_what_a_killed_run_had_in_memory_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    report = run_supervised(FactoryHarness(Dies), profile="quick", only=["GET-02"])
    assert report.results[0].status is Status.CRASHED
    assert not list(tmp_path.iterdir())
