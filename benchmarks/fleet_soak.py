"""A fleet for as long as wanted, through faults that are drawn at random: every byte that is read is checked.

    python -m benchmarks.fleet_soak [TRACE] [--minutes 10] [--seed 1] [--json FILE]

The fleet of `benchmarks/fleet.py`: needs root, iproute2 and redis-server. After every fault the fleet must be whole
again: what each host puts the others read. Exit status 1 if a byte was wrong, it was not whole again in two minutes, or
memory of a store's process grew by a fifth from the second quarter to the second half.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.fleet import Run
from benchmarks.fleet import parser as fleet_parser
from benchmarks.fleet_hosts import HOSTS, Fleet, faults, latency
from benchmarks.fleet_net import Cluster, Network, until


def soak(run: Run, cluster: Cluster, fleet: Fleet, minutes: float, seed: int) -> dict[str, Any]:
    """One fault after the other."""
    draw, ends = random.Random(seed), time.monotonic() + 60 * minutes
    done: list[dict[str, Any]] = []
    resident: list[list[int]] = []
    calls: list[Any] = []
    shares = [[n for n, share in enumerate(run.shares) if share == i] for i in range(HOSTS)]
    fleet.all("load", [{"numbers": share, "rate": run.options.rate} for share in shares])
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        task, wrong = progress.add_task("soak, s", total=60 * minutes), 0
        while time.monotonic() < ends and not wrong:
            fault = draw.choice(faults(run.network, cluster))
            fault.run(fleet, draw.uniform(2, run.options.hold))
            until(cluster.whole, f"after {fault.name}, the cluster is whole", 0.5)
            reports = fleet.all("report")
            resident.append([report["resident"] for report in reports])
            wrong = sum(len(report["wrong"]) + report["corrupt"] for report in reports)
            calls += [tuple(call) for answer in fleet.all("taken") for call in answer["calls"]]
            done.append({"name": fault.name, "held": fault.held, "meanwhile": fault.meanwhile, "after": fault.after})
            seen = f"{len(done)} faults, {wrong} wrong"
            progress.update(task, completed=60 * minutes - max(0, ends - time.monotonic()), description=seen)
    fleet.all("unload")
    reports = fleet.all("report")
    half, quarter = resident[len(resident) // 2 :], resident[len(resident) // 4 : len(resident) // 2]
    growth = [
        statistics.median(row[i] for row in half) / statistics.median(row[i] for row in quarter) for i in range(HOSTS)
    ] if quarter else []  # fmt: skip
    return {
        "faults": done, "requests": sum(report["counts"]["requests"] for report in reports),
        "hits": sum(report["counts"]["hits"] for report in reports), "latency": latency(calls),
        "wrong": [text for report in reports for text in report["wrong"]],
        "corrupt": sum(report["corrupt"] for report in reports), "growth": [round(g, 3) for g in growth],
        "resident_mib": [[round(nbytes / 2**20) for nbytes in row] for row in resident],
        "edges": [report["edge"] for report in reports],
    }  # fmt: skip


def main() -> int:
    """Run it, and print what came out as JSON."""
    parser = fleet_parser(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        run = Run(options, Path(folder), stack.enter_context(Network()))
        cluster = stack.enter_context(run.cluster("redis"))
        fleet = stack.enter_context(run.fleet("soak", cluster.location))
        found = soak(run, cluster, fleet, options.minutes, options.seed)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["wrong"] or found["corrupt"] or any(g > 1.2 for g in found["growth"]) else 0


if __name__ == "__main__":
    sys.exit(main())
