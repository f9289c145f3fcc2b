"""`lms-tiers conform`: what cannot be done is said before the run, and what is printed can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from lms_conformance.outcome import Result, Status
from lms_conformance.spec import SPEC_VERSION
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.cli.conform import _Progress
from lms_tiers.errors import ConfigError, StorageUnavailableError


@pytest.mark.parametrize("option", ["--json", "--html", "--junit", "--badge"])
def test_a_report_that_could_not_be_written_is_refused_before_the_run(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lms_conformance.run_supervised", lambda *args, **named: pytest.fail("it ran"))
    for place, says in ((tmp_path / "absent" / "report", "no directory"), (tmp_path, "is a directory")):
        result = CliRunner().invoke(app, ["conform", "cpu", option, str(place)])
        assert isinstance(result.exception, StorageUnavailableError)
        assert says in str(result.exception)


def test_a_report_of_any_kind_on_standard_output_is_nothing_but_the_report() -> None:
    result = CliRunner().invoke(app, ["conform", "cpu", "--profile", "quick", "--only", "CNT-05", "--junit", "-"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("<")
    assert "✓" not in result.stdout


def test_a_spec_that_does_not_exist_yet_certifies_nothing() -> None:
    result = CliRunner().invoke(app, ["conform", "cpu", "--profile", "quick", "--only", "KEY-01", "--spec", "9.9"])
    assert isinstance(result.exception, ConfigError)
    assert f"this kit knows the spec up to {SPEC_VERSION}, not 9.9." in str(result.exception)


def test_the_help_names_the_table_of_the_waivers_file() -> None:
    result = CliRunner().invoke(app, ["conform", "--help"], env={"COLUMNS": "200"})
    assert "TOML file of [[waiver]] tables" in result.output


def test_a_blank_stands_before_the_marks_of_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    from lms_conformance.spec import FAMILIES

    view = _Progress(quiet=False)
    for family in FAMILIES:
        view.show(Result(f"{family}-01", "It holds.", Status.PASSED))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FAMILIES)
    assert all(" ✓" in line for line in lines)
    assert len({line.index("✓") for line in lines}) == 1
