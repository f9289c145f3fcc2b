"""Churn at full capacity: the lmdb backend beside the plain way to use LMDB, one value per key, in one run.

    python -m benchmarks.lmdb_churn [--gib 6] [--live 0.95] [--times 3] [--path DIR] [--json FILE]

Values of 512 KiB to 2.5 MiB, victims at random, the capacity written several times over; nothing is synced. Prints
first-fill and steady throughput, latencies and map-full errors, with the machine's memcpy and disk beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from lms_tiers.errors import CapacityError
from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions

LOW, HIGH = 512 << 10, 2560 << 10
NOISE = memoryview(np.random.default_rng(1).integers(0, 256, HIGH + (1 << 20), dtype=np.uint8).tobytes())


class Extents:
    """The backend."""

    name = "lms_tiers lmdb"

    def __init__(self, path: Path, capacity: int, sync: str) -> None:
        options = LmdbOptions.model_validate({"sync": sync, "codec": "raw"})
        self.backend: LmdbBackend = open_backend(str(path), capacity, options)

    def put(self, number: int, data: memoryview) -> None:
        message = ClientMetaMessage(
            ClientCommand.PUT, OpaqueKey(str(number)), len(data), MemoryFormat.BINARY, None, (len(data),)  # type: ignore[arg-type]
        )  # fmt: skip
        self.backend.put(message, data)  # type: ignore[arg-type]  # a borrowed buffer saves the copy

    def remove(self, numbers: list[int]) -> None:
        self.backend.remove_many([OpaqueKey(str(n)) for n in numbers])

    def full(self) -> int:
        return self.backend.stats().failures

    def close(self) -> None:
        self.backend.close()


class Whole:
    """One value per key, as most do it: not synced, victims deleted in a commit before the put."""

    name = "whole values"

    def __init__(self, path: Path, capacity: int, sync: str) -> None:
        self.env = lmdb.open(str(path), map_size=capacity, sync=False, metasync=False, meminit=False)
        self.errors = 0

    def put(self, number: int, data: memoryview) -> None:
        try:
            with self.env.begin(write=True) as txn:
                txn.put(b"%d" % number, data)
        except lmdb.MapFullError:
            self.errors += 1
            raise

    def remove(self, numbers: list[int]) -> None:
        for _ in range(2):  # a second commit, so that the freed pages may be used
            with self.env.begin(write=True) as txn:
                for number in numbers:
                    txn.delete(b"%d" % number)
                txn.put(b"commit", b"%d" % time.monotonic_ns())

    def full(self) -> int:
        return self.errors

    def close(self) -> None:
        self.env.close()


def churn(make: Callable[..., Any], path: Path, capacity: int, live: float, times: float, sync: str) -> dict[str, Any]:
    store = make(path, capacity, sync)
    draw = random.Random(7)
    held: list[tuple[int, int]] = []
    used = number = written = lost = 0
    limit = int(capacity * live)
    latencies: list[float] = []
    marks = [(0, time.perf_counter())]
    fill: tuple[int, float] | None = None
    while written < capacity * times:
        size = draw.randrange(LOW, HIGH)
        victims = []
        while used + size > limit:
            at = draw.randrange(len(held))
            held[at], held[-1] = held[-1], held[at]
            victim, length = held.pop()
            victims.append(victim)
            used -= length
        if victims:
            fill = fill or (written, time.perf_counter())
            store.remove(victims)
        begin = draw.randrange(1 << 20)
        start = time.perf_counter()
        try:
            store.put(number, NOISE[begin : begin + size])
            held.append((number, size))
            used += size
            written += size
        except (lmdb.MapFullError, CapacityError):
            lost += 1
            limit -= size  # what the layout cannot use it does without
            if lost > 5000:
                break
        latencies.append(time.perf_counter() - start)
        number += 1
        if written - marks[-1][0] > capacity // 8:
            marks.append((written, time.perf_counter()))
    full = store.full()
    size_on_disk = sum(p.stat().st_blocks * 512 for p in path.iterdir())
    store.close()
    assert fill is not None
    steady = [
        (b - a) / (t - s) / 1e6 for (a, s), (b, t) in itertools.pairwise(marks) if a >= fill[0]
    ]  # fmt: skip
    latencies.sort()
    first = fill[0] / (fill[1] - marks[0][1]) / 1e6
    median = statistics.median(steady) if steady else 0.0
    return {
        "layout": store.name, "first_fill_mb_s": first, "steady_mb_s": median,
        "steady_min_mb_s": min(steady, default=0.0), "steady_over_first": median / first,
        "p50_ms": latencies[len(latencies) // 2] * 1e3, "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "map_full": full, "map_full_seen_by_caller": lost, "live_at_end": used / capacity,
        "bytes_on_disk_over_capacity": size_on_disk / capacity,
    }  # fmt: skip


def ceilings(path: Path) -> dict[str, float]:
    source = np.ones(256 << 20, np.uint8)
    target = np.ones(2 << 20, np.uint8)
    copies = []
    for _ in range(5):
        start = time.perf_counter()
        for at in range(0, 128 << 20, 2 << 20):
            np.copyto(target, source[at : at + (2 << 20)])
        copies.append((128 << 20) / (time.perf_counter() - start) / 1e9)
    file = path / "ceiling"
    start = time.perf_counter()
    with file.open("wb", buffering=0) as out:
        for _ in range(128):
            out.write(source[: 2 << 20].data)
    rate = (256 << 20) / (time.perf_counter() - start) / 1e6
    file.unlink()
    return {"memcpy_gb_s": statistics.median(copies), "file_write_mb_s": rate}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=float, default=6)
    parser.add_argument("--live", type=float, default=0.95)
    parser.add_argument("--times", type=float, default=3)
    parser.add_argument("--sync", default="none")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lmdb-churn-", dir=given.path))
    capacity = int(given.gib * (1 << 30)) // 4096 * 4096
    rows = []
    try:
        machine = ceilings(folder)
        for make in (Extents, Whole):
            path = folder / make.__name__
            path.mkdir()
            rows.append(churn(make, path, capacity, given.live, given.times, given.sync))
            shutil.rmtree(path)
    finally:
        shutil.rmtree(folder)
    print(f"memcpy {machine['memcpy_gb_s']:.1f} GB/s, file write {machine['file_write_mb_s']:.0f} MB/s")
    for row in rows:
        print("  ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
    over_whole = rows[0]["steady_mb_s"] / max(rows[1]["steady_mb_s"], 1e-9)
    print(f"steady, over whole values: {over_whole:.2f}")
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "rows": rows, "over_whole": over_whole}, indent=2))


if __name__ == "__main__":
    main()
