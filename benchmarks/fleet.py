"""A fleet for real: four hosts with a store each over one Redis Cluster, beside four that share nothing, and on paper.

    python -m benchmarks.fleet [TRACE] [--requests 3000] [--only hits,faults] [--json FILE] [--markdown FILE]

Hosts and nodes are network namespaces with addresses of their own (root, iproute2 and redis-server are needed). The
trace is split by session, bytes are real and every one that is read is checked. First in step, for hits; then side by
side at a steady rate, while a primary is killed, one is stopped, a host is cut off, a host's network is slow, and the
whole cluster goes and comes back.

Exit status 1 if a byte was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.fleet_hosts import HOSTS, Fleet, faults, in_step, latency, split
from benchmarks.fleet_net import Cluster, Network, until
from benchmarks.lmdb_all import busy, machine, table
from benchmarks.shared import write
from lms_tiers.replay.generate import TraceShape, generate_trace, write_trace
from lms_tiers.replay.simulate import policy_spec, prepare
from lms_tiers.replay.simulate_fleet import Route, simulate_fleet
from lms_tiers.replay.trace import Request, iter_trace
from lms_tiers.sizes import format_size, parse_size

Document = dict[str, Any]
TIERS: Final = ("cpu", "lmdb", "redis")


class Run:
    """What all parts of a run have in common."""

    def __init__(self, options: argparse.Namespace, folder: Path, network: Network) -> None:
        self.options: Final = options
        self.folder: Final = folder
        self.block: Final = parse_size(options.block_bytes)
        self.trace: Final = options.trace or folder / "trace.jsonl"
        if options.trace is None:
            with self.trace.open("w") as file:
                write_trace(generate_trace(TraceShape(requests=options.requests)), file)
        self.requests: Final[list[Request]] = list(iter_trace(self.trace, limit=options.requests))
        self.spec: Final = {"trace": str(self.trace), "requests": options.requests, "block": self.block}
        self.private: Final = (
            f"store?close_timeout=5s > cpu?capacity={options.cpu}&policy=lru"
            f" > lmdb:{{dir}}?capacity={options.disk}&policy=lru&codec=raw&sync=none"
        )
        self.shares: Final = split(self.requests)
        self.network: Final = network
        for i in range(HOSTS):
            self.network.host(f"h{i}", f"10.77.0.{101 + i}")

    @contextlib.contextmanager
    def cluster(self, name: str) -> Iterator[Cluster]:
        """A new one."""
        folder = self.folder / name
        folder.mkdir()
        cluster = Cluster(self.network, folder, parse_size(self.options.maxmemory))
        try:
            yield cluster
        finally:
            cluster.close()

    @contextlib.contextmanager
    def fleet(self, name: str, shared: str) -> Iterator[Fleet]:
        """Hosts that begin with nothing."""
        fleet = Fleet(self.network, self.folder / name, self.private, shared, self.spec)
        try:
            yield fleet
        finally:
            fleet.close()

    def paper(self, private: list[int], shared: int) -> Document:
        """The same on paper, with so many blocks in each tier."""
        stream = prepare(self.requests)
        return simulate_fleet(policy_spec("lru"), stream, HOSTS, private, shared, Route.SESSION).document()


def hits(run: Run, cluster: Cluster, told: Callable[[int], None]) -> Document:
    """In step, over the cluster and over nothing, and both on paper."""
    with run.fleet("step", cluster.location) as fleet:
        shared = in_step(fleet, run.shares, told)
        holds = cluster.chunks()  # they are full
    with run.fleet("alone", "") as fleet:
        alone = in_step(fleet, run.shares, lambda n: told(len(run.shares) + n))
    return {
        "shared": shared, "alone": alone, "paper": run.paper(shared["keys"], holds),
        "paper_alone": run.paper(alone["keys"], 0),
        "holds": holds,
    }  # fmt: skip


def sick(run: Run, cluster: Cluster, rate: float, hold: float) -> Document:
    """Side by side, through every fault."""
    with run.fleet("side", cluster.location) as fleet:
        shares = [[n for n, share in enumerate(run.shares) if share == i] for i in range(HOSTS)]
        fleet.all("load", [{"numbers": share, "rate": rate} for share in shares])
        resident, done = [], faults(run.network, cluster)
        for fault in done:
            fault.run(fleet, hold)
            until(cluster.whole, f"after {fault.name}, the cluster is whole", 0.5)
            resident.append([report["resident"] for report in fleet.all("report")])
            print(f"{fault.name}: whole {fault.after:.1f} s after it", file=sys.stderr)
        calls = [tuple(call) for answer in fleet.all("unload") for call in answer["calls"]]
        reports = fleet.all("report")
        return {
            "faults": [
                {
                    "name": fault.name, "held": fault.held, "meanwhile": fault.meanwhile, "after": fault.after,
                    **{
                        when: latency(call for call in calls if since <= call[0] < before)
                        for when, since, before in zip(
                            ("healthy", "failing", "healing"), fault.marks, fault.marks[1:], strict=False
                        )
                    },
                }
                for fault in done
            ],
            "resident": resident, "requests": sum(report["counts"]["requests"] for report in reports),
            "wrong": [text for report in reports for text in report["wrong"]],
            "corrupt": sum(report["corrupt"] for report in reports), "edges": [report["edge"] for report in reports],
        }  # fmt: skip


def page(found: Document, options: argparse.Namespace) -> list[str]:
    """The tables."""
    lines = [machine(), busy(), ""]
    if "hits" in found:
        lines += _hits(found["hits"], options)
    if "faults" in found:
        lines += _faults(found["faults"])
    return lines


def _hits(found: Document, options: argparse.Namespace) -> list[str]:
    rows: list[list[object]] = []
    for what, real, paper in (
        ("over the Cluster", found["shared"], found["paper"]), ("sharing nothing", found["alone"], found["paper_alone"])
    ):  # fmt: skip
        of = real["references"]
        rows.append([what, "real", f"{100 * real['prefix_hits'] / of:.2f}",
                     *(f"{100 * hits / of:.2f}" for hits in real["hits"])])  # fmt: skip
        rows.append(["", "on paper", f"{100 * paper['prefix_hit_ratio']:.2f}",
            *(f"{100 * ratio:.2f}" for ratio in (*paper["private_hit_ratios"], paper["shared_hit_ratio"])),
        ])  # fmt: skip
        rows.append(["", "paper over real", f"{paper['prefix_hits'] / real['prefix_hits']:.4f}", "", "", ""])
    shared, alone = found["shared"], found["alone"]
    return [
        f"{options.requests:,} requests, blocks of {options.block_bytes}; each host `cpu` {options.cpu}, `lmdb` "
        f"{options.disk}; `maxmemory` {options.maxmemory} a node, {found['holds']:,} blocks on the three "
        "primaries at the end.", "",
        "Hits, % of all references:", "",
        *table(["four stores", "", "all", *TIERS], rows),
        f"Over the network (all of it, as the hosts' interfaces count): received {format_size(shared['received'])}, "
        f"sent {format_size(shared['sent'])}. In step a lookup and read of a request's run takes "
        f"{shared['latency']['get'][1]:.1f} ms (p99 {shared['latency']['get'][2]:.1f}), where nothing is shared "
        f"{alone['latency']['get'][1]:.1f} ({alone['latency']['get'][2]:.1f}); a put of the rest "
        f"{shared['latency']['put'][1]:.1f} ({shared['latency']['put'][2]:.1f}) and {alone['latency']['put'][1]:.1f} "
        f"({alone['latency']['put'][2]:.1f}). Wrong bytes: {len(shared['wrong']) + len(alone['wrong'])}.", "",
    ]  # fmt: skip


def _faults(found: Document) -> list[str]:
    def cell(times: dict[str, list[float]], kind: str) -> str:
        return f"{times[kind][1]:.0f} / {times[kind][2]:.0f}" if kind in times else "-"

    rows: list[list[object]] = [
        [
            fault["name"], f"{fault['held']:.1f}",
            "-" if fault["meanwhile"] is None else f"{fault['meanwhile']:.1f}", f"{fault['after']:.1f}",
            *(cell(fault[when], kind) for kind in ("get", "put") for when in ("healthy", "failing", "healing")),
        ]
        for fault in found["faults"]
    ]  # fmt: skip
    head = ["", "held, s", "whole during it after, s", "whole after its end, s"]
    head += [f"{kind} {when}" for kind in ("get", "put") for when in ("healthy", "failing", "healing")]
    first, last = (sum(found["resident"][i]) / HOSTS / 2**20 for i in (0, -1))
    return [
        "Side by side through faults; p50 / p99 in ms of a lookup and read of a run (get) and of a put of the rest:",
        "",
        *table(head, rows),
        f"{found['requests']:,} requests; wrong bytes {len(found['wrong'])}, damaged chunks {found['corrupt']}. Memory "
        f"of a store's process after the first fault {first:.0f} MiB, after the last {last:.0f} MiB.", "",
    ]  # fmt: skip


def parser(about: str) -> argparse.ArgumentParser:
    """What a run of a fleet can be told."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("trace", nargs="?", type=Path, help="none: a generated one")
    found.add_argument("--requests", type=int, default=3000)
    found.add_argument("--block-bytes", default="32KiB")
    found.add_argument("--cpu", default="16MiB")
    found.add_argument("--disk", default="64MiB")
    found.add_argument("--maxmemory", default="96MiB")
    found.add_argument("--rate", type=float, default=3, help="requests a second of each host, while there are faults")
    found.add_argument("--hold", type=float, default=12, help="seconds that a fault lasts")
    found.add_argument("--json", type=Path)
    return found


def main() -> int:
    """Run it, and print the tables."""
    parsing = parser(__doc__ or "")
    parsing.add_argument("--only", default="hits,faults")
    parsing.add_argument("--markdown", type=Path, metavar="docs/bench/fleet.md", help="write the tables into that page")
    options = parsing.parse_args()
    found: Document = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        run = Run(options, Path(folder), stack.enter_context(Network()))
        cluster = stack.enter_context(run.cluster("redis"))
        if "hits" in options.only:
            with Progress(*columns) as progress:
                task = progress.add_task("in step", total=2 * len(run.requests))
                found["hits"] = hits(run, cluster, lambda n: progress.update(task, completed=n + 1))
        if "faults" in options.only:
            found["faults"] = sick(run, cluster, options.rate, options.hold)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    print("\n".join(page(found, options)))
    if options.markdown:
        write(options.markdown, page(found, options))
    wrong = [text for part in (found.get("faults", {}), *found.get("hits", {}).values()) if isinstance(part, dict)
             for text in part.get("wrong", [])]  # fmt: skip
    print("\n".join(wrong[:20]), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
