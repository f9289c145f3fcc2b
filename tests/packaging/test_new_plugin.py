"""A generated plugin is green without an edit: built, installed in a fresh environment, its own CI script run there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lms_tiers.cli.new_plugin import write_plugin
from lms_tiers.errors import ConfigError
from tests.depth import nightly
from tests.packaging.environment import ONCE, Environment, build
from tests.plugins.redis.engine import needs_server

fresh = [pytest.mark.deep, pytest.mark.leaks_allowed]


@pytest.mark.parametrize(
    ("kind", "name", "licence"),
    [
        ("backend", "my-shelf", "MIT"),
        pytest.param("remote", "far-shelf", "MIT", marks=[needs_server, nightly]),
        ("policy", "mine", "Apache-2.0"),
        ("codec", "squeeze", "BSD-3-Clause"),
    ],
)
class TestGenerated:
    pytestmark = fresh

    def test_its_own_ci_script_is_green(
        self, environment: Environment, tmp_path: Path, kind: str, name: str, licence: str
    ) -> None:
        project = tmp_path / f"lms-tiers-{name}"
        write_plugin(name, kind, project, licence, "somebody")
        (wheel,) = build(project, tmp_path / "build", "--wheel")
        environment.pip(wheel)
        shutil.rmtree(project / "src")  # what runs below is what was installed
        done = environment.run("env", *ONCE, "bash", "ci.sh", cwd=project, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        listing = json.loads(environment.run(environment.lms_tiers, "plugins", "--json", check=False).stdout)
        (plugin,) = [p for p in listing["plugins"] if p["name"] == name]
        assert (plugin["state"], plugin["distribution"]) == ("ok", f"lms-tiers-{name}")
        if kind != "codec":
            report = json.loads((project / "reports" / "conformance.json").read_text())
            assert report


def test_the_licence_and_the_names_are_filled_in(tmp_path: Path) -> None:
    written = write_plugin("my-shelf", "backend", tmp_path / "p", "MIT", "Ada")
    assert not any("@@" in path.read_text() for path in written)
    assert "Ada" in (tmp_path / "p" / "LICENSE").read_text()
    assert (tmp_path / "p" / "src" / "lms_tiers_my_shelf" / "backend.py").exists()
    assert (tmp_path / "p" / "ci.sh").stat().st_mode & 0o100


@pytest.mark.parametrize("name", ["", "Upper", "under_score", "-x", "x--y", "../x", "cpu"])
def test_a_name_that_cannot_be_used_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        write_plugin(name, "backend", tmp_path / "p", "MIT", "Ada")
    assert not (tmp_path / "p").exists()


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        write_plugin("shelf", "backend", tmp_path, "MIT", "Ada")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
