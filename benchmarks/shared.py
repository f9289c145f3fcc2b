"""What a tier that is shared with others costs: round trips, opening, cold batches, hits while its engine hangs.

    python -m benchmarks.shared [--only trips,opening,cold,hung] [--rounds 21] [--json FILE]
        [--markdown docs/bench/shared.md]

Server and store are processes of their own on one machine, over TCP on loopback. What is compared is measured in turn,
in one run; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.getter_tiers import BLOCK, clock, key, meta, spread
from benchmarks.lmdb_all import BEGIN, END, machine, table
from benchmarks.server import HERE, free_port, process, wait_for
from benchmarks.shared_reader import BATCH, Loop, body
from lms_tiers import CreateStorageBackend
from lms_tiers.client import Client
from lms_tiers.metrics.scrape import scrape
from lms_tiers.tiered.store import TieredStore

QUIET: Final = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

Document = dict[str, Any]


class Served:
    """A server in a process of its own, with its metrics."""

    def __init__(self, port: int, metrics: int, child: subprocess.Popen[str]) -> None:
        self.address: Final = f"127.0.0.1:{port}"
        self.metrics: Final = f"127.0.0.1:{metrics}"
        self.child: Final = child

    def store(self, capacity: str, **options: Any) -> TieredStore:
        asked = "&".join(f"{name}={value}" for name, value in options.items())
        store = CreateStorageBackend(f"cpu?capacity={capacity} > lm:{self.address}{'?' if asked else ''}{asked}")
        assert isinstance(store, TieredStore)
        return store

    def requests(self) -> float:
        """Requests of all kinds that it has answered."""
        figures = scrape(self.metrics).server
        return sum(n for name, n in figures.items() if name.startswith("request_seconds_count"))

    def chunks(self) -> int:
        return int(next(iter(scrape(self.metrics).stores.values()))["keys"])


@contextlib.contextmanager
def served(device: str) -> Iterator[Served]:
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "lms_tiers", "serve", "--port", str(port), "--metrics-port", str(metrics)]
    with process([*command, "--device", device], **QUIET) as child:
        wait_for(port)
        yield Served(port, metrics, child)


def taken(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was answered."""
    started = clock()
    answer = call()
    return clock() - started, answer


# -- round trips -------------------------------------------------------------------------------------------------------


def trips(rounds: int) -> Document:
    """What 64 absent keys cost, in calls of the backend, requests at the server, and microseconds."""
    fresh = itertools.count(1 << 40, BATCH)

    def absent() -> list[Any]:
        first = next(fresh)
        return [key(i) for i in range(first, first + BATCH)]

    found: Document = {}
    with served("cpu?capacity=64MiB") as server, server.store("64MiB") as store, Client(server.address) as bare:
        calls: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
            "contains_prefix": (store.contains_prefix, bare.contains_prefix),
            "contains_many": (store.contains_many, bare.contains_many),
            "get_many": (store.get_many, bare.get_many),
        }
        for name, (ours, theirs) in calls.items():
            ours(absent())
            requests, asked = server.requests(), _edge(store).round_trips
            ours(absent())
            made = _edge(store).round_trips - asked, int(server.requests() - requests)
            times: tuple[list[float], list[float]] = [], []
            for _ in range(rounds * 20):
                times[0].append(taken(lambda: ours(absent()))[0])  # noqa: B023 - called at once
                times[1].append(taken(lambda: theirs(absent()))[0])  # noqa: B023
            us = [spread(t)["p50"] for t in times]
            found[name] = {"calls": made[0], "requests": made[1], "us": us[0], "us_bare": us[1]}
    return found


def _edge(store: TieredStore) -> Any:
    edge = store.stats().shared
    assert edge is not None
    return edge


# -- opening -----------------------------------------------------------------------------------------------------------


