"""What the tiered store costs over its top tier, and what it never waits for.

    python benchmarks/store.py [--quick] [--json FILE]

Overheads are medians of rounds in which the bare backend and the store take turns; the machine's own speed (an empty
method call, a copy of 2 MiB) stands beside them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lms_tiers.device import parse_tier
from lms_tiers.factory import open_backend
from lms_tiers.interface import Capabilities, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore

SIZE = 4096
BATCH = 64

#: Chunks read in turn by the scaling runs: few enough to stay in the caches, where locks show and memory does not.
CHUNKS = 4


def key(i: int) -> CacheEngineKey:
    """A key of 80 characters."""
    return CacheEngineKey("meta-llama/Llama-3.1-70B-Instruct-and-a-longer-na", 1, 0, (1 << 63) + i, torch.bfloat16)


def meta(k: CacheEngineKey, size: int) -> ClientMetaMessage:
    return ClientMetaMessage(ClientCommand.PUT, k, size, MemoryFormat.KV_2LTD, torch.bfloat16, torch.Size([size // 2]))


def store_over(*backends: LMSBackendInterface, capacity: int = 1 << 34, **options: Any) -> TieredStore:
    return TieredStore(
        [TierConfig(f"t{i}", b, capacity, Lru(capacity, time.monotonic)) for i, b in enumerate(backends)], **options
    )


class Weightless(LMSBackendInterface):
    """Keeps nothing, so that what is measured is the store's."""

    capabilities = Capabilities(remove=True)

    def put(self, client_meta: Any, kv_chunk_bytes: Any) -> None:
        pass

    def get(self, key: Any) -> None:
        return None

    def contains(self, key: Any) -> bool:
        return False

    def list_keys(self) -> list[Any]:
        return []

    def remove(self, key: Any) -> None:
        pass

    def close(self) -> None:
        pass


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def each(call: Callable[[Any], Any], over: list[Any]) -> Callable[[], None]:
    def run() -> None:
        for x in over:
            call(x)

    return run


