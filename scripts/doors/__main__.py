"""`python -m scripts.doors [--engine NAME]... [--versions V,V] [--quick] [--write]`.

Exit status 0 where everything passes; 3 where nothing failed but that an engine is not to be had (no registry, no
room); 1 else.

Without `--quick`: the newest three releases of each engine that can be had. With it: the release that was seen to pass
last, and the checks that are fast.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from scripts.doors import lmcache, sglang, vllm
from scripts.doors.engine import ROOT, Engine, Failed, Made
from scripts.doors.environments import environment, releases
from scripts.doors.matrix import Result, table, write

ENGINES: Final[Sequence[Engine]] = (lmcache.ENGINE, vllm.ENGINE, sglang.ENGINE)
_TESTS: Final = "our tests, its classes"
_ENVIRONMENT: Final = "environment"
#: Packages of this project.
_OURS: Final = ("lms_tiers", "lms_conformance", "tests")


def _warnings() -> str:
    """This project's filters; but what an engine and its packages deprecate is theirs to mend, and only told."""
    told: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"][
        "filterwarnings"
    ]
    assert told[0] == "error"
    return "\n".join(["default", *(f"error:::{ours}" for ours in _OURS), *told[1:]])


def pytest_of(engine: Engine, made: Made, quick: bool = False) -> str:
    """Run the engine's folder of tests there; those that take long not where it is to be `quick`.

    Raises
    ------
    Failed
        A test failed, was skipped (the engine is there), or none ran.
    """
    report = made.scratch / "report.xml"
    which = ("-m", "not deep") if quick else ()
    said = made.run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"filterwarnings={_warnings()}", f"--junitxml={report}",
        *which, engine.tests, seconds=3000,
    )  # fmt: skip
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skipped = [str(case.get("name")) for case in cases if case.find("skipped") is not None]
    if skipped or not cases:
        raise Failed(f"{len(cases)} tests, skipped: {', '.join(skipped)}: {said[-2000:]}")
    return f"{len(cases)} passed"


def _result(check: Callable[[Made], str], made: Made) -> Result:
    try:
        return Result(True, check(made))
    except Failed as error:
        return Result(False, str(error))


def release(engine: Engine, version: str, folder: Path, quick: bool) -> dict[str, Result]:
    """All checks of one release, by name."""
    try:
        made = environment(engine, version, folder)
    except Failed as error:
        return {_ENVIRONMENT: Result(False, str(error))}
    checks: dict[str, Callable[[Made], str]] = {_TESTS: lambda made: pytest_of(engine, made, quick)}
    checks |= {check.name: check.run for check in engine.checks if check.quick or not quick}
    seen = {}
    for name, check in checks.items():
        began = time.monotonic()
        running = made.of_check(name)
        seen[name] = result = _result(check, running)
        mark = "ok    " if result.passed else "FAILED"
        print(f"{mark} {engine.name} {version}: {name}, {time.monotonic() - began:.0f} s: {result.saw}", flush=True)
        if not result.passed:
            print(f"       all that it printed: {running.log}", flush=True)
    return seen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = {engine.name: engine for engine in ENGINES}
    parser.add_argument("--engine", action="append", choices=sorted(named), help="may be given more than once")
    parser.add_argument("--versions", help="releases of the engine, by commas; needs one --engine")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=ROOT / ".doors", help="what is downloaded and made stays here")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/doors.md")
    options = parser.parse_args(arguments)
    if options.versions and len(options.engine or ()) != 1:
        parser.error("--versions needs one --engine")
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed: set[str] = set()
    for engine in [named[name] for name in options.engine or named]:
        if options.versions:
            versions = options.versions.split(",")
        else:
            versions = [engine.newest] if options.quick else releases(engine, folder, 3)
        results = {version: release(engine, version, folder, options.quick) for version in versions}
        failed |= {name for seen in results.values() for name, result in seen.items() if not result.passed}
        print(table(engine.name, results), flush=True)
        if options.write:
            write(ROOT / "docs" / "doors.md", engine.name, table(engine.name, results))
    return 3 if failed == {_ENVIRONMENT} else int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
