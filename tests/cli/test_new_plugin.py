"""`lms-tiers new-plugin`: what a template declares, and that a place that cannot be written is said to be one."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.hookspecs import BackendSpec


@pytest.mark.parametrize("place", ["", "below"])
def test_a_directory_that_cannot_be_made_is_a_typed_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "p" / place
    result = CliRunner().invoke(app, ["new-plugin", "zz", "-C", str(target)])
    assert isinstance(result.exception, StorageUnavailableError)
    assert str(result.exception).startswith(f"{target}: cannot be written: ")


def test_a_backend_made_from_the_template_declares_its_medium(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["new-plugin", "zz", "-C", str(tmp_path)]).exit_code == 0
    (init,) = tmp_path.rglob("src/*/__init__.py")
    specs: list[BackendSpec] = []
    runpy.run_path(str(init))["register_backends"](specs.append)
    assert [spec.medium for spec in specs] == ["memory"]
