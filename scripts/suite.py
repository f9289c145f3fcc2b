"""Both halves of the tests, the second whatever became of the first, and one closing line.

`tests/conformance` runs by itself, in no more processes than there are processors: it looks for races by the clock, and
looks less often where its threads get no processor. The others wait some of their time, for processes to start and
limits to pass: twice as many processes as processors keep those busy.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

#: What a newcomer is not asked to wait for; see CONTRIBUTING.md.
DEEP: Final = "deep"

_CONFORMANCE: Final = "tests/conformance"

#: Some tests take a thousand times as long as others: no process gets more of them at once than it must.
_ONE_BY_ONE: Final = ("--dist", "load", "--maxschedchunk", "1")


def halves(jobs: int, everything: bool) -> list[list[str]]:
    """What pytest is given for each half.

    Parameters
    ----------
    jobs : int
        Processors to keep busy.
    everything : bool
        Whether tests marked `deep` run too, and the reason of each skip is told.
    """
    chosen = [] if everything else ["-m", f"not {DEEP}", "-qq", "-rfE"]
    return [
        ["-n", str(2 * jobs), *_ONE_BY_ONE, "tests", f"--ignore={_CONFORMANCE}", *chosen],
        ["-n", str(jobs), *_ONE_BY_ONE, _CONFORMANCE, *chosen],
    ]


def _environment() -> dict[str, str]:
    """This one's, but compiled files are kept: hundreds of processes start in a run and would compile all anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _counted(report: Path) -> collections.Counter[str]:
    """Tests by outcome, out of a JUnit report; none where the run did not come to write one."""
    counts: collections.Counter[str] = collections.Counter()
    with contextlib.suppress(OSError, ElementTree.ParseError):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            outcomes = {child.tag for child in case} & {"failure", "error", "skipped"}
            counts.update(outcomes or {"passed"})
    return counts


def closing(counts: collections.Counter[str], red: bool, seconds: float) -> str:
    """The one line at the end."""
    named = {"failure": "failed", "error": "with errors", "passed": "passed", "skipped": "skipped"}
    told = ", ".join(f"{counts[outcome]:,} {name}" for outcome, name in named.items() if counts[outcome])
    minutes, rest = divmod(round(seconds), 60)
    return f"{'RED' if red else 'green'}: {told or 'no test ran'}, in {minutes} min {rest} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both halves; 0 where both are green.

    Returns
    -------
    int
        1 where a half is red, 130 where it was interrupted.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processors to keep busy")
    parser.add_argument("--all", action="store_true", help="run the tests marked `deep` too")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    red = False
    with tempfile.TemporaryDirectory(prefix="lms-tests-") as folder:
        report = Path(folder) / "report.xml"
        for half in halves(options.jobs, options.all):
            report.unlink(missing_ok=True)
            command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *half]
            try:
                red |= subprocess.run(command, env=_environment(), check=False).returncode != 0
            except KeyboardInterrupt:
                return 130
            counts += _counted(report)
    print(closing(counts, red, time.monotonic() - began), flush=True)
    return int(red)


if __name__ == "__main__":
    sys.exit(main())
