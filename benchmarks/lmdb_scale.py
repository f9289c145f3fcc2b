"""A million small chunks: how soon a store answers after opening, what an entry costs in memory, whether order lasts.

    python -m benchmarks.lmdb_scale [--chunks 1000000] [--size 1024] [--json FILE]

Fills a store (`sync=none`), uses a tenth of the chunks at random, closes it, and opens it in a process of its own that
times the first get, `contains` over random keys (half of them absent), the first key of `iter_keys`, `list_keys` and
`scan`, and weighs itself. The same once more for a device text, whose tier keeps an index of every key: once left alone
until the index is complete, and once asked from the first moment on (`busy`).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lms_tiers.factory import CreateStorageBackend
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions

OPTIONS = LmdbOptions.model_validate({"sync": "none", "codec": "raw"})
NOISE = random.Random(1).randbytes(1 << 20)


def resident() -> int:
    """Bytes of memory that are this process's own; the file's pages that are mapped are not."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def name(number: int) -> str:
    return f"model@1@0@{number:x}@bfloat16"


def items(count: int, size: int) -> Iterator[tuple[ClientMetaMessage, Any]]:
    for number in range(count):
        at = number * 61 % (len(NOISE) - size)
        meta = ClientMetaMessage(ClientCommand.PUT, OpaqueKey(name(number)), size, MemoryFormat.BINARY, None, (size,))  # type: ignore[arg-type]
        yield meta, bytearray(NOISE[at : at + size])


def fill(path: Path, capacity: int, count: int, size: int) -> tuple[float, list[int]]:
    """Seconds, and the numbers of the chunks in the order of use."""
    begin = time.perf_counter()
    used = random.Random(2).sample(range(count), count // 10)
    with open_backend(str(path), capacity, OPTIONS) as backend:
        stream = items(count, size)
        for _ in range(0, count, 20_000):
            backend.put_many([item for _, item in zip(range(20_000), stream, strict=False)])
        for at in range(0, len(used), 1000):
            backend.touch([OpaqueKey(name(n)) for n in used[at : at + 1000]])
    seconds = time.perf_counter() - begin
    late = set(used)
    return seconds, [n for n in range(count) if n not in late] + used


def in_order(found: list[int], expected: list[int]) -> float:
    """The share of pairs in the expected order, over pairs drawn at random."""
    place = {number: i for i, number in enumerate(found)}
    draw = random.Random(3)
    right = total = 0
    for _ in range(200_000):
        a, b = sorted((draw.randrange(len(expected)), draw.randrange(len(expected))))
        if a != b:
            total += 1
            right += place.get(expected[a], -1) < place.get(expected[b], -2)
    return right / total


def opened(kind: str, path: str, capacity: int) -> LMSBackendInterface:
    if kind == "backend":
        return open_backend(path, capacity, OPTIONS)
    return CreateStorageBackend(f"lmdb:{path}?capacity={capacity}B&sync=none&codec=raw")


def asked(backend: LMSBackendInterface, keys: list[Any]) -> tuple[float, float]:
    """Microseconds of `contains`: median and 99th percentile."""
    times = []
    for key in keys:
        start = time.perf_counter_ns()
        backend.contains(key)
        times.append(time.perf_counter_ns() - start)
    times.sort()
    return times[len(times) // 2] / 1e3, times[len(times) * 99 // 100] / 1e3


def number(key: Any) -> int:
    return int(key.to_string().split("@")[3], 16)


def child(kind: str, path: str, capacity: int, count: int, size: int) -> None:
    """Open, measure, print a line of JSON."""
    draw = random.Random(4)
    keys: list[Any] = [OpaqueKey(name(draw.randrange(2 * count))) for _ in range(count // 5)]
    before = resident()
    begin = time.perf_counter()
    backend = opened(kind, path, capacity)
    room = bytearray(size)
    assert backend.get_into(OpaqueKey(name(count // 2)), room) is not None
    told: dict[str, Any] = {"kind": kind, "first_get_s": time.perf_counter() - begin}
    if kind == "busy":
        told["contains_loading_p50_us"], told["contains_loading_p99_us"] = asked(backend, keys)
        assert backend.loading  # type: ignore[attr-defined]  # of a tiered store
    if kind != "backend":
        while backend.loading:  # type: ignore[attr-defined]  # of a tiered store
            time.sleep(0.01)
        told["loaded_s"] = time.perf_counter() - begin
    told["bytes_per_entry"] = (resident() - before) / count
    if kind != "busy":
        told["contains_p50_us"], told["contains_p99_us"] = asked(backend, keys)
        begin = time.perf_counter()
        stream = backend.iter_keys()  # type: ignore[attr-defined]  # of both
        next(stream)
        told["first_key_s"] = time.perf_counter() - begin
        begin = time.perf_counter()
        listed = backend.list_keys()
        told |= {"list_keys_s": time.perf_counter() - begin, "listed": len(listed)}
        del listed
    if kind == "backend":
        begin = time.perf_counter()
        chunks = backend.scan()
        order = [next(chunks)]
        told["scan_first_s"] = time.perf_counter() - begin
        numbers = [number(info.key) for info in (*order, *chunks)]
        told["scan_s"] = time.perf_counter() - begin
    else:
        hierarchy = backend._h  # type: ignore[attr-defined]  # whose policy tells the order
        with hierarchy.lock:
            numbers = [number(OpaqueKey(text)) for text, _ in hierarchy.victims(hierarchy.tiers[0], sys.maxsize)]
    Path(path, "..", f"{kind}.json").write_text(json.dumps(numbers))
    backend.close()
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        kind, path, capacity = given.child
        child(kind, path, int(capacity), given.chunks, given.size)
        return
    folder = Path(tempfile.mkdtemp(prefix="lmdb-scale-", dir=given.path))
    capacity = given.chunks * (given.size + 8000) + (64 << 20)
    rows = []
    try:
        seconds, expected = fill(folder / "s", capacity, given.chunks, given.size)
        disk = sum(path.stat().st_blocks * 512 for path in (folder / "s").iterdir())
        for kind in ("backend", "device", "busy"):
            told = [sys.executable, "-m", "benchmarks.lmdb_scale", "--chunks", str(given.chunks)]
            told += ["--size", str(given.size)]
            run = subprocess.run(
                [*told, "--child", kind, str(folder / "s"), str(capacity)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rows.append(json.loads(run.stdout))
            numbers = json.loads((folder / f"{kind}.json").read_text())
            rows[-1]["pairs_in_order"] = in_order(numbers, expected)
            row = rows[-1].items()
            print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row), flush=True)
    finally:
        shutil.rmtree(folder)
    result = {
        "chunks": given.chunks, "size": given.size, "fill_s": seconds, "disk_bytes_per_chunk": disk / given.chunks,
        "rows": rows,
    }  # fmt: skip
    print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in result.items() if k != "rows"))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
