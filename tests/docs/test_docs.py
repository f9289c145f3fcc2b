"""The documentation builds strictly, names everything public, and its generated pages are fresh."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lms_tiers
from lms_tiers import errors

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.deep
@pytest.mark.leaks_allowed
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CreateStorageBackend" in (tmp_path / "site" / "api" / "index.html").read_text()


def test_the_device_reference_is_what_the_plugins_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.devices_page", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_has_a_docstring() -> None:
    for name in lms_tiers.__all__:
        value = getattr(lms_tiers, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    for name, value in vars(errors).items():
        if inspect.isclass(value) and value.__module__ == errors.__name__:
            assert value.__doc__, name
