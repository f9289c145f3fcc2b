"""A fresh environment with this project from its wheel, made once for the tests of what third parties install."""

from __future__ import annotations

import venv
from pathlib import Path

import pytest

from tests.packaging.environment import ROOT, Environment, build


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's wheel."""
    (built,) = build(ROOT, tmp_path_factory.mktemp("wheel"), "--wheel")
    return built


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """A fresh environment with the wheel and its extra `conformance`."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home / "venv", with_pip=True)
    (home / "work").mkdir()
    fresh = Environment(home / "venv", home / "work")
    fresh.pip(f"lms-tiers[conformance,metrics] @ {wheel.as_uri()}")
    return fresh
