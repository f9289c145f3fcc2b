"""Hot reads of raw 2 MiB chunks into a preallocated buffer, checksums verified, beside a bare loop and memcpy.

    python -m benchmarks.lmdb_read [--chunks 256] [--rounds 7] [--json FILE]

One reader, and two readers at once, each over all chunks in random order. The bare loop: `preadv` from a flat file of
as many bytes, and xxh3-64 over the buffer. memcpy: numpy over as many separate 2 MiB buffers, one thread, into one warm
buffer, in rounds that alternate with the reads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from lms_tiers.messages import ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions

SIZE = 2 << 20


def timed(work: Callable[[int, bytearray], None], count: int, threads: int) -> float:
    """GB/s of `threads` readers that share `count` chunks."""
    order = random.Random(time.perf_counter_ns()).sample(range(count), count)
    barrier = threading.Barrier(threads + 1)
    targets = [bytearray(b"x" * SIZE) for _ in range(threads)]

    def run(mine: int) -> None:
        barrier.wait()
        for number in order[mine::threads]:
            work(number, targets[mine])

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in running:
        thread.join()
    return count * SIZE / (time.perf_counter() - start) / 1e9


def measure(count: int, rounds: int, path: Path | None = None) -> dict[str, float]:
    """GB/s, medians of the rounds."""
    folder = Path(tempfile.mkdtemp(prefix="lmdb-read-", dir=path))
    sources = [bytearray(np.random.default_rng(n).bytes(SIZE)) for n in range(count)]
    results: dict[str, list[float]] = {}
    try:
        options = LmdbOptions.model_validate({"sync": "none", "codec": "raw"})
        sums = [xxhash.xxh3_64_intdigest(source) for source in sources]
        with (
            open(folder / "flat", "w+b", buffering=0) as flat,
            open_backend(str(folder / "s"), count * SIZE * 5 // 4 + (8 << 20), options) as backend,
        ):
            for source in sources:
                flat.write(source)
            keys = [OpaqueKey(f"chunk {n}") for n in range(count)]
            for key, source in zip(keys, sources, strict=True):
                backend.put(ClientMetaMessage(ClientCommand.PUT, key, SIZE, MemoryFormat.BINARY, None, (SIZE,)), source)  # type: ignore[arg-type]

            def memcpy(number: int, target: bytearray) -> None:
                np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(sources[number], np.uint8))

            def read(number: int, target: bytearray) -> None:
                assert backend.get_into(keys[number], target) is not None

            def bare(number: int, target: bytearray) -> None:
                assert os.preadv(flat.fileno(), [target], number * SIZE) == SIZE
                assert xxhash.xxh3_64_intdigest(target) == sums[number]

            for _ in range(rounds):
                for name, work, threads in (
                    ("memcpy", memcpy, 1), ("preadv and xxh3", bare, 1), ("get_into", read, 1),
                    ("memcpy, 2 threads", memcpy, 2), ("preadv and xxh3, 2 threads", bare, 2),
                    ("get_into, 2 readers", read, 2),
                ):  # fmt: skip
                    results.setdefault(name, []).append(timed(work, count, threads))
    finally:
        shutil.rmtree(folder)
    return {name: statistics.median(values) for name, values in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    medians = measure(given.chunks, given.rounds, given.path)
    for name, value in medians.items():
        print(f"{name:27s} {value:6.2f} GB/s   {value / medians['memcpy']:.2f} of memcpy")
    print(f"get_into over preadv and xxh3: {medians['get_into'] / medians['preadv and xxh3']:.2f}")
    print(f"two readers over one: {medians['get_into, 2 readers'] / medians['get_into']:.2f}")
    if given.json:
        given.json.write_text(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
