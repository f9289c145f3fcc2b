"""What the run of an engine is made of: a record that the engine's own file fills in."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    log : Path
        Gets all that processes of the running check print, with their command lines.
    environ : mapping of str to str
        What every process of it runs with.
    """

    version: str
    python: Path
    scratch: Path
    log: Path
    environ: Mapping[str, str]

    def of_check(self, name: str) -> Made:
        """The same with an empty log for the check of that name, and nothing in `scratch`."""
        log = self.log.with_name(re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return replace(self, log=log)

    def run(self, *arguments: str, seconds: float = 600, **environ: str) -> str:
        """Run the interpreter with `arguments` in the project's folder; answers what it printed on both streams.

        All of it is in the log, however it ends.

        Raises
        ------
        Failed
            It ended with another code than 0, or not within `seconds`.
        """
        command = [str(self.python), *arguments]
        with self.log.open("a+b") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            code: int | None = None
            with suppress(subprocess.TimeoutExpired):
                code = subprocess.run(
                    command, cwd=ROOT, env={**self.environ, **environ}, stdout=log, stderr=log, timeout=seconds,
                    check=False,
                ).returncode  # fmt: skip
            log.seek(begin)
            printed = log.read().decode(errors="replace")
        if code is None:
            raise Failed(f"not done within {seconds:.0f} s: {printed[-2000:]}")
        if code:
            raise Failed(f"exit {code}: {printed[-4000:]}")
        return printed


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
