"""The L2 adapter beside LMCache's own `fs`, both by LMCache's own `bench l2`, in turn.

    python -m benchmarks.door_lmcache [--repeats 5] [--folder .doors] [--markdown docs/bench/door-lmcache.md]

Each run is a process of its own over an empty directory: 32 keys of 2 MiB, one warm-up and five rounds, whose p50
counts. Both run in turn; the figure of an adapter is its quietest repeat, and the spread is told. Ratios below what is
wanted exit 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.lmdb_all import machine
from benchmarks.shared import write
from scripts.doors.engine import ROOT, Failed, Made
from scripts.doors.environments import environment
from scripts.doors.lmcache import ENGINE

KEYS, SIZE_KB, ROUNDS = 32, 2048, 5
OPERATIONS: Final = ("Store", "Lookup", "Load")
#: Of ours to theirs, in time: store at least 1.3 times as fast, load 1.5 times, a look-up in a fifth.
WANTED: Final = {"Store": 1 / 1.3, "Lookup": 0.2, "Load": 1 / 1.5}

Times = dict[str, list[float]]


def adapters(place: Path) -> dict[str, dict[str, object]]:
    """What is measured, by name."""
    ours = {"type": "plugin", "module_path": "lms_tiers.doors.lmcache", "class_name": "L2Adapter"}
    device = f"lmdb:{place}/kv?capacity=2GiB&codec=raw&sync=none"
    return {
        "fs": {"type": "fs", "base_path": str(place / "fs")},
        "ours": {**ours, "adapter_params": {"device": device}},
    }


def p50(printed: str) -> dict[str, float]:
    """Milliseconds of the middle round of each operation.

    Raises
    ------
    Failed
        A round was not whole, or nothing is told.
    """
    told = {op: re.search(rf"-+ {op} -+\n(?:.*\n)*?Duration p50 \(ms\): +([\d.]+)", printed) for op in OPERATIONS}
    lines = re.findall(r"\[(?:Store|Lookup|Load)\] Round \d+: .*=(\d+)/(\d+)", printed)
    if len(lines) != 3 * (ROUNDS + 1) or any(done != asked for done, asked in lines):
        raise Failed(printed[-2000:])
    return {op: float(found[1]) for op, found in told.items() if found is not None}


def once(made: Made, name: str) -> dict[str, float]:
    """One run of one adapter, in a new directory."""
    with tempfile.TemporaryDirectory(prefix="lms-door-") as folder:
        spec = adapters(Path(folder))[name]
        Path(folder, "fs").mkdir()
        return p50(made.run(
            "-m", "lmcache.cli.main", "bench", "l2", "--num-keys", str(KEYS), "--data-size-kb", str(SIZE_KB),
            "--rounds", str(ROUNDS), "--lookup-max-hit-rate", "1", "--l2-adapter", json.dumps(spec),
        ))  # fmt: skip


def page(seen: dict[str, Times], repeats: int) -> list[str]:
    """The figures as lines of a page."""
    rows = []
    for op in OPERATIONS:
        fs, ours = seen["fs"][op], seen["ours"][op]
        ratios = [a / b for a, b in zip(fs, ours, strict=True)]
        rate = "" if op == "Lookup" else f" ({KEYS * SIZE_KB / 1024 / min(ours) * 1000:,.0f} MiB/s)"
        rows.append(
            f"| {op.lower()} | {min(fs):.2f} ({max(fs):.2f}) | {min(ours):.2f} ({max(ours):.2f}){rate} "
            f"| {min(fs) / min(ours):.2f} × | {statistics.median(ratios):.2f} × | {1 / WANTED[op]:.1f} × |"
        )
    lines = [
        f"`python -m benchmarks.door_lmcache --repeats {repeats}`, LMCache {ENGINE.newest}, {machine()}",
        f"`lmcache bench l2`, {KEYS} × 2 MiB, raw, `sync=none`; milliseconds of the middle of {ROUNDS} rounds: the",
        f"quietest repeat (and the slowest). Both in turn, in one run. Load of the machine: {os.getloadavg()[0]:.0f}.",
        "",
        "| | `fs` | ours | how much faster, quietest | pair by pair, median | wanted |",
        "|---|---|---|---|---|---|",
    ]
    return [*lines, *rows, ""]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=ROOT / ".doors")
    parser.add_argument("--markdown", type=Path, help="write the table into that page")
    options = parser.parse_args()
    made = environment(ENGINE, ENGINE.newest, options.folder.resolve())
    seen: dict[str, Times] = {name: {op: [] for op in OPERATIONS} for name in ("fs", "ours")}
    for _ in range(options.repeats):
        for name, times in seen.items():
            for op, milliseconds in once(made, name).items():
                times[op].append(milliseconds)
            print(name, {op: times[op][-1] for op in OPERATIONS}, flush=True)
    lines = page(seen, options.repeats)
    print("\n".join(lines))
    if options.markdown:
        write(options.markdown, lines)
    return int(any(min(seen["ours"][op]) > wanted * min(seen["fs"][op]) for op, wanted in WANTED.items()))


if __name__ == "__main__":
    sys.exit(main())
