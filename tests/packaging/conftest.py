"""This project's wheel and an environment with it, made once a run, and environments beside that for what installs more."""

from __future__ import annotations

import fcntl
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.environment import ROOT, Environment, build


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The environment takes long to install: a test of it comes first of all, before others have to wait for it."""
    items.sort(key=lambda item: not item.name.startswith("test_the_installed_wheel"))


#: Answers a folder by its name, filled by the function where nobody has filled it yet.
MadeOnce = Callable[[str, Callable[[Path], object]], Path]

#: Makes an environment in a folder, with a pip of its own or without.
Beside = Callable[..., Environment]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """A folder by its name, filled by the first process of the run that asks for it; the others wait."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        folder, whole = run / name, run / f"{name}.whole"
        with (run / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                folder.mkdir()  # fails in those that wait where the first one failed
                fill(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def wheel(made_once: MadeOnce) -> Path:
    """This project's wheel."""
    (built,) = (made_once("wheel", lambda to: build(ROOT, to, "--wheel")) / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(made_once: MadeOnce, wheel: Path) -> Environment:
    """A fresh environment with the wheel and its extras, from nothing. Tests that share it install nothing into it."""

    def fill(home: Path) -> None:
        Environment.make(home).pip(f"lms-tiers[conformance,metrics] @ {wheel.as_uri()}")

    home = made_once("environment", fill)
    return Environment(home / "venv", home / "work")


@pytest.fixture(scope="session")
def beside(installed: Environment, wheel: Path) -> Beside:
    """Makes an environment that has the dependencies from `installed`, and the wheel for itself."""

    def site(of: Environment) -> str:
        return sysconfig.get_path("purelib", "venv", {"base": str(of.path), "platbase": str(of.path)})

    def make(home: Path, with_pip: bool = False) -> Environment:
        own = Environment.make(home, with_pip)
        (Path(site(own)) / "dependencies.pth").write_text(site(installed) + "\n")
        own.pip("--no-deps", "--ignore-installed", wheel)
        return own

    return make


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory, beside: Beside) -> Environment:
    """A test's own environment beside `installed`, to install into."""
    return beside(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def with_pip(tmp_path_factory: pytest.TempPathFactory, beside: Beside) -> Environment:
    """The same for a reader who types `pip install`."""
    return beside(tmp_path_factory.mktemp("environment"), True)