def one_round(subject: LMSBackendInterface, keys: list[CacheEngineKey]) -> dict[str, float]:
    """Microseconds per key of each operation; half of the keys are put one by one, half in batches."""
    n = len(keys)
    items = [(meta(k, SIZE), bytearray(SIZE)) for k in keys]
    runs = [keys[i : i + BATCH] for i in range(0, n, BATCH)]
    batches = [items[i : i + BATCH] for i in range(n // 2, n, BATCH)]
    gc.collect()
    gc.disable()
    steps = {
        "put": (each(lambda item: subject.put(*item), items[: n // 2]), n // 2),
        "put, batch of 64": (each(subject.put_many, batches), n - n // 2),
        "get": (each(subject.get, keys), n),
        "get, batch of 64": (each(subject.get_many, runs), n),
        "contains_prefix, 64 keys": (each(subject.contains_prefix, runs), n),
    }
    took = {step: timed(call) / count * 1e6 for step, (call, count) in steps.items()}
    gc.enable()
    subject.close()
    return took


def overhead(rounds: int, n: int) -> dict[str, float]:
    """Microseconds per operation, the store's above the bare backend's, both in turns."""
    above: dict[str, list[float]] = {}
    for r in range(rounds):
        keys = [key(r * n + i) for i in range(n)]
        if r % 2:
            bare = one_round(LMSLocalBackend(), keys)
            store = one_round(store_over(LMSLocalBackend(), LMSLocalBackend()), keys)
        else:
            store = one_round(store_over(LMSLocalBackend(), LMSLocalBackend()), keys)
            bare = one_round(LMSLocalBackend(), keys)
        for step, took in store.items():
            above.setdefault(step, []).append(took - bare[step])
    return {step: statistics.median(values) for step, values in above.items()}


def tracked(keys: int) -> dict[str, float]:
    """RAM per tracked key and the time of `contains` among that many."""
    store = store_over(Weightless())
    data = bytearray(SIZE)
    chunk = meta(key(0), SIZE)
    gc.collect()
    before = resident()
    for i in range(keys):
        chunk.key = key(i)
        store.put(chunk, data)
    gc.collect()
    after = resident()
    step = max(1, keys // 20_000)
    asked = [key(i) for i in range(0, keys, step)]
    seconds = min(timed(lambda: [store.contains(k) for k in asked]) for _ in range(5))
    store.close()
    return {"bytes per key": (after - before) / keys, "contains µs": seconds / len(asked) * 1e6}


def machine() -> dict[str, float]:
    """How fast this machine is just now."""

    class Empty:
        def call(self, key: Any) -> None:
            pass

    empty, keys = Empty(), [key(0)] * 100_000
    return {"an empty method call, ns": min(timed(each(empty.call, keys)) for _ in range(7)) / len(keys) * 1e9}


def resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def scaling(device: str, seconds: float, size: int = 2 << 20) -> dict[str, float]:
    """GB/s of one and of two threads reading 2 MiB chunks into kept buffers, and their ratio."""
    backend = open_backend(parse_tier(device))
    store = TieredStore([TierConfig("only", backend, 512 << 20, Lru(512 << 20, time.monotonic))])
    keys = [key(i) for i in range(CHUNKS)]
    for k in keys:
        store.put(meta(k, size), bytearray(os.urandom(1 << 16) * (size >> 16)))
    buffers = [bytearray(size) for _ in range(2)]

    def reads(thread: int, counts: list[int], until: float) -> None:
        n, buffer = 0, buffers[thread]
        while time.perf_counter() < until:
            store.get_into(keys[(n + thread) % CHUNKS], buffer)
            n += 1
        counts[thread] = n

    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(5):
        for threads in (1, 2):
            counts = [0, 0]
            until = time.perf_counter() + seconds
            running = [threading.Thread(target=reads, args=(t, counts, until)) for t in range(threads)]
            started = time.perf_counter()
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            rates[threads].append(sum(counts) * size / (time.perf_counter() - started) / 1e9)
    store.close()
    one, two = statistics.median(rates[1]), statistics.median(rates[2])
    return {"1 thread GB/s": one, "2 threads GB/s": two, "ratio": two / one}


def copying(seconds: float, size: int = 2 << 20) -> dict[str, float]:
    """The ceiling: plain copies of 2 MiB without the interpreter's lock, by one thread and by two."""
    sources = [ctypes.create_string_buffer(os.urandom(1 << 16) * (size >> 16)) for _ in range(CHUNKS)]
    targets = [ctypes.create_string_buffer(size) for _ in range(2)]

    def copies(thread: int, counts: list[int], until: float) -> None:
        n = 0
        while time.perf_counter() < until:
            ctypes.memmove(targets[thread], sources[(n + thread) % CHUNKS], size)
            n += 1
        counts[thread] = n

    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(5):
        for threads in (1, 2):
            counts = [0, 0]
            until = time.perf_counter() + seconds
            running = [threading.Thread(target=copies, args=(t, counts, until)) for t in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            rates[threads].append(sum(counts) * size / seconds / 1e9)
    one, two = statistics.median(rates[1]), statistics.median(rates[2])
    return {"1 thread GB/s": one, "2 threads GB/s": two, "ratio": two / one}


def stuck(seconds: float) -> dict[str, float]:
    """Microseconds of hits in the top tier while the tier below is healthy, and while it hangs in a write."""
    below = FaultyBackend(LMSLocalBackend())
    capacity = 200 * SIZE
    store = TieredStore(
        [
            TierConfig("top", LMSLocalBackend(), capacity, Lru(capacity, time.monotonic)),
            TierConfig("below", below, 1 << 30, Lru(1 << 30, time.monotonic)),
        ],
        stall=60.0, back_pressure=0.01, close_timeout=1.0,
    )  # fmt: skip
    keys = [key(i) for i in range(400)]
    for k in keys:
        store.put(meta(k, SIZE), bytearray(SIZE))
    store.drain(10)
    hot = keys[-50:]

    def hits(until: float) -> list[float]:
        took = []
        while time.perf_counter() < until:
            for k in hot:
                started = time.perf_counter_ns()
                store.get(k)
                took.append((time.perf_counter_ns() - started) / 1e3)
        return took

    healthy = hits(time.perf_counter() + min(1.0, seconds))
    for operation in ("put", "put_many", "get", "remove_many"):
        below.inject(operation, Fault.BLOCK)
    for i in range(20):
        store.put(meta(key(1000 + i), SIZE), bytearray(SIZE))
        for k in hot:
            store.get(k)
    hanging = hits(time.perf_counter() + seconds)
    blocked = below.blocked
    below.heal()
    store.close()
    return {
        "healthy median µs": statistics.median(healthy), "hanging median µs": statistics.median(hanging),
        "healthy p99 µs": statistics.quantiles(healthy, n=100)[98],
        "hanging p99 µs": statistics.quantiles(hanging, n=100)[98], "calls hanging": float(blocked),
    }  # fmt: skip


def alone(section: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run a section in a process of its own: what a million keys leave behind may slow the next section down."""
    forks = multiprocessing.get_context("fork")
    receiver, sender = forks.Pipe(duplex=False)
    process = forks.Process(target=lambda: sender.send(section()))
    process.start()
    sender.close()
    try:
        figures: dict[str, float] = receiver.recv()
    except EOFError:
        raise SystemExit("a section failed; see above") from None
    process.join()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default="", help="comma-separated sections")
    arguments = parser.parse_args()
    quick = arguments.quick
    folder = tempfile.mkdtemp(prefix="lms-store-")
    seconds = 0.05 if quick else 0.6
    sections: dict[str, Callable[[], dict[str, float]]] = {
        "machine": machine,
        "overhead": lambda: overhead(3 if quick else 15, 640 if quick else 6400),
        "tracked": lambda: tracked(20_000 if quick else 1_000_000),
        "scaling copy": lambda: copying(seconds),
        "scaling cpu": lambda: scaling("cpu", seconds),
        "scaling pinned": lambda: scaling("pinned?capacity=512MiB", seconds),
        "scaling lmdb": lambda: scaling(f"lmdb:{folder}/kv?capacity=512MiB", seconds),
        "stuck tier": lambda: stuck(0.2 if quick else 5.0),
    }
    wanted = [name for name in sections if not arguments.only or name.split()[0] in arguments.only.split(",")]
    figures: dict[str, dict[str, float]] = {}
    try:
        for name in wanted:
            figures[name] = alone(sections[name])
            for what, value in figures[name].items():
                print(f"{name:16} {what:28} {value:10.2f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        about = {"python": sys.version.split()[0], "machine": platform.machine(), "cpus": os.cpu_count()}
        arguments.json.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
