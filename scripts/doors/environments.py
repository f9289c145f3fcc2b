"""Environments for engines: a virtual one each, over the packages of the interpreter that makes it.

Nothing is downloaded twice: releases are kept in the folder, and torch is that of this project's own environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Final

from scripts.doors.engine import ROOT, Engine, Failed, Made, newest_releases

_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "-q")


def _pip(python: Path, *arguments: str) -> str:
    done = subprocess.run([str(python), *_PIP, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"pip {' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout


def releases(engine: Engine, folder: Path, count: int) -> list[str]:
    """The newest `count` releases that can be had, newest first."""
    listed = _pip(_tool(folder), "index", "versions", "-v", engine.package)  # `-q` alone keeps the list back
    return newest_releases(listed, count)


def _tool(folder: Path) -> Path:
    """An environment with nothing but pip in it: this project's own may have none."""
    return _virtual(folder / "pip")


def _virtual(place: Path) -> Path:
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    return python


def _site(python: Path) -> Path:
    return python.parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _unzipped(engine: Engine, version: str, folder: Path) -> None:
    """Put the Python files of a release's wheel into `folder`; the wheel itself, which may be large, is not kept."""
    wheels = folder.parent / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    wanted = ["--no-deps", "--only-binary=:all:", "-d", str(wheels), f"{engine.package}=={version}"]
    _pip(_tool(folder.parents[1]), "download", *wanted)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith((".py", "METADATA"))])
    shutil.rmtree(wheels)


def environment(engine: Engine, version: str, folder: Path) -> Made:
    """The environment of one release, made on first use and whenever what it is made of has changed.

    Raises
    ------
    Failed
        A package cannot be had or installed.
    """
    place = folder / f"{engine.name}-{version}"
    sources, done = place / "sources", place / "made-of"
    made_of = "\n".join([sys.version, sysconfig.get_path("purelib"), *engine.needs])
    python = place / "env" / "bin" / "python"
    if not done.exists() or done.read_text() != made_of:
        print(f"making {place.name} (a few minutes)", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        _virtual(place / "env")
        # By `addsitedir`, which reads that folder's own .pth files too; a plain path in a .pth would not.
        below = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (_site(python) / "below.pth").write_text(below)
        if engine.needs:
            _pip(python, "install", "-c", str(ROOT / "constraints.txt"), *engine.needs)
        if engine.sources:
            _unzipped(engine, version, sources)
        else:
            _pip(python, "install", "--no-deps", f"{engine.package}=={version}")
        done.write_text(made_of)
    # The project before all others: the environment below may hold another checkout of it.
    path = [str(ROOT / engine.stubs)] if engine.stubs else []
    path += [str(sources)] if engine.sources else []
    path += [str(ROOT), str(ROOT / "conformance")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "LMS_DOORS_ENGINE": engine.name, **engine.environ}
    scratch = place / "scratch"
    return Made(version, python, scratch, place / "logs" / "check.log", environ)
