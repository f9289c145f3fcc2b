"""A load of 8 connections while the server is killed and restarted: wrong bytes, and memory over time.

    python benchmarks/server_soak.py [--minutes 10] [--json FILE]

Every second restart is by SIGKILL, the others by SIGTERM. Each worker owns its keys, so it knows what a get may
answer: the newest put it got an answer for, a put whose answer was lost, an older flushed one after a SIGKILL, or
nothing. A chunk carries its key, its generation and bytes drawn from both; anything else is a wrong byte.
Exit 1 when one was seen, or when memory grew.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import xxhash

from benchmarks.server import free_port, wait_for
from lms_tiers import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.client import Client
from lms_tiers.errors import LmsTiersError

WORKERS: Final = 8
KEYS: Final = 60
SIZES: Final = (4096, 65536, 262144, 1048576)


def body(key: str, generation: int) -> bytearray:
    """The one right content of a key's generation."""
    size = SIZES[xxhash.xxh3_64_intdigest(key.encode()) % len(SIZES)]
    head = f"{key}|{generation}|".encode()
    seed = xxhash.xxh3_128_digest(head)
    return bytearray((head + seed * (size // 16 + 1))[:size])


class Worker(threading.Thread):
    def __init__(self, number: int, port: int, stop: threading.Event) -> None:
        super().__init__(name=f"soak-{number}")
        self.number, self.port, self.stop = number, port, stop
        self.counts = {"puts": 0, "put_errors": 0, "hits": 0, "misses": 0, "wrong": 0, "stale": 0}
        self.newest: dict[str, int] = {}
        self.acknowledged: dict[str, int] = {}
        self.killed = threading.Event()

    def run(self) -> None:
        draw = random.Random(self.number)
        generation = 0
        with Client(f"127.0.0.1:{self.port}", connections=1, timeout=5, lazy=True) as client:
            while not self.stop.is_set():
                key = f"w{self.number}-k{draw.randrange(KEYS)}"
                if draw.random() < 0.4:
                    generation += 1
                    data = body(key, generation)
                    meta = ChunkMeta(len(data), MemoryFormat.KV_2LTD, "uint8", (1, len(data)))
                    self.newest[key] = generation
                    try:
                        client.put(meta.message(OpaqueKey(key)), data)
                        self.counts["puts"] += 1
                        self.acknowledged[key] = generation
                    except LmsTiersError:
                        self.counts["put_errors"] += 1
                        self.stop.wait(0.01)
                else:
                    self.check(client, key)

    def check(self, client: Client, key: str) -> None:
        obj = client.get(OpaqueKey(key))
        if obj is None:
            self.counts["misses"] += 1
            return
        name, _, rest = bytes(obj.data[:80]).partition(b"|")
        number = rest.partition(b"|")[0]
        found = int(number) if number.isdigit() else -1
        if name != key.encode() or bytes(obj.data) != body(key, found) or found > self.newest.get(key, 0):
            self.counts["wrong"] += 1
        elif found < self.acknowledged.get(key, 0) and not self.killed.is_set():
            # Older than the newest one acknowledged: right only after a kill, which may lose what was not flushed.
            self.counts["stale"] += 1
        self.counts["hits"] += 1


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def serve(device: str, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lms_tiers", "serve", "--port", str(port), "--device", device]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    return child


def soak(seconds: float, every: float, folder: str) -> dict[str, Any]:
    port, stop = free_port(), threading.Event()
    device = f"cpu?capacity=32MiB > lmdb:{folder}/lmdb?capacity=256MiB"
    child = serve(device, port)
    workers = [Worker(i, port, stop) for i in range(WORKERS)]
    for worker in workers:
        worker.start()
    begin = time.monotonic()
    runs: list[dict[str, Any]] = []
    while time.monotonic() - begin < seconds:
        samples: list[int] = []
        until = min(time.monotonic() + every, begin + seconds)
        while time.monotonic() < until:
            time.sleep(0.5)
            samples.append(resident(child.pid))
        kill = len(runs) % 2 == 1
        if kill:
            for worker in workers:
                worker.killed.set()
        child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        code = child.wait(60)
        runs.append({"ended": "SIGKILL" if kill else "SIGTERM", "code": code, "resident": samples})
        child = serve(device, port)
    stop.set()
    for worker in workers:
        worker.join()
    child.terminate()
    child.wait(60)
    total = {name: sum(w.counts[name] for w in workers) for name in workers[0].counts}
    # The second half of a run against its second quarter: the first quarter fills the tiers.
    growth = [
        statistics.median(r[len(r) // 2 :]) / statistics.median(r[len(r) // 4 : len(r) // 2] or r[:1])
        for r in (run["resident"] for run in runs)
        if len(r) >= 8
    ]
    return {
        "seconds": round(time.monotonic() - begin), "restarts": len(runs), **total,
        "peak_resident_mib": max(max(r["resident"]) for r in runs) / 2**20,
        "growth_within_runs": statistics.median(growth) if growth else None,
        "exit_codes": sorted({(r["ended"], r["code"]) for r in runs}),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seconds", type=float, help="instead of --minutes")
    parser.add_argument("--every", type=float, default=30, help="seconds between restarts")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(options.seconds or options.minutes * 60, options.every, folder)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["wrong"] or result["stale"] or (result["growth_within_runs"] or 1) > 1.2 else 0


if __name__ == "__main__":
    sys.exit(main())