def opening(rounds: int, count: int = 100_000) -> Document:
    """Stores opened over chunks that others have put."""
    size = 2048
    with served("cpu?capacity=2GiB") as server, Client(server.address) as other:
        for at in range(0, count, 500):
            other.put_many([(meta(i, size), bytearray(size)) for i in range(at, at + 500)])
        held = server.chunks()
        server.store("64MiB").close()  # whatever is imported at first use
        seconds, firsts, grown = [], [], []
        for i in range(rounds):
            gc.collect()
            before = _resident()
            took, store = taken(lambda: server.store("64MiB"))
            grown.append(_resident() - before)
            first, obj = taken(lambda: store.get(key(i)))  # noqa: B023 - called at once
            assert obj is not None
            assert obj.length == size
            seconds.append(took)
            firsts.append(first)
            store.close()
        left = server.chunks()
    return {
        "chunks": held, "deleted": held - left, "open_ms": 1e3 * statistics.median(seconds),
        "worst_ms": 1e3 * max(seconds), "first_get_ms": 1e3 * statistics.median(firsts),
        "resident_kib": statistics.median(grown) / 1024,
    }  # fmt: skip


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# -- cold batches ------------------------------------------------------------------------------------------------------


class Reader:
    """A process that gets the batch when it is told to."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child: Final = child
        if not self._line().startswith("ready"):
            raise SystemExit("a reader did not start")

    def _line(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline()

    def round(self) -> float:
        """Seconds."""
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return float(self._line())


def cold(rounds: int) -> Document:
    """`get_many` of 64 × 256 KiB that no private tier holds, each reader a process of its own, in turn."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served("cpu?capacity=256MiB"))
        ours = server.address.rpartition(":")[2]
        loop = str(free_port())
        stack.enter_context(process([sys.executable, str(HERE / "server_bare.py"), loop], **QUIET))
        wait_for(int(loop))
        with contextlib.closing(Loop(int(loop))) as filler:
            filler.put_many(BATCH)
        with Client(server.address) as client:
            client.put_many([(meta(i, BLOCK), body(i)) for i in range(BATCH)])
        above = "cpu?capacity=256MiB > lm:127.0.0.1:{port}"
        kinds = {
            "bare loop": ("loop", loop), "client": ("client", ours), "cpu > lm": (above, ours),
            "cpu > lm?promote=never": (f"{above}?promote=never", ours),
        }  # fmt: skip
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        readers = {
            name: Reader(
                stack.enter_context(process([sys.executable, "-m", "benchmarks.shared_reader", *kind], **pipes))
            )
            for name, kind in kinds.items()
        }
        names = list(readers)
        took: dict[str, list[float]] = {name: [] for name in names}
        for n in range(rounds * 3 + 2):
            for name in names[n % len(names) :] + names[: n % len(names)]:
                seconds = readers[name].round()
                if n >= 2:
                    took[name].append(seconds)
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in took.items()}
    return {
        "ms": ms, "mb_per_s": {name: BATCH * BLOCK / 1e3 / t for name, t in ms.items()},
        "of_client": {name: ms["client"] / t for name, t in ms.items()}, "rounds": rounds * 3,
    }  # fmt: skip


# -- hits while the engine hangs ---------------------------------------------------------------------------------------


def hung(rounds: int, hits: int = 2000) -> Document:
    """Hits in `cpu`, in turn: a store of `cpu` alone, and one above a tier whose server is stopped with puts unsent."""
    keys = [key(i) for i in range(256)]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served("cpu?capacity=64MiB"))
        alone = stack.enter_context(contextlib.closing(CreateStorageBackend("store > cpu?capacity=64MiB")))
        above = stack.enter_context(server.store("64MiB", deadline="100ms"))
        for store in (alone, above):
            for i in range(len(keys)):
                store.put(meta(i, 4096), bytearray(4096))
            store.flush(60)
        found = {"answering": _turns({"cpu": alone, "cpu > lm": above}, keys, rounds, hits)}
        server.child.send_signal(signal.SIGSTOP)
        try:
            above.put(meta(1 << 20, 4096), bytearray(4096))  # its sender is inside the server's socket from here on
            missed, obj = taken(lambda: above.get(key(1 << 21)))
            assert obj is None
            found["hanging"] = _turns({"cpu": alone, "cpu > lm": above}, keys, rounds, hits)
            after = [taken(lambda: above.get(key(1 << 22)))[0] for _ in range(50)]
            edge = _edge(above)
            state = edge.breaker.value, edge.unsent
        finally:
            server.child.send_signal(signal.SIGCONT)
    return {
        "us": found, "first_miss_ms": 1e3 * missed, "later_miss_us": 1e6 * statistics.median(after),
        "breaker": state[0], "unsent": state[1],
        "ratio": {
            when: {q: us["cpu > lm"][q] / us["cpu"][q] for q in ("p50", "p99")} for when, us in found.items()
        },
    }  # fmt: skip


