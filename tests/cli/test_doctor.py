"""`lms-tiers doctor`: it says what is there, and what to mend where something is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app, doctor
from lms_tiers.errors import ConfigError
from lms_tiers.registry import BUILTINS


def test_a_healthy_environment_has_no_fault(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    findings = {f["subject"]: f for f in json.loads(done.stdout)}
    assert done.exit_code == 0, [f for f in findings.values() if f["state"] == "fault"]
    assert {"lms-tiers", "python", "torch", "lmdb", "accelerator", "locked memory", f"disk {tmp_path}"} <= set(findings)
    assert {f"plugin {name}" for name in BUILTINS} <= set(findings)
    assert findings["backend lmdb"]["value"].startswith("contract 1.")


def test_a_missing_directory_is_a_fault_with_advice(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(tmp_path / "absent")])
    assert done.exit_code == 1
    assert "no such directory" in done.stdout.replace("\n", " ") or "directory" in done.stdout


def test_a_file_in_place_of_the_directory_is_said_to_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (finding,) = [f for f in doctor.examine(file) if f.subject.startswith("disk")]
    assert (finding.state, finding.value) == ("fault", "a file, not a directory")
    assert "create" not in finding.advice


def test_a_network_file_system_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_file_system", lambda path: "nfs4")
    (finding,) = [f for f in doctor.examine(tmp_path) if f.subject.startswith("disk")]
    assert finding.state == "fault"
    assert "local disk" in finding.advice


def test_a_device_that_does_not_fit_is_a_note_and_a_fault_where_it_is_strict(tmp_path: Path) -> None:
    arguments = [
        "doctor",
        str(tmp_path),
        "--json",
        "--device",
        f"cpu?capacity=900TiB > lmdb:{tmp_path}/kv?capacity=901TiB",
    ]
    for strict, status in ((False, 0), (True, 1)):
        done = CliRunner().invoke(app, arguments + ["--strict"] * strict)
        found = [f for f in json.loads(done.stdout) if f["subject"] == "device"]
        assert done.exit_code == status
        assert [f["state"] for f in found] == ["fault" if strict else "note"] * 2
        assert all("TiB" in f["value"] and f["advice"].startswith("lower") for f in found)


def test_a_device_that_fits_is_said_to(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json", "--device", "cpu?capacity=1MiB", "--strict"])
    findings = {f["subject"]: f for f in json.loads(done.stdout)}
    assert (done.exit_code, findings["device"]["state"], findings["memory"]["state"]) == (0, "ok", "ok")


def test_strict_without_a_device_says_what_it_is_for(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(tmp_path), "--strict"])
    assert isinstance(done.exception, ConfigError)


def test_options_of_the_store_are_looked_at_too(tmp_path: Path) -> None:
    good, bad = (f"store?{option}=1s > cpu?capacity=1MiB" for option in ("stall", "stal"))
    assert CliRunner().invoke(app, ["doctor", str(tmp_path), "--device", good]).exit_code == 0
    done = CliRunner().invoke(app, ["doctor", str(tmp_path), "--device", bad])
    assert done.exit_code
    assert isinstance(done.exception, ConfigError)
    assert done.exception.nearest == "stall"
