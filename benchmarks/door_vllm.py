"""The tier under vLLM beside vLLM's own `fs`, in turn in one run; made for the environment of `make doors`.

    python -m scripts.doors --engine vllm --quick   # makes it
    python -m benchmarks.door_vllm [--mib 96] [--rounds 9] [--path DIR] [--json FILE] [--markdown PAGE]

Jobs of 8 chunks, all handed in at once, as of many requests: from the first hand-in to the last result.
`fs` is measured as it comes (O_DIRECT where the file system has it, its C functions) and reading and writing through
the page cache. Every load is compared with what was stored. Then the calls of the scheduler while the store is stuck.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy

from benchmarks.lmdb_all import machine, table
from benchmarks.shared import write
from lms_tiers.errors import StorageUnavailableError

ROOT = Path(__file__).resolve().parents[1]
CHUNKS = 8
SIZES = {"256 KiB": 256 << 10, "2 MiB": 2 << 20}


def spec() -> Any:
    parallel = {"rank": 0, "world_size": 1, "tp_size": 1, "pp_size": 1, "pcp_size": 1, "dcp_size": 1}
    parallel |= {"data_parallel_index": 0, "data_parallel_size": 1, "is_parallelism_agnostic": False}
    config = SimpleNamespace(
        groups=[SimpleNamespace(tokens_per_block=16, layer_names=("l0",))],
        model=SimpleNamespace(name="llama", dtype="bfloat16"),
        cache=SimpleNamespace(tokens_per_hash=16, blocks_per_chunk=1), parallel=SimpleNamespace(**parallel),
        kv_cache_layout="LBNHC", canonical_layout=False, replicated_layout=False,
    )  # fmt: skip
    events = SimpleNamespace(enable_kv_cache_events=False)
    return SimpleNamespace(config=config, kv_events_config=events, blocks_per_chunk=1)


def fs(path: Path, view: memoryview, direct: bool) -> Any:
    from vllm.v1.kv_offload.tiering.fs.manager import FileSystemTierManager

    tier = FileSystemTierManager(spec(), view, "fs", root_dir=str(path))
    tier._use_o_direct = direct and tier._use_o_direct
    return tier


def ours(path: Path, view: memoryview, device: str) -> Any:
    from lms_tiers.doors.vllm import LMSTier

    return LMSTier(spec(), view, "lms", device=device.format(path))


DEVICES = {
    "ours, lmdb": "lmdb:{}/kv?capacity=2GiB&codec=raw&sync=none",
    "ours, lmdb direct": "lmdb:{}/kv?capacity=2GiB&codec=raw&sync=none&direct=true",
    "ours, cpu 64 MiB > lmdb": "cpu?capacity=64MiB > lmdb:{}/kv?capacity=2GiB&codec=raw&sync=none&promote=never",
}
SUBJECTS: dict[str, Callable[[Path, memoryview], Any]] = {
    "fs": lambda path, view: fs(path, view, True),
    "fs, page cache": lambda path, view: fs(path, view, False),
    **{name: partial(ours, device=device) for name, device in DEVICES.items()},
}


def name(key: int) -> bytes:
    return key.to_bytes(32, "big") + bytes(4)


class Primary:
    """Rows of memory, as the primary tier has them."""

    def __init__(self, row: int, count: int) -> None:
        self.row, self.count = row, count
        self.memory = mmap.mmap(-1, row * count)
        self.array = numpy.frombuffer(self.memory, dtype=numpy.int8).reshape(count, row)
        self.data = numpy.random.default_rng(7).integers(-128, 128, (count, row), dtype=numpy.int8)
        self.jobs = 0

    def view(self) -> memoryview:
        rows: Any = self.array
        return memoryview(rows)

    def into(self, found: dict[str, list[float]], kind: str, tier: Any, submit: Callable[[Any], None]) -> None:
        """Move all rows; MB a second, and a second of processor time of the whole process."""
        works, began = time.process_time(), time.perf_counter()
        self.run(tier, submit)
        megabytes = self.row * self.count / 1e6
        found[kind].append(megabytes / (time.perf_counter() - began))
        found[f"{kind} of processor"].append(megabytes / (time.process_time() - works))

    def run(self, tier: Any, submit: Callable[[Any], None]) -> None:
        """Move all rows, in jobs."""
        waiting = set()
        for at in range(0, self.count, CHUNKS):
            slots = list(range(at, min(at + CHUNKS, self.count)))
            self.jobs += 1
            waiting.add(self.jobs)
            submit(
                SimpleNamespace(
                    job_id=self.jobs,
                    keys=[name(slot) for slot in slots],
                    chunk_ids=numpy.array(slots, dtype=numpy.int32),
                    req_context=SimpleNamespace(req_id=str(at)),
                )
            )
        pause = threading.Event()
        while waiting:
            for result in tier.get_finished_jobs():
                assert result.success, "a job failed"
                waiting.remove(result.job_id)
            pause.wait(0.0005)


def measured(row: int, mib: int, rounds: int, path: Path) -> dict[str, dict[str, list[float]]]:
    primary = Primary(row, (mib << 20) // row)
    kinds = ("store", "store of processor", "load", "load of processor")
    found: dict[str, dict[str, list[float]]] = {subject: {kind: [] for kind in kinds} for subject in SUBJECTS}
    for _ in range(rounds):
        for subject, make in SUBJECTS.items():
            place = Path(tempfile.mkdtemp(dir=path))
            view = primary.view()
            tier = make(place, view)
            primary.array[:] = primary.data
            primary.into(found[subject], "store", tier, tier.submit_store)
            primary.array[:] = 0
            primary.into(found[subject], "load", tier, tier.submit_load)
            assert numpy.array_equal(primary.array, primary.data), f"{subject}: wrong bytes"
            tier.shutdown()
            shutil.rmtree(place)
    return found


def stuck(path: Path, calls: int) -> dict[str, dict[str, float]]:
    """Microseconds of calls of the scheduler while no call of the store comes back."""
    primary = Primary(4096, 64)
    tier = ours(path, primary.view(), DEVICES["ours, lmdb"])
    gate = threading.Event()
    for operation in ("contains_many", "get_into", "get_many_into", "put_many", "put_from", "stats"):

        def waits(*given: Any, **named: Any) -> Any:
            gate.wait()
            raise StorageUnavailableError("stuck", "and never came back")

        setattr(tier._store.backend, operation, waits)
    took: list[int] = []
    worked: list[int] = []

    def timed(call: Callable[..., Any], *given: Any) -> None:
        began, works = time.perf_counter_ns(), time.thread_time_ns()
        call(*given)
        worked.append(time.thread_time_ns() - works)
        took.append(time.perf_counter_ns() - began)

    for i in range(calls // 8):
        request = SimpleNamespace(req_id=str(i))
        slots = numpy.arange(8, dtype=numpy.int32)
        job = SimpleNamespace(job_id=i, keys=[name(k) for k in range(8)], chunk_ids=slots, req_context=request)
        timed(tier.on_new_request, request)
        timed(tier.lookup, name(i), request)
        timed(tier.submit_load if i % 2 else tier.submit_store, job)
        timed(lambda: list(tier.get_finished_jobs()))
        timed(lambda: list(tier.take_events()))
        timed(tier.get_stats)
        timed(tier.on_schedule_end, None)
        timed(tier.on_request_finished, request)
    gate.set()
    tier.shutdown()
    return {"wall": quantiles(took), "processor": quantiles(worked)}


def quantiles(nanoseconds: list[int]) -> dict[str, float]:
    """In microseconds."""
    nanoseconds.sort()
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    found = {name: nanoseconds[int(len(nanoseconds) * share)] / 1e3 for name, share in at.items()}
    return {**found, "max": nanoseconds[-1] / 1e3}


def best(rates: list[float]) -> float:
    """Of the quietest round: other work on the machine only makes a round slower."""
    return max(rates)


def rates_of(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, list[float]]]]:
    for size in SIZES:
        for subject, kinds in told[size].items():
            yield size, subject, kinds


def page(told: dict[str, Any]) -> list[str]:
    """The tables, for people."""
    rows: list[list[object]] = []
    for size, subject, kinds in rates_of(told):
        rows.append([size, subject, *(f"{statistics.median(r):,.0f} ({best(r):,.0f})" for r in kinds.values())])
    floors: list[list[object]] = []
    for size in SIZES:
        found = told[size]
        for kind in ("store", "load"):
            for subject, floor in (("fs", 2.0), ("fs, page cache", 0.9)):
                for clock in ("", " of processor"):
                    ours = best(found["ours, lmdb"][kind + clock]) / best(found[subject][kind + clock])
                    shown = f"{ours:.2f}" if ours >= floor or clock else f"**{ours:.2f}: missed**"
                    floors.append([f"{size}: {kind}{clock}, lmdb over {subject}", f"≥ {floor}" * (not clock), shown])
    for clock, quantiles in told["stuck"].items():
        value, bound = quantiles["p99.9"] / 1e3, "≤ 1 ms" if clock == "wall" else ""
        shown = f"{value:.3f} ms" if value <= 1 or clock != "wall" else f"**{value:.1f} ms: missed**"
        floors.append([f"calls of the scheduler, store stuck, p99.9, {clock}", bound, shown])
    functions = "with" if told["functions"] else "without"
    heads = ["", "", "store MB/s", "a processor second", "load MB/s", "a processor second"]
    return [
        machine(), "", f"Load of the machine at the start: {told['load']:.0f}; `fs` {functions} its C functions.", "",
        *table(["figure, quietest rounds", "floor", "this run"], floors), "",
        f"Medians of {told['rounds']} rounds, and the quietest:", "", *table(heads, rows),
    ]  # fmt: skip


def there() -> None:
    """Start again in the environment of `make doors`, where this is not it."""
    from scripts.doors import vllm
    from scripts.doors.environments import environment

    made = environment(vllm.ENGINE, vllm.ENGINE.newest, ROOT / ".doors")
    done = subprocess.run(
        [str(made.python), "-m", "benchmarks.door_vllm", *sys.argv[1:]], env=made.environ, check=False
    )
    raise SystemExit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--path", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="docs/bench/door-vllm.md", help="write the tables there")
    options = parser.parse_args()
    if os.environ.get("LMS_DOORS_ENGINE") != "vllm":
        there()
    from vllm.v1.kv_offload.tiering.fs.io import _HAS_FSIO_C

    told: dict[str, Any] = {"rounds": options.rounds, "load": os.getloadavg()[0], "functions": _HAS_FSIO_C}
    for size, row in SIZES.items():
        told[size] = measured(row, options.mib, options.rounds, options.path)
    with tempfile.TemporaryDirectory(dir=options.path) as place:
        told["stuck"] = stuck(Path(place), options.calls)
    print("\n".join(page(told)))
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    if options.markdown:
        write(options.markdown, page(told))


if __name__ == "__main__":
    main()
