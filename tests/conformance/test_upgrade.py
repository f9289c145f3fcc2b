"""Two releases of a plugin, built here and installed side by side: one wrote, the other opens, and back."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from lms_conformance.run import run_properties
from lms_conformance.upgrade.environment import release
from lms_conformance.upgrade.predecessor import here, old_release
from lms_conformance.violation import Violation
from lms_conformance.zoo.harnesses import ReferenceHarness

from lms_tiers.errors import ConfigError

pytestmark = pytest.mark.leaks_allowed

#: A plugin that keeps files as the kit's reference does; `SUFFIX` and `READS` are what differs between releases.
PLUGIN = """
from lms_conformance.zoo.files import FileReference
from lms_tiers.errors import FormatError
from lms_tiers.hookspecs import BackendSpec, hookimpl

VERSION = {version!r}

class Backend(FileReference):
    def __init__(self, path, capacity=None):
        import pathlib
        mark = pathlib.Path(path, "format")
        found = mark.read_text() if mark.exists() else VERSION
        if found not in {reads!r}:
            raise FormatError(path, found, VERSION)
        super().__init__(path, capacity)
        mark.write_text(VERSION)

def open_backend(location, capacity=None, options=None):
    return Backend(location)

@hookimpl
def register_backends(register):
    register(BackendSpec(name="mine", factory="mine:open_backend", summary="files", example="mine:{{tmp}}/kv"))
"""


def wheel(folder: Path, version: str, reads: tuple[str, ...]) -> Path:
    """A wheel of the plugin, by hand: two metadata files, an entry point and a module."""
    info, files = f"mine-{version}.dist-info", {}
    files["mine.py"] = textwrap.dedent(PLUGIN).format(version=version, reads=reads)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: mine\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = "[lms_tiers]\nmine = mine\n"
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text.encode())}\n"
        for name, text in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    made = folder / f"mine-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made


def unpacked(made: Path, folder: Path) -> Path:
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder)
    return folder


def conform(new: Path, old: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """`lms-tiers conform` with the new release on its path, and the old one named."""
    path = os.pathsep.join([str(unpacked(new, tmp_path / "new")), *(p for p in sys.path if p)])
    command = [
        sys.executable,
        "-m",
        "lms_tiers",
        "conform",
        "mine",
        "--only",
        "UPG",
        "--from",
        str(old),
        "--profile",
        "quick",
    ]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, check=False
    )


@pytest.mark.deep
def test_the_release_before_writes_and_this_one_opens_and_back(tmp_path: Path) -> None:
    old = wheel(tmp_path, "0.3", reads=("0.3",))
    done = conform(wheel(tmp_path, "0.4", reads=("0.3", "0.4")), old, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3/3" in done.stdout, "one opens the other's places and not the reverse: that is all but UPG-04"
    assert "≈" not in done.stdout


@pytest.mark.deep
def test_a_release_that_does_not_open_what_the_one_before_wrote_is_told(tmp_path: Path) -> None:
    old = wheel(tmp_path, "0.3", reads=("0.3",))
    done = conform(wheel(tmp_path, "0.5", reads=("0.5",)), old, tmp_path)
    assert "UPG-01≈" in done.stdout, done.stdout + done.stderr


def test_a_release_that_cannot_be_installed_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be installed"), release(str(tmp_path / "none-1.0-py3-none-any.whl")):
        pass


def test_without_a_release_before_nothing_is_asked() -> None:
    report = run_properties(ReferenceHarness("memory"), profile="quick", only=["UPG"])
    assert report.required == 0
    assert "--from" in report.results[0].reason or "persistent" in report.results[0].reason


def test_what_the_release_before_raises_is_told_and_its_end_too(tmp_path: Path) -> None:
    with old_release(here("lms_conformance.zoo.files:FileReference")) as old:
        order = {
            "path": str(tmp_path),
            "capacity": None,
            "opener": "lms_conformance.zoo.files:FileReference",
            "arity": 2,
        }
        assert old.ask(do="open", **order) == {}
        assert old.ask(do="open", **order)["raised"] == "StorageLockedError"
        with pytest.raises(Violation, match="InvalidKeyError"):
            old.do(do="remove", key="")
        old.kill()
        with pytest.raises(Violation, match="its end"):
            old.do(do="keys")
