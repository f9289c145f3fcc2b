"""What is released: a wheel and a source distribution that build clean, install, and work."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

import lms_tiers
from tests.packaging.environment import ROOT, Environment, build

pytestmark = [pytest.mark.deep, pytest.mark.leaks_allowed]


def test_the_wheel_holds_both_packages_typed_with_licence_and_templates(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "lms_tiers/py.typed",
        "lms_conformance/py.typed",
        "lms_tiers/cli/templates/backend/ci.sh.tmpl",
        "lms_tiers/cli/templates/common/.github/workflows/conformance.yml.tmpl",
    ):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {
        "lms_tiers", "lms_conformance", f"lms_tiers-{lms_tiers.__version__}.dist-info",
    }  # fmt: skip


def test_the_source_distribution_builds_the_same_wheel(tmp_path: Path, wheel: Path) -> None:
    (sdist,) = build(ROOT, tmp_path, "--sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (again,) = build(next((tmp_path / "unpacked").iterdir()), tmp_path / "again", "--wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_metadata_passes_the_index_checks(tmp_path: Path, wheel: Path) -> None:
    own = Environment.make(tmp_path)
    own.pip("twine")
    done = own.run("twine", "check", "--strict", wheel)
    assert "PASSED" in done.stdout


def test_the_installed_wheel_has_the_kit_and_its_version(installed: Environment) -> None:
    """The whole of the kit is typed in README."""
    done = installed.run(installed.lms_tiers, "conform", "cpu", "--profile", "quick", "--only", "KEY", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    version = installed.run(installed.lms_tiers, "--version").stdout
    assert version.strip() == f"lms-tiers {lms_tiers.__version__}"
