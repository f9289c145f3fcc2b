"""This store and its peers on the same work: a real trace with real bytes, at equal RAM and disk capacities.

    python benchmarks/peers.py TRACE --python .venv-peers/bin/python [--stores a,b] [--repeats 3] [--json FILE]

Each store runs in processes of its own: one replays the trace and closes; one reads back the 200 blocks used last; some
are killed in the middle of puts, and the next one reads back what was flushed; the last one fills the disk again. The
interpreter of ``--python`` needs this package's dependencies and those peers that are to be compared: a peer that
cannot be imported is a row that says so. See docs/bench/peers.md for what each column means.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lms_tiers.sizes import parse_size

# These scripts lie beside each other and are no package.
STORES: dict[str, Any] = importlib.import_module("peer_stores").STORES
HERE = Path(__file__).resolve().parent
KILLS = 3
FIRST_KILLED = 10_000_000  # block ids far above those of any trace
FIRST_REFILLED = 50_000_000


class Runner:
    """Runs the phases of one store in one folder."""

    def __init__(self, options: argparse.Namespace, store: str, work: Path) -> None:
        self.options = options
        self.store = store
        self.work = work
        self.base: dict[str, Any] = {
            "folder": str(work / "store"), "scratch": str(work / "scratch"), "block": options.block, "ram": options.ram,
            "disk": options.disk, "trace": str(Path(options.trace).resolve()), "requests": options.requests,
        }  # fmt: skip

    def _command(self, phase: str, **more: Any) -> list[str]:
        shutil.rmtree(self.work / "scratch", ignore_errors=True)
        spec = self.work / f"{phase}.json"
        spec.write_text(json.dumps({**self.base, **more}))
        return [self.options.python, str(HERE / "peer_worker.py"), self.store, phase, str(spec)]

    def _environment(self) -> dict[str, str]:
        quiet = {"LMCACHE_LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **quiet, "PYTHONPATH": str(HERE.parent)}

    def run(self, phase: str, **more: Any) -> dict[str, Any]:
        """One phase to its end."""
        with open(self.work / "errors.txt", "a") as errors:
            done = subprocess.run(
                self._command(phase, **more), stdout=subprocess.PIPE, stderr=errors, text=True, env=self._environment(),
                timeout=600, check=False,
            )  # fmt: skip
        if done.returncode or not done.stdout.strip():
            lines = (self.work / "errors.txt").read_text().splitlines()[-12:]
            tail = "\n".join(line[:160] for line in lines)
            raise RuntimeError(f"{phase} ended with exit status {done.returncode}\n{tail}")
        outcome: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return outcome

    def kill(self, first: int, delay: float) -> int:
        """Start the endless writer, kill it `delay` seconds after its flush; how many puts it acknowledged since."""
        with open(self.work / "errors.txt", "a") as errors:
            child = subprocess.Popen(
                self._command("write_until_killed", first=first), stdout=subprocess.PIPE, stderr=errors, text=True,
                env=self._environment(),
            )  # fmt: skip
        assert child.stdout is not None
        with child:
            for line in child.stdout:
                if line == "ready\n":
                    break
            else:
                raise RuntimeError(f"{self.store}: the writer ended before it was killed")
            time.sleep(delay)
            child.kill()
            return len(child.stdout.read().split())


def touch_memory(nbytes: int) -> None:
    """Fill free memory once, in a process that ends: a host may have taken it back, and gives it again page by page.

    Without it the first store of a run pays several times as much for each page it writes as the one after it.
    """
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    nbytes = min(nbytes, 1024 * int(free.split()[1]) // 2)
    # numpy asks for large pages, and is done before the host takes any of it back.
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.ones({nbytes}, numpy.uint8)"], check=False)


def replay(options: argparse.Namespace, store: str) -> tuple[Runner, dict[str, Any]]:
    """One replay of one store in a folder of its own."""
    # What others wrote is on the disk before this one begins.
    os.sync()
    touch_memory(2 * (options.disk + options.ram))
    runner = Runner(options, store, Path(tempfile.mkdtemp(prefix=f"peers-{store}-", dir=options.work)))
    return runner, runner.run("replay")


def endure(options: argparse.Namespace, runner: Runner, last: list[int]) -> dict[str, Any]:
    """Restart, kills and refill, on what a replay left behind."""
    rng = random.Random(options.seed)
    restart = runner.run("check", check=last, count=200)
    lost, wrong = 0, 0
    for round_ in range(KILLS):
        first = FIRST_KILLED + 1_000_000 * round_
        acknowledged = runner.kill(first, rng.uniform(0.05, 0.4))
        # The put that was under way may be there in part, too.
        back = runner.run("check", check=list(range(first, first + 200 + acknowledged + 2)), count=200)
        lost = max(lost, 200 - back["warm"])
        wrong += back["wrong"]
    refill = runner.run("refill", first=FIRST_REFILLED, fill=options.disk)
    return {
        "warm_after_restart": restart["warm"], "wrong_after_restart": restart["wrong"],
        "open_seconds": restart["open_seconds"], "lost_after_kill": lost, "wrong_after_kill": wrong,
        "disk_peak_after_kill": max(restart["disk_peak"], refill["disk_peak"]),
    }  # fmt: skip


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All figures of all stores; replays go round, so that a slow minute of the machine meets every store."""
    stores: list[str] = options.stores.split(",")
    replays: dict[str, list[dict[str, Any]]] = {store: [] for store in stores}
    found: dict[str, dict[str, Any]] = {store: {"store": store} for store in stores}
    for round_ in range(options.repeats):
        for store in stores:
            if "missing" in found[store] or "failed" in found[store]:
                continue
            print(f"round {round_ + 1} of {options.repeats}: {store}", file=sys.stderr, flush=True)
            runner = None
            try:
                runner, outcome = replay(options, store)
                if "missing" in outcome:
                    found[store]["missing"] = outcome["missing"]
                    continue
                replays[store].append(outcome)
                if round_ == 0:
                    found[store].update(endure(options, runner, outcome["last"]))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(error, file=sys.stderr)
                found[store]["failed"] = str(error)
            finally:
                if runner is not None:
                    shutil.rmtree(runner.work)
    for store in stores:
        if replays[store] and "failed" not in found[store]:
            found[store].update(summary(options, replays[store]))
    return list(found.values())