def _turns(stores: dict[str, Any], keys: list[Any], rounds: int, hits: int) -> dict[str, dict[str, float]]:
    """Median over the rounds of each round's quantiles, in microseconds."""
    spreads: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
    order = [keys[i % len(keys)] for i in range(hits)]
    names = list(stores)
    gc.collect()
    gc.disable()
    for n in range(3 * rounds):
        for name in names if n % 2 else reversed(names):
            get = stores[name].get
            took = []
            for asked in order:
                started = clock()
                get(asked)
                took.append(clock() - started)
            spreads[name].append(spread(took))
    gc.enable()
    return {name: {q: statistics.median(s[q] for s in each) for q in ("p50", "p99")} for name, each in spreads.items()}


# -- telling -----------------------------------------------------------------------------------------------------------


def page(found: dict[str, Document]) -> list[str]:
    lines = [machine(), ""]
    if "trips" in found:
        lines += ["### What 64 absent keys cost", ""]
        lines += table(
            ["", "calls of the backend", "requests at the server", "µs, p50", "the bare client, µs"],
            [[f"`{n}`", r["calls"], r["requests"], r["us"], r["us_bare"]] for n, r in found["trips"].items()],
        )
    if "opening" in found:
        r = found["opening"]
        lines += ["### Opening over chunks of others", ""]
        lines += table(
            ["chunks there", "deleted", "opening, ms, median", "worst", "first `get` of one of them, ms", "RAM, KiB"],
            [[f"{r['chunks']:,}", r["deleted"], r["open_ms"], r["worst_ms"], r["first_get_ms"], r["resident_kib"]]],
        )
    if "cold" in found:
        r = found["cold"]
        lines += [f"### A cold `get_many` of 64 × 256 KiB, {r['rounds']} rounds", ""]
        lines += table(
            ["", "ms", "MB/s", "of the bare client"],
            [[f"`{n}`", r["ms"][n], f"{r['mb_per_s'][n]:,.0f}", f"{r['of_client'][n]:.2f}"] for n in r["ms"]],
        )
    if "hung" in found:
        r = found["hung"]
        lines += ["### A hit in `cpu` above a shared tier", ""]
        lines += table(
            ["the server", "`cpu` p50, µs", "above `lm`", "ratio", "`cpu` p99, µs", "above `lm`", "ratio"],
            [
                [when, *(cell for q in ("p50", "p99") for cell in (
                    us["cpu"][q], us["cpu > lm"][q], f"{r['ratio'][when][q]:.3f}"
                ))]
                for when, us in r["us"].items()
            ],
        )  # fmt: skip
        lines += [
            f"While it hangs: the first miss takes {r['first_miss_ms']:.0f} ms (`deadline=100ms`), later ones "
            f"{r['later_miss_us']:.0f} µs; the breaker is {r['breaker']}, {r['unsent']} put is unsent.", "",
        ]  # fmt: skip
    return lines


def write(where: Path, lines: list[str]) -> None:
    before, begin, rest = where.read_text().partition(BEGIN)
    if not begin or END not in rest:
        raise SystemExit(f"{where} has no part between {BEGIN} and {END}")
    where.write_text("\n".join([before + BEGIN, "", *lines]) + END + rest.partition(END)[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="trips,opening,cold,hung")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="docs/bench/shared.md", help="write the tables into that page")
    options = parser.parse_args()
    parts = {"trips": trips, "opening": opening, "cold": cold, "hung": hung}
    found: dict[str, Document] = {}
    for name in options.only.split(","):
        started = time.monotonic()
        found[name] = parts[name](options.rounds)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print("\n".join(page(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.markdown:
        write(options.markdown, page(found))


if __name__ == "__main__":
    main()
