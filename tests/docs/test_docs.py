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
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CreateStorageBackend" in (tmp_path / "site" / "api" / "index.html").read_text()
    assert 'href="../board/"' in (tmp_path / "site" / "results" / "index.html").read_text()
    assert "No runs here" in (tmp_path / "site" / "board" / "index.html").read_text(), "there are no reports yet"


def test_the_device_reference_is_what_the_plugins_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.devices_page", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_api_page_is_what_the_docstrings_say_and_reads_without_a_site() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.api_page", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert "\n:::" not in page
    headings = {line.strip("#` ") for line in page.splitlines() if line.startswith("###")}
    aliases = {"CONTRACT_VERSION", "hookimpl"}  # a text and a marker, named in the contract and the tutorial
    assert set(lms_tiers.__all__) - headings <= aliases
    assert {
        "TieredStore.pin",
        "LMSBackendInterface.get_many_into",
        "StorageFullError",
        "EvictionPolicy.admit",
    } <= headings


def test_every_version_says_whether_the_data_must_be_dropped() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = changelog.split("\n## ")[1:]
    assert versions
    for version in versions:
        first = version.partition("\n")[2].strip()
        assert first.startswith(("**Must the data be dropped?** Yes, ", "**Must the data be dropped?** No")), version[
            :40
        ]


def test_every_public_name_has_a_docstring() -> None:
    for name in lms_tiers.__all__:
        value = getattr(lms_tiers, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    for name, value in vars(errors).items():
        if inspect.isclass(value) and value.__module__ == errors.__name__:
            assert value.__doc__, name
