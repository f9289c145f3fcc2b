"""Run the kit over every foreign store that is installed: ``python -m findings [--json F] [--only STORE]``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path

from lms_conformance import FactoryHarness, run_supervised
from lms_conformance.outcome import Result, Status
from lms_conformance.reports import to_json

from findings.adapters import STORES


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:157] + "..."


def _tell(result: Result) -> None:
    if result.red:
        print(f"  {result.id} {result.status.value}: {result.sentence}")
        print(f"    expected: {_line(result.expected)}\n    got:      {_line(result.got or result.reason)}", flush=True)


def main() -> int:
    """Print one line a property that failed; exit 2 where no store is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write every result here")
    parser.add_argument("--reports", type=Path, help="a folder: write each store's whole report there, for the board")
    parser.add_argument("--only", action="append", default=[], help="a store's name; may be given again")
    parser.add_argument("--family", action="append", default=[], help="a property or family; may be given again")
    parser.add_argument("--profile", default="quick")
    given = parser.parse_args()
    document = {}
    for name, (distribution, factory) in STORES.items():
        if given.only and name not in given.only:
            continue
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: {distribution} is not installed")
            continue
        print(f"\n{name} ({distribution} {version})", flush=True)
        # A store may end the process: each property's result is told as it is known, and the rest still runs.
        report = run_supervised(
            FactoryHarness(factory, name), profile=given.profile, only=given.family, on_result=_tell
        )
        failed = [result for result in report.results if result.red]
        print(f"  {len(failed)} properties fail")
        if given.reports:
            given.reports.mkdir(parents=True, exist_ok=True)
            (given.reports / f"{name}-{version}-{report.seed}.json").write_text(to_json(report), encoding="utf-8")
        document[name] = {
            "distribution": distribution,
            "version": version,
            "failed": [{**dataclasses.asdict(r), "status": r.status.value} for r in failed],
            "passed": sum(r.status is Status.PASSED for r in report.results),
        }
    if given.json:
        given.json.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return 0 if document else 2


if __name__ == "__main__":
    sys.exit(main())
