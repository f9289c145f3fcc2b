"""The three doors run the same properties: command line, pytest, and plain function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lms_conformance import check_backend
from lms_conformance.reports import to_json
from typer.testing import CliRunner

from lms_tiers.cli import app, main
from lms_tiers.errors import ConfigError
from lms_tiers.plugins.cpu import LMSLocalBackend
from tests.depth import nightly

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


@pytest.mark.deep
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


@pytest.mark.parametrize(
    "chosen", [["-k", "test_key_0 or test_cnt_01"], pytest.param([], marks=[pytest.mark.deep, nightly])]
)
def test_pytest_runs_the_kit_on_a_device(tmp_path: Path, chosen: list[str]) -> None:
    asked = ["--lms-device", "cpu", "--lms-profile", "quick"]
    done = run_pytest(*PLUGIN, "--pyargs", "lms_conformance", *asked, *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not applicable" in done.stdout


def test_pytest_without_a_device_says_what_to_name(tmp_path: Path) -> None:
    done = run_pytest(*PLUGIN, "--pyargs", "lms_conformance", cwd=tmp_path)
    assert done.returncode != 0
    assert "--lms-device" in done.stdout + done.stderr


@pytest.mark.deep
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


#: Ways to be rid of a property, that is KEY-02; each is one file of a suite.
TAMPERINGS = [
    "class TestMine(conformance_suite(MemoryReference)):\n    def test_key_02(self): pass\n",
    "class TestMine(conformance_suite(MemoryReference)):\n    test_key_02 = None\n",
    "TestMine = conformance_suite(MemoryReference)\ndel TestMine.test_key_02\n",
    "TestMine = conformance_suite(MemoryReference)\nTestMine.test_key_02 = lambda self: None\n",
]
WITH_THE_CHECK = "class TestMine(conformance_suite(MemoryReference)):\n    test_zz_every_required_property_ran = test_key_02 = None\n"


def tampered(folder: Path, *ways: str) -> list[str]:
    head = "from lms_conformance import conformance_suite\nfrom lms_conformance.zoo.memory import MemoryReference\n"
    for i, way in enumerate(ways):
        (folder / f"test_mine{i}.py").write_text(head + way)
    return ["-k", "key_06 or every_required", "-rfE"]


@pytest.mark.deep
def test_a_property_that_was_deleted_or_overridden_fails_the_suite(tmp_path: Path) -> None:
    alone = run_pytest(*tampered(tmp_path, *TAMPERINGS), cwd=tmp_path)
    assert alone.returncode == 1, alone.stdout
    for i in range(len(TAMPERINGS)):
        assert f"FAILED test_mine{i}.py::TestMine::test_zz_every_required_property_ran" in alone.stdout, alone.stdout
    assert alone.stdout.count("deleted or overridden: test_key_02") >= len(TAMPERINGS)


@pytest.mark.parametrize("ways", [TAMPERINGS[:1], [WITH_THE_CHECK]], ids=["the-property", "the-check-as-well"])
def test_the_plugin_says_what_was_deleted_or_overridden(tmp_path: Path, ways: list[str]) -> None:
    done = run_pytest(*PLUGIN, *tampered(tmp_path, *ways), cwd=tmp_path)
    assert done.returncode not in (0, 5), done.stdout
    assert "test_key_02" in done.stdout
    assert "waived" in done.stdout


@pytest.mark.deep
def test_a_run_is_repeated_from_its_report(tmp_path: Path) -> None:
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    only = ["--only", "OVR-06", "--only", "CON-05", "--only", "EVI-05"]
    told = CliRunner().invoke(
        app, ["conform", "cpu", "--profile", "quick", "--seed", "7", *only, "--strict", "--json", str(first)]
    )
    assert told.exit_code == 0, told.output
    then = json.loads(first.read_text())
    (drawn,) = (r for r in then["results"] if r["id"] == "OVR-06")
    drawn["examples"] = 9  # as if it had been cut down
    first.write_text(json.dumps(then))
    done = CliRunner().invoke(app, ["conform", "--reproduce", str(first), "--json", str(again)])
    assert done.exit_code == 0, done.output
    assert "as then: 3 outcomes" in done.output
    now = json.loads(again.read_text())
    assert [now[k] for k in ("subject", "seed", "profile", "spec", "only", "strict")] == [
        then[k] for k in ("subject", "seed", "profile", "spec", "only", "strict")
    ]
    for before, after in zip(then["results"], now["results"], strict=True):
        assert (after["id"], after["status"], after["examples"]) == (before["id"], before["status"], before["examples"])
    CliRunner().invoke(app, ["conform", "--reproduce", str(again), "--json", str(first)])
    assert [r["calls"] for r in json.loads(first.read_text())["results"]] == [r["calls"] for r in now["results"]]


def test_what_cannot_be_repeated_says_so(tmp_path: Path) -> None:
    from lms_conformance.reproduce import Past, read_past

    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(ConfigError, match="no report"):
        read_past(tmp_path / "no.json", None)
    report = check_backend(LMSLocalBackend, profile="quick", only=["OVR-01"])
    report.subject = "redis:host?password=***"
    (tmp_path / "r.json").write_text(to_json(report))
    with pytest.raises(ConfigError, match="secret"):
        read_past(tmp_path / "r.json", None)
    report.environment["hypothesis"] = "1.0"
    assert [note.partition(" ")[0] for note in Past(report).notes()] == ["hypothesis"]


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
