"""Run the kit over what this project ships, keep each report, and write the board.

    python -m scripts.board [--profile ci] [--reports reports] [--out site/board] [--only cpu]

Reports gather in a folder, one file a run; those of `python -m findings --reports` and of other projects may lie there
too. What cannot be tried on this machine is told and left out. Exit status 1 where something that was tried does not
conform.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from lms_conformance.board import collect, write
from lms_conformance.board.runs import slug

#: Plugins by name, and devices as people compose them.
SUBJECTS: Final = (
    "cpu", "lmdb", "pinned", "faulty", "lm", "redis", "s3", "mooncake",
    "cpu?capacity=64MiB > lmdb:{tmp}/kv?capacity={capacity}",
    "cpu?capacity=64MiB > lmdb:{tmp}/kv?capacity={capacity}&codec=raw&sync=commit",
    "cpu?capacity={capacity} > lm:{server}",
)  # fmt: skip


def run(subject: str, profile: str, reports: Path) -> int:
    """The exit status of ``lms-tiers conform``: 0, 1, or 2 where it could not be tried."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    path = reports / f"{slug(subject)}-{now}.json"
    command = ["lms-tiers", "conform", subject, "--profile", profile, "--json", str(path)]
    return subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]]).returncode


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="ci")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--out", type=Path, default=Path("site", "board"))
    parser.add_argument("--only", action="append", default=[], help="a subject; may be given again")
    given = parser.parse_args()
    given.reports.mkdir(parents=True, exist_ok=True)
    statuses = {subject: run(subject, given.profile, given.reports) for subject in given.only or SUBJECTS}
    told = {0: "conforms", 1: "does not conform"}
    for subject, status in statuses.items():
        print(f"{subject}: {told.get(status, 'could not be tried')}")
    pages = write(collect([given.reports]), given.out, "lms_tiers conformance")
    print(f"{pages} pages: {given.out}")
    return int(1 in statuses.values())


if __name__ == "__main__":
    sys.exit(main())
