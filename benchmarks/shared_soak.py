"""Stores in processes of their own over one lm:// server, stores and server killed at random: every byte is checked.

    python -m benchmarks.shared_soak [--minutes 10] [--stores 2,4] [--seed 1] [--json FILE]

A round is a storm (random calls of all stores on the same keys, during which stores and the server are killed and
started again) and then a hand-over, in step: what one store put and flushed the others get, also when that one has
died since; after an overwrite or a removal nobody gets the older chunk once its private copy is gone.

Exit status 1 if a byte was wrong, a chunk handed over was lost or came back, or memory of a store grew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.server import free_port, wait_for
from benchmarks.shared_worker import HANDED, STORES, Table
from lms_tiers import OpaqueKey
from lms_tiers.client import Client

#: Less than the keys of all take together: the server evicts.
SERVER: Final = "cpu?capacity=16MiB"
STORE: Final = (
    "store?close_timeout=10s&back_pressure=200ms > cpu?capacity=6MiB > lm:127.0.0.1:{port}?deadline=30s&timeout=10"
)
HERE: Final = Path(__file__).resolve().parent
MIB: Final = 1 << 20


class Killed(Exception):
    """A store ended in the middle of a job."""


class Store:
    """A process with a store in it."""

    def __init__(self, command: list[str], number: int) -> None:
        self.number: Final = number
        self.process: Final = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE.parent
        )
        self.sample: list[tuple[float, int]] = []
        if self._pipe(self.process.stdout).readline() != "ready\n":
            raise SystemExit(f"store {number} did not start")

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def begin(self, do: str, **arguments: Any) -> None:
        self._pipe(self.process.stdin).write(json.dumps({"do": do, **arguments}) + "\n")
        self._pipe(self.process.stdin).flush()

    def end(self) -> dict[str, Any]:
        """What it counted and saw; raises `Killed` where it is gone."""
        line = self._pipe(self.process.stdout).readline()
        if not line:
            raise Killed
        answer: dict[str, Any] = json.loads(line)
        return answer

    def resident(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096

    def close(self) -> int:
        """Let it close its store, and end; its exit status."""
        self._pipe(self.process.stdin).close()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._pipe(self.process.stdout).close()


class Soak:
    """The server, the stores, and what was seen."""

    def __init__(self, folder: str, stores: int, seed: int) -> None:
        self.draw: Final = random.Random(seed)
        self.port: Final = free_port()
        self.path: Final = Path(folder) / "table"
        self.table: Final = Table(self.path)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.started = 0
        #: MiB of the first store, which is never killed, and of the server, after each round.
        self.resident: list[tuple[float, float]] = []
        self.server_peak = 0.0
        self.rounds = 0
        self.began: Final = time.monotonic()
        self.server = self.serve()
        self.stores = [self.open() for _ in range(stores)]

    def serve(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "lms_tiers", "serve", "--port", str(self.port), "--device", SERVER]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port)
        return child

    def open(self) -> Store:
        self.started += 1
        if self.started == STORES:
            raise SystemExit("too many stores were killed for the table")
        device = STORE.format(port=self.port)
        command = [sys.executable, "-m", "benchmarks.shared_worker", device, str(self.path), str(self.started)]
        return Store(command, self.started)

    def replace(self, which: int) -> None:
        """Kill a store, and start another in its place."""
        victim = self.stores[which]
        victim.process.send_signal(signal.SIGKILL)
        with contextlib.suppress(Killed):
            while True:
                self._take(victim.end())  # it may have been done with its job
        self._after(victim)
        self.counts["stores_killed"] += 1
        self.stores[which] = self.open()

    def _after(self, store: Store) -> None:
        code = store.close()
        if code not in (0, -signal.SIGKILL):
            self.wrong.append(f"store {store.number} ended with {code}")

    def _take(self, answer: dict[str, Any]) -> None:
        self.counts.update(answer["counts"])
        self.wrong.extend(answer["wrong"])

    def kill_server(self) -> None:
        self.server_peak = max(self.server_peak, _peak(self.server.pid))
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()
        self.counts["servers_killed"] += 1

    # -- a round -----------------------------------------------------------------------------------------------------

    def round(self, operations: int, kills: int) -> None:
        self.rounds += 1
        self._storm(operations, kills)
        self._each("ready")
        self._hand_over()
        self.resident.append((time.monotonic() - self.began, self.stores[0].resident() / MIB))
        self.server_peak = max(self.server_peak, _peak(self.server.pid))

    def _storm(self, operations: int, kills: int) -> None:
        """Kill something each time the first store has got a random part further."""
        for store in self.stores:
            store.begin("storm", operations=operations, seed=self.draw.randrange(1 << 30))
        first = self.stores[0]
        begun = self.table.steps(first.number)
        for part in sorted(self.draw.uniform(0.05, 0.9) for _ in range(kills)):
            goal = begun + int(part * operations)
            while self.table.steps(first.number) < goal and first.process.poll() is None:
                time.sleep(0.002)
            if self.draw.random() < 0.4:
                self.kill_server()
                if self.draw.random() < 0.5:  # a store that opens while the server is away
                    self._restart(self.draw.randrange(1, len(self.stores)), operations)
                self.server = self.serve()
            else:
                self._restart(self.draw.randrange(1, len(self.stores)), operations)
        for i in range(len(self.stores)):
            self._end(i)

    def _restart(self, which: int, operations: int) -> None:
        self.replace(which)
        self.stores[which].begin("storm", operations=operations // 4, seed=self.draw.randrange(1 << 30))

    def _end(self, which: int) -> None:
        try:
            self._take(self.stores[which].end())
        except Killed:
            self.wrong.append(f"store {self.stores[which].number} ended with {self.stores[which].process.wait()}")

    def _each(self, do: str, but: int = -1, **arguments: Any) -> None:
        """The same job for all stores at once."""
        chosen = [i for i in range(len(self.stores)) if i != but]
        for i in chosen:
            self.stores[i].begin(do, **arguments)
        for i in chosen:
            self._end(i)

    def _one(self, which: int, do: str, **arguments: Any) -> None:
        self.stores[which].begin(do, **arguments)
        self._end(which)

    def _hand_over(self) -> None:
        name = f"round-{self.rounds}"
        writer = self.draw.randrange(len(self.stores))
        self._one(writer, "hand", name=name, sequence=1)
        if writer and self.draw.random() < 0.5:  # what was flushed is there, whatever becomes of who put it
            self.replace(writer)
        self._each("take", name=name, allowed=[1], forget=False)
        other = self.draw.randrange(len(self.stores))
        self._one(other, "hand", name=name, sequence=2)
        self._one(other, "take", name=name, allowed=[2], forget=False)
        self._each("take", but=other, name=name, allowed=[1, 2], forget=False)
        self._each("take", name=name, allowed=[2], forget=True)
        remover = self.draw.randrange(len(self.stores))
        self._one(remover, "give_up", name=name)
        self._one(remover, "take", name=name, allowed=[0], forget=False)
        with Client(f"127.0.0.1:{self.port}", timeout=60) as client:
            left = client.get_many([OpaqueKey(f"{name}-{i}") for i in range(HANDED)])
        if any(obj is not None for obj in left):
            self.wrong.append(f"{name}: the server holds what was removed")
        self._each("take", but=remover, name=name, allowed=[0, 2], forget=False)
        self._each("take", name=name, allowed=[0], forget=True)

    def close(self) -> None:
        for store in self.stores:
            self._after(store)
        self.server.terminate()
        if self.server.wait(60):
            self.wrong.append(f"the server ended with {self.server.returncode}")
        self.table.close()

    def abandon(self) -> None:
        """End every process at once."""
        processes: list[subprocess.Popen[Any]] = [self.server, *(store.process for store in self.stores)]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def result(self) -> dict[str, Any]:
        half = self.resident[len(self.resident) // 2 :]
        quarter = self.resident[len(self.resident) // 4 : len(self.resident) // 2]
        slope = None
        if len(half) > 2:
            slope = statistics.linear_regression([t / 60 for t, _ in half], [mib for _, mib in half]).slope
        return {
            "stores": len(self.stores), "rounds": self.rounds, "seconds": round(time.monotonic() - self.began),
            "wrong": len(self.wrong), "examples": self.wrong[:20], "counts": dict(sorted(self.counts.items())),
            "survivor_mib": [round(mib, 1) for _, mib in self.resident[:: max(1, len(self.resident) // 12)]],
            "survivor_mib_per_minute": None if slope is None else round(slope, 2),
            "survivor_growth": round(_median(half) / _median(quarter), 3) if quarter else None,
            "server_peak_mib": round(self.server_peak, 1),
        }  # fmt: skip


def _median(samples: list[tuple[float, float]]) -> float:
    return statistics.median(mib for _, mib in samples)


def _peak(pid: int) -> float:
    """MiB that a process has held at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def soak(
    stores: int, seed: int, *, operations: int, kills: int, more: Callable[[Soak], bool],
    told: Callable[[Soak], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Rounds as long as `more` says so, and until something is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        run = Soak(folder, stores, seed)
        try:
            while more(run) and not run.wrong:
                run.round(operations, kills)
                told(run)
            run.close()
        finally:
            run.abandon()
        return run.result()


@contextlib.contextmanager
def bar(label: str, seconds: float) -> Iterator[Callable[[Soak], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.fields[seen]}")) as progress:
        task = progress.add_task(f"{label}, s", total=round(seconds), seen="")

        def told(run: Soak) -> None:
            hits, taken = run.counts["hits"], run.counts["taken"]
            seen = f"{run.rounds} rounds, {hits:,} hits, {taken:,} handed over, {len(run.wrong)} wrong"
            progress.update(task, completed=min(seconds, time.monotonic() - run.began), seen=seen)

        yield told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="for all runs together")
    parser.add_argument("--stores", default="2,4", help="how many at a time; a run for each number")
    parser.add_argument("--operations", type=int, default=1500, help="calls of each thread of a store in a storm")
    parser.add_argument("--kills", type=int, default=3, help="of stores or of the server, in each storm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    numbers = [int(n) for n in options.stores.split(",")]
    seconds = options.minutes * 60 / len(numbers)
    results = []
    for n in numbers:
        with bar(f"{n} stores", seconds) as told:
            results.append(
                soak(
                    n, options.seed, operations=options.operations, kills=options.kills,
                    more=lambda run: time.monotonic() - run.began < seconds, told=told,
                )
            )  # fmt: skip
    print(json.dumps(results, indent=2))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if any(result["wrong"] or (result["survivor_growth"] or 1) > 1.2 for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
