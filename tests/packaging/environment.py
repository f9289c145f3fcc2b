"""Environments and builds for the tests of what third parties install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.depth import DEPTH

ROOT = Path(__file__).resolve().parents[2]

#: For a generated `ci.sh`, which asks the kit twice, through pytest and in its profile `ci`: of the first a few families
#: here, and of the second as much as of any other backend. `DEPTH=2` lets it be.
ONCE = ["PYTEST_ADDOPTS=-k 'not conformance or test_key or test_put'", "PROFILE=quick"] if DEPTH == 1 else []

#: What the kit is asked of a page where it is run once more, and for a whole run nearby: "lms-tiers conform files".
SOME = " ".join(f"--only {family}" for family in ("KEY", "PUT", "GET", "OVR", "LIF", "PER"))


def run(*command: str | Path, cwd: Path, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory of its own, with nothing of this repository on its path."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV", "LMS_TIERS", "COV"))
    }
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env={**clean, **environ}, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a directory of its own."""

    path: Path
    work: Path

    @classmethod
    def make(cls, home: Path, with_pip: bool = False) -> Environment:
        """An empty one under `home`. To unpack a pip for it takes longer than most of what is installed there."""
        venv.create(home / "venv", with_pip=with_pip)
        (home / "work").mkdir()
        return cls(home / "venv", home / "work")

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def lms_tiers(self) -> Path:
        return self.path / "bin" / "lms-tiers"

    def pip(self, *arguments: str | Path) -> None:
        """Install. Nothing is compiled that nobody imports: of torch that takes longer than to unpack it."""
        constraints = ROOT / "constraints.txt"
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "-q", "--no-compile", "-c", constraints)
        run(*pip, *arguments, cwd=self.work)

    def run(
        self, *command: str | Path, check: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run(*command, cwd=cwd or self.work, check=check, PATH=f"{self.path / 'bin'}:{os.environ['PATH']}")


def build(source: Path, to: Path, *kinds: str) -> list[Path]:
    """Build wheels or sdists of a project, from a copy, so that no build output lands in the tree."""
    to.mkdir(parents=True, exist_ok=True)
    copy = to / f"{source.name}-source"
    shutil.copytree(
        source,
        copy,
        ignore=shutil.ignore_patterns(
            ".git",
            ".venv*",
            ".demo",
            ".ci",
            ".*_cache",
            ".hypothesis",
            ".lms-conformance",
            "__pycache__",
            "dist",
            "build",
            "site",
            "*.egg-info",
            "lms-data",
        ),
    )
    run(sys.executable, "-m", "build", *kinds, "--outdir", to / "dist", copy, cwd=to)
    return sorted((to / "dist").glob("*"))
