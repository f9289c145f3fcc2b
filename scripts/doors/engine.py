"""What the run of an engine is made of: a record that the engine's own file fills in."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A check that did not pass; the text is what it saw."""


@dataclass(frozen=True, slots=True)
class Made:
    """An environment: one release of an engine that can be imported.

    Attributes
    ----------
    version : str
    python : Path
        Its interpreter.
    scratch : Path
        A folder for what checks write, empty at the start of each check.
    environ : mapping of str to str
        What every process of it runs with.
    """

    version: str
    python: Path
    scratch: Path
    environ: Mapping[str, str]

    def run(self, *arguments: str, seconds: float = 600, **environ: str) -> str:
        """Run the interpreter with `arguments` in the project's folder; answers what it printed on both streams.

        Raises
        ------
        Failed
            It ended with another code than 0, or not within `seconds`.
        """
        command = [str(self.python), *arguments]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env={**self.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = error.stdout or b""
            text = said.decode(errors="replace") if isinstance(said, bytes) else said
            raise Failed(f"not done within {seconds:.0f} s: {text[-2000:]}") from None
        if done.returncode:
            raise Failed(f"exit {done.returncode}: {done.stdout[-4000:]}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class Check:
    """A tool of the engine's own, or a program of ours over its classes.

    Attributes
    ----------
    name : str
        A row of the matrix.
    run : callable
        Gets the environment; answers what it saw, in a few words, or raises `Failed`.
    quick : bool
        Whether `--quick` runs it too.
    """

    name: str
    run: Callable[[Made], str]
    quick: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How to have an engine on a machine without an accelerator, and what to run there.

    Attributes
    ----------
    name, package : str
        The door's folder, and the distribution.
    newest : str
        The newest release that was seen to pass: what `--quick` runs.
    needs : sequence of str
        What the engine needs to be imported, beside this project's own dependencies; its own requirements would bring
        CUDA libraries.
    sources : bool
        Unzip the wheel's Python files only, rather than install it.
    stubs : str
        A folder of this project with a `sitecustomize.py` that stands in for what cannot be imported without an
        accelerator; ``""`` where nothing has to.
    tests : str
        Folder of tests that run against the real classes; a skip there is a failure.
    environ : mapping of str to str
        Set for every process.
    checks : sequence of Check
    """

    name: str
    package: str
    newest: str
    needs: Sequence[str]
    sources: bool
    stubs: str = ""
    tests: str
    environ: Mapping[str, str] = field(default_factory=dict)
    checks: Sequence[Check] = ()


_VERSION: Final = re.compile(r"\d+(\.\d+)*(\.post\d+)?")


def newest_releases(printed: str, count: int) -> list[str]:
    """The newest `count` releases, newest first, of what ``pip index versions`` printed; no pre-releases.

    Raises
    ------
    Failed
        None is listed.
    """
    found = re.search(r"^Available versions: (.*)$", printed, re.MULTILINE)
    versions = [v.strip() for v in found[1].split(",")] if found else []
    versions = [v for v in versions if _VERSION.fullmatch(v)]
    if not versions:
        raise Failed(f"no release is listed: {printed[-500:]}")
    return versions[:count]