def summary(options: argparse.Namespace, replays: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the replays of one store."""

    def median(figure: Any) -> Any:
        found = [value for value in map(figure, replays) if value is not None]
        return statistics.median(found) if found else None

    def rate(seconds: list[float], extra: float = 0.0) -> float | None:
        return len(seconds) * options.block / (sum(seconds) + extra) / 1e6 if seconds else None

    def percentile(seconds: list[float], p: float) -> float | None:
        ordered = sorted(seconds)
        return 1e6 * ordered[min(len(ordered) - 1, int(p * len(ordered) / 100))] if ordered else None

    def gets(r: dict[str, Any]) -> list[float]:
        return list(r["get_ram_seconds"]) + list(r["get_disk_seconds"])

    return {
        "seconds": median(lambda r: r["seconds"]),
        "get_mb_s": median(lambda r: rate(gets(r))),
        "get_disk_mb_s": median(lambda r: rate(r["get_disk_seconds"])),
        "put_mb_s": median(lambda r: rate(r["put_seconds"], r["flush_seconds"])),
        "get_p50_us": median(lambda r: percentile(gets(r), 50)),
        "get_p99_us": median(lambda r: percentile(gets(r), 99)),
        "put_p50_us": median(lambda r: percentile(r["put_seconds"], 50)),
        "put_p99_us": median(lambda r: percentile(r["put_seconds"], 99)),
        "prefix_hits": median(lambda r: r["prefix_hits"]),
        "blocks": replays[0]["blocks"],
        "rss_peak": median(lambda r: r["rss_peak"]),
        "anonymous_peak": median(lambda r: r["anonymous_peak"]),
        "disk_peak": max(r["disk_peak"] for r in replays),
        "wrong": sum(r["wrong"] for r in replays),
        "replays": len(replays),
    }


def ceilings(block: int) -> dict[str, float]:
    """What the machine copies, in MB/s: into a kept buffer, and into fresh ones."""
    rounds = 400
    source = os.urandom(block)
    kept = bytearray(block)

    def rate(step: Any) -> float:
        runs = []
        for _ in range(5):
            started = time.perf_counter()
            held = [step() for _ in range(rounds)]
            runs.append(rounds * block / (time.perf_counter() - started) / 1e6)
            del held
        return statistics.median(runs)

    def into_kept() -> None:
        kept[:] = source

    return {"memcpy_kept_mb_s": rate(into_kept), "memcpy_fresh_mb_s": rate(lambda: bytearray(source))}


COLUMNS = (
    "store", "wall s", "get MB/s", "of which disk", "put MB/s", "get p50 / p99 µs", "put p50 / p99 µs", "prefix hits",
    "RSS peak / not mapped", "disk peak / limit", "wrong", "warm of 200 after restart",
    "lost of 200 / wrong after SIGKILL", "limit after SIGKILL",
)  # fmt: skip


def row(options: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    name = STORES[found["store"]][0]
    if "missing" in found:
        return [name, f"not installed: {found['missing']}", *[""] * (len(COLUMNS) - 2)]
    if "failed" in found:
        return [name, f"failed: {found['failed'].splitlines()[0]}", *[""] * (len(COLUMNS) - 2)]

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f}"

    return [
        name, f"{found['seconds']:.1f}", number(found["get_mb_s"]), number(found["get_disk_mb_s"]),
        number(found["put_mb_s"]), f"{number(found['get_p50_us'])} / {number(found['get_p99_us'])}",
        f"{number(found['put_p50_us'])} / {number(found['put_p99_us'])}", number(found["prefix_hits"]),
        f"{found['rss_peak'] / 2**20:,.0f} / {found['anonymous_peak'] / 2**20:,.0f} MiB",
        f"{found['disk_peak'] / options.disk:.2f}",
        str(found["wrong"] + found["wrong_after_restart"]), str(found["warm_after_restart"]),
        f"{found['lost_after_kill']} / {found['wrong_after_kill']}",
        f"{found['disk_peak_after_kill'] / options.disk:.2f}",
    ]  # fmt: skip


def markdown(options: argparse.Namespace, document: dict[str, Any]) -> str:
    """The table, for a terminal and for the docs."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(row(options, found))} |" for found in document["stores"]]
    ceiling = document["ceilings"]
    lines.append("")
    lines.append(
        f"{document['date']}, {document['machine']}; memory copied into a kept buffer "
        f"{ceiling['memcpy_kept_mb_s']:,.0f} MB/s, into fresh ones {ceiling['memcpy_fresh_mb_s']:,.0f} MB/s."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers installed")
    parser.add_argument("--stores", default=",".join(STORES), help="which of them, separated by commas")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3, help="replays of which the median is shown")
    parser.add_argument("--block-bytes", dest="block", type=parse_size, default=parse_size("256KiB"))
    parser.add_argument("--ram", type=parse_size, default=parse_size("256MiB"))
    parser.add_argument("--disk", type=parse_size, default=parse_size("2GiB"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--work", default=None, help="a directory on the disk to measure")
    parser.add_argument("--json", default=None, help="write the figures here, too")
    parser.add_argument("--add", action="store_true", help="keep the figures of other stores that stand in --json")
    options = parser.parse_args()
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    document: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(), "machine": f"{os.cpu_count()} × {cpu}",
        "options": {k: str(v) for k, v in vars(options).items()}, "ceilings": ceilings(options.block), "stores": [],
    }  # fmt: skip
    if options.add and options.json and Path(options.json).exists():
        asked = options.stores.split(",")
        earlier = json.loads(Path(options.json).read_text())["stores"]
        document["stores"] = [found for found in earlier if found["store"] not in asked]
    document["stores"] = sorted(
        document["stores"] + measure(options), key=lambda found: list(STORES).index(found["store"])
    )
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    print(markdown(options, document))


if __name__ == "__main__":
    main()
