"""``python -m lms_conformance.board REPORTS… --out SITE``: a static page from reports of ``conform --json``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lms_conformance.board import collect, write
from lms_tiers.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when the site is written, 2 when a report cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m lms_conformance.board", description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path, help="files, or directories of them")
    parser.add_argument("--out", required=True, type=Path, help="directory of the site; pages there are replaced")
    parser.add_argument("--title", default="Conformance", help="headline of the board")
    options = parser.parse_args(arguments)
    try:
        board = collect(options.reports)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pages = write(board, options.out, options.title)
    print(
        f"{len(board.subjects)} subjects, {sum(len(s.runs) for s in board.subjects)} runs, {pages} pages: {options.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
