"""`lms-tiers new-plugin`: a place that cannot be written is said to be one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import StorageUnavailableError


@pytest.mark.parametrize("place", ["", "below"])
def test_a_directory_that_cannot_be_made_is_a_typed_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "p" / place
    result = CliRunner().invoke(app, ["new-plugin", "zz", "-C", str(target)])
    assert isinstance(result.exception, StorageUnavailableError)
    assert str(result.exception).startswith(f"{target}: cannot be written: ")
