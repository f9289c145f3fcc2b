"""The three doors run the same properties: command line, pytest, and plain function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lms_conformance import check_backend
from typer.testing import CliRunner

from lms_tiers.cli import app, main
from lms_tiers.plugins.cpu import LMSLocalBackend

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ["-p", "lms_conformance.pytest_door"]


def run_pytest(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # The suite under test runs in a process of its own, whatever runs this test.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    environment = {**outside, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'conformance'}", "PYTEST_ADDOPTS": ""}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_line_writes_every_report(tmp_path: Path) -> None:
    names = {"--json": "r.json", "--html": "r.html", "--junit": "r.xml", "--badge": "b.json"}
    options = [part for option, name in names.items() for part in (option, str(tmp_path / name))]
    result = CliRunner().invoke(
        app, ["conform", "cpu", "--profile", "quick", "--only", "KEY", "--only", "LST-02", *options]
    )
    assert result.exit_code == 0, result.output
    assert "✓" in result.output
    data = json.loads((tmp_path / "r.json").read_text())
    assert {r["family"] if "family" in r else r["id"][:3] for r in data["results"]} == {"KEY", "LST"}
    assert data["backend"].endswith("LMSLocalBackend")
    for name in names.values():
        assert (tmp_path / name).stat().st_size > 100


def test_json_on_standard_output_is_nothing_but_json() -> None:
    result = CliRunner().invoke(app, ["conform", "cpu", "--profile", "quick", "--only", "CNT-05", "--json", "-"])
    assert json.loads(result.stdout)["ok"] is True


@pytest.mark.parametrize(
    "arguments",
    [["nosuch"], ["cpu", "--only", "XXX-01"], ["cpu", "--profile", "huge"], ["lmdb:/data"], ["cpu", "--spec", "x"]],
)
def test_what_cannot_be_tried_is_status_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lms-tiers", "conform", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [["-k", "test_key or test_rmv"], pytest.param([], marks=pytest.mark.deep)])
def test_pytest_runs_the_kit_on_a_device(tmp_path: Path, chosen: list[str]) -> None:
    asked = ["--lms-device", "cpu", "--lms-profile", "quick"]
    done = run_pytest(*PLUGIN, "--pyargs", "lms_conformance", *asked, *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not applicable" in done.stdout


def test_pytest_without_a_device_says_what_to_name(tmp_path: Path) -> None:
    done = run_pytest(*PLUGIN, "--pyargs", "lms_conformance", cwd=tmp_path)
    assert done.returncode != 0
    assert "--lms-device" in done.stdout + done.stderr


def test_a_users_file_runs_the_suite_and_fails_where_it_must(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from lms_conformance import conformance_suite\n"
        "from lms_conformance.zoo.harnesses import MutantHarness\n"
        "TestMine = conformance_suite(MutantHarness('folds-case'), profile='quick')\n"
    )
    done = run_pytest("test_mine.py", "-k", "key_04 or key_02 or every_required", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "KEY-02: Keys that differ only in case are different keys." in done.stdout
    assert "required properties that did not run" in done.stdout
    assert "1 passed" in done.stdout


def test_the_plain_function_answers_a_report() -> None:
    report = check_backend(LMSLocalBackend, profile="quick", only=["OVR"])
    assert report.ok
    assert not report.complete


def test_the_pytest_plugin_imports_neither_hypothesis_nor_torch() -> None:
    code = (
        "import sys; import lms_conformance.pytest_door, lms_tiers.cli.conform;"
        "print([m for m in ('hypothesis', 'torch', 'lmdb') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'conformance'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
