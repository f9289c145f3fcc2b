"""LMCache's real client, and this project's, against this server, LMCache's own and bare loops, interleaved in one run.

    python benchmarks/server.py [--lmcache-python PATH/bin/python] [--rounds 7] [--json FILE]
        [--markdown docs/bench/server.md]

`make peers` or `make interop` makes the environment with LMCache in it. Medians over the rounds; about eight minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import server_page

HERE: Final = Path(__file__).resolve().parent
SIZES: Final = {"256 KiB": (2**18, 256), "2 MiB": (2**21, 48), "16 MiB": (2**24, 8)}
SMALL: Final = 8192
THEIR_CLIENT, OUR_CLIENT = "LMCache's client", "lms-tiers' client"
OURS, PEER, BARE, SELECTOR, DISK = "lms-tiers", "LMCache", "bare loop", "bare selector", "lms-tiers, lmdb"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, text=True, cwd=HERE.parent, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"no server on port {port}")


def servers(lmcache: str, folder: str) -> dict[str, list[str]]:
    """Command of each server; PORT stands for its port."""
    ours = [sys.executable, "-m", "lms_tiers", "serve", "--port", "PORT", "--device"]
    bare = [sys.executable, str(HERE / "server_bare.py"), "PORT"]
    return {
        OURS: [*ours, "cpu"],
        PEER: [lmcache, "-m", "lmcache.v1.server", "127.0.0.1", "PORT", "cpu"],
        BARE: [*bare, "threads"],
        SELECTOR: [*bare, "selector"],
        DISK: [*ours, f"lmdb:{folder}/lmdb?capacity=2GiB&codec=raw"],
    }


def lmcache_python(given: str | None) -> str:
    """An interpreter that has LMCache."""
    if given:
        return given
    candidates = [os.environ.get("LMCACHE_PYTHON"), ".venv-peers/bin/python", ".interop/bin/python"]
    for path in filter(None, candidates):
        if (HERE.parent / path).exists():
            return str(HERE.parent / path)
    raise SystemExit("no environment with LMCache: `make peers` makes one, or give --lmcache-python")


def memcpy_rates() -> tuple[float, float]:
    """MB/s of a copy of 2 MiB into a kept and into a fresh buffer."""
    size = 2**21
    source, kept = os.urandom(size), bytearray(size)
    times: tuple[list[float], list[float]] = [], []
    for _ in range(50):
        start = time.perf_counter()
        kept[:] = source
        middle = time.perf_counter()
        with mmap.mmap(-1, size) as fresh:
            fresh[:] = source
            times[1].append(time.perf_counter() - middle)
        times[0].append(middle - start)
    first, second = (size / statistics.median(t) / 1e6 for t in times)
    return first, second


def machine(lmcache: str, rounds: int) -> dict[str, Any]:
    """Where and when this was measured, and what the machine can do at best."""
    ask = [lmcache, "-c", "import importlib.metadata as m; print(m.version('lmcache'))"]
    info = Path("/proc/cpuinfo").read_text()
    kept, fresh = memcpy_rates()
    return {
        "date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "python": platform.python_version(),
        "cpu": next((x.partition(":")[2].strip() for x in info.splitlines() if x.startswith("model name")), "unknown"),
        "kernel": platform.release().partition("-")[0], "rounds": rounds, "load": os.getloadavg()[0],
        "lmcache": subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip(),
        "memcpy": kept, "memcpy_fresh": fresh,
    }  # fmt: skip


class Clients:
    """Worker processes, each connected to every server."""

    def __init__(self, children: list[subprocess.Popen[str]], servers: list[int]) -> None:
        self.children = children
        self.servers = servers
        for child in children:
            if _pipe(child.stdout).readline() != "ready\n":
                raise SystemExit("a client did not start: is LMCache installed in that environment?")

    def run(self, server: int, op: str, size: int, count: int, workers: int) -> list[dict[str, Any]]:
        start = time.monotonic() + 0.15
        for i, child in enumerate(self.children[:workers]):
            job = {"server": server, "op": op, "size": size, "count": count, "worker": i, "start": start}
            _pipe(child.stdin).write(json.dumps(job) + "\n")
            _pipe(child.stdin).flush()
        return [json.loads(_pipe(child.stdout).readline()) for child in self.children[:workers]]

    def rate(self, server: int, op: str, size: int, count: int, workers: int) -> tuple[float, float]:
        """MB/s over all workers, and the server's CPU time in microseconds a chunk, whatever else the machine does."""
        before = cpu_seconds(self.servers[server])
        answers = self.run(server, op, size, count, workers)
        spent = cpu_seconds(self.servers[server]) - before
        seconds = float(max(a["end"] for a in answers) - min(a["begin"] for a in answers))
        return size * count * workers / seconds / 1e6, 1e6 * spent / (count * workers)


