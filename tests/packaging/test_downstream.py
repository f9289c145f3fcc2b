"""Plugins as the last release generated them, never edited since: each builds, installs and passes its own suite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.packaging.environment import ROOT, Environment, build

pytestmark = [pytest.mark.deep, pytest.mark.leaks_allowed]

KEPT = sorted((ROOT / "downstream").glob("lms-tiers-*"))


@pytest.mark.parametrize("source", KEPT, ids=lambda p: p.name)
def test_what_an_earlier_release_generated_passes_its_own_suite(
    environment: Environment, tmp_path: Path, source: Path
) -> None:
    environment.pip(*build(source, tmp_path / "build", "--wheel"))
    shutil.copytree(source / "tests", tmp_path / "tests")
    done = environment.run(environment.python, "-m", "pytest", "-q", tmp_path / "tests", cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    listing = json.loads(environment.run(environment.lms_tiers, "plugins", "--json", check=False).stdout)
    found = {plugin["distribution"]: plugin["state"] for plugin in listing["plugins"]}
    assert found[source.name] == "ok"


def test_each_kind_of_plugin_is_kept() -> None:
    hooks = [next(source.glob("src/*/__init__.py")).read_text() for source in KEPT]
    for kind in ("backends", "policies", "codecs"):
        assert sum(f"def register_{kind}(" in text for text in hooks) == 1
