"""The tests, in more processes than there are processors, and one closing line.

They wait some of their time, for processes to start and limits to pass: twice as many processes as processors keep
those busy. Those that look for races hold beside others: they are red where what they look for had no chance to be.
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

#: Some tests take a thousand times as long as others: no process gets more of them at once than it must.
_ONE_BY_ONE: Final = ("--dist", "load", "--maxschedchunk", "1")

#: What a whole run tells: why tests were skipped, and which took longest.
_TOLD: Final = ("--durations", "40", "--durations-min", "5")


def arguments(jobs: int, everything: bool) -> list[str]:
    """What pytest is given.

    Parameters
    ----------
    jobs : int
        Processors to keep busy.
    everything : bool
        Whether tests marked `deep` run too, and the reason of each skip is told.
    """
    chosen = _TOLD if everything else ("-m", f"not {DEEP}", "-qq", "-rfE")
    return ["-n", str(2 * jobs), *_ONE_BY_ONE, "--continue-on-collection-errors", "tests", *chosen]


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


def main(given: Sequence[str] | None = None) -> int:
    """Run the tests; 0 where they are green.

    Returns
    -------
    int
        1 where they are red, 130 where they were interrupted.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processors to keep busy")
    parser.add_argument("--all", action="store_true", help="run the tests marked `deep` too")
    options = parser.parse_args(given)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lms-tests-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments(options.jobs, options.all)]
        try:
            red = subprocess.run(command, env=_environment(), check=False).returncode != 0
        except KeyboardInterrupt:
            return 130
        counts = _counted(report)
    print(closing(counts, red, time.monotonic() - began), flush=True)
    return int(red)


if __name__ == "__main__":
    sys.exit(main())