def cpu_seconds(process_id: int) -> float:
    """What the threads of a process have run so far."""
    ran = 0
    for thread in Path(f"/proc/{process_id}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            ran += int((thread / "schedstat").read_text().split()[0])
    return ran / 1e9


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def measure(clients: Clients, names: list[str], rounds: int) -> dict[str, Any]:
    small: dict[str, dict[str, list[float]]] = {n: {"put_exists": [], "get": []} for n in names}
    for _ in range(rounds):
        for i, name in enumerate(names):
            times = clients.run(i, "small", SMALL, 20 if name == PEER else 100, 1)[0]["times"]
            for op, values in times.items():
                small[name][op].extend(values)
    cells: dict[str, dict[str, float]] = {}
    spent: dict[str, dict[str, float]] = {}
    for label, (size, count) in SIZES.items():
        for workers in (1, 4):
            per_worker = max(2, count // workers)
            for op in ("put", "get"):
                rates: dict[str, list[float]] = {n: [] for n in names}
                costs: dict[str, list[float]] = {n: [] for n in names}
                for round_ in range(rounds):
                    # Another order each round: nobody always runs after the same neighbour.
                    for i in sorted(range(len(names)), key=lambda i: (i + round_) % len(names)):
                        rate, cost = clients.rate(i, op, size, per_worker, workers)
                        rates[names[i]].append(rate)
                        costs[names[i]].append(cost)
                cells[f"{op} {label} x{workers}"] = {n: statistics.median(v) for n, v in rates.items()}
                spent[f"{op} {label} x{workers}"] = {n: statistics.median(v) for n, v in costs.items()}
    medians = {n: {op: statistics.median(v) for op, v in ops.items()} for n, ops in small.items()}
    return {"small_us": medians, "mb_per_s": cells, "cpu_us": spent}


def show(result: dict[str, Any], console: Console, client: str) -> None:
    names = list(result["small_us"])
    table = Table("8 KiB, median µs", *names, f"{PEER} / {OURS}", title=f"{client}, one connection")
    for op in ("put_exists", "get"):
        row = [result["small_us"][n][op] for n in names]
        ratio = result["small_us"][PEER][op] / result["small_us"][OURS][op]
        table.add_row(op.replace("_", " + "), *(f"{v:,.0f}" for v in row), f"{ratio:.0f}×")
    console.print(table)
    table = Table("MB/s, median", *names, f"{OURS} / {PEER}", f"{OURS} / {BARE}", title=f"{client}, throughput")
    for cell, rates in result["mb_per_s"].items():
        ratios = f"{rates[OURS] / rates[PEER]:.2f}", f"{rates[OURS] / rates[BARE]:.2f}"
        table.add_row(cell, *(f"{rates[n]:,.0f}" for n in names), *ratios)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmcache-python", help="an interpreter that has LMCache")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="docs/bench/server.md", help="write the tables into that page")
    options = parser.parse_args()
    lmcache = lmcache_python(options.lmcache_python)
    about = machine(lmcache, options.rounds)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        commands = servers(lmcache, folder)
        ports = [free_port() for _ in commands]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = [
            stack.enter_context(process([str(port) if word == "PORT" else word for word in command], **quiet))
            for command, port in zip(commands.values(), ports, strict=True)
        ]
        for port in ports:
            wait_for(port)
        own = [f"{port}x" if name in (OURS, DISK) else str(port) for name, port in zip(commands, ports, strict=True)]
        clients = {
            THEIR_CLIENT: [lmcache, str(HERE / "server_lmcache_client.py"), *map(str, ports)],
            OUR_CLIENT: [sys.executable, str(HERE / "server_own_client.py"), *own],
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        results = {}
        for name, client in clients.items():
            with contextlib.ExitStack() as these:
                workers = [these.enter_context(process(client, **pipes)) for _ in range(4)]
                pids = [child.pid for child in running]
                results[name] = measure(Clients(workers, pids), list(commands), options.rounds)
    for name, one in results.items():
        show(one, Console(), name)
    result = {"machine": about, **results}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.markdown:
        server_page.write(options.markdown, result, OURS, PEER, BARE, DISK)


if __name__ == "__main__":
    main()
