"""The backend `s3` beside bare obstore, over one `moto_server` on loopback.

    python -m benchmarks.s3 [--rounds 21] [--json FILE] [--markdown docs/bench/s3.md]

What is compared is called in turn, in one run; figures are the tenth percentile over the rounds. The server is
written in Python and is what bounds both; processor time of the client tells what the backend adds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import boto3
import obstore
from obstore.store import S3Store

from benchmarks.lmdb_all import machine, table
from benchmarks.redis import BATCH, KIB, item
from benchmarks.server import free_port, wait_for
from benchmarks.shared import write
from lms_tiers import CreateStorageBackend
from lms_tiers.plugins.s3.backend import PART

BUCKET: Final = "chunks"
THREADS: Final = 16


@contextlib.contextmanager
def server() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            wait_for(port)
            endpoint = f"http://127.0.0.1:{port}"
            made = boto3.client(
                "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="i", aws_secret_access_key="s"
            )
            made.create_bucket(Bucket=BUCKET)
            yield endpoint
        finally:
            child.kill()


def race(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds, and seconds of the processor, of each, called in turn: tenth percentiles."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began, used = time.perf_counter(), time.process_time()
            call()
            if turn:
                taken[name].append((time.perf_counter() - began, time.process_time() - used))
    return {
        name: (statistics.quantiles(wall, n=10)[0], statistics.quantiles(cpu, n=10)[0])
        for name, (wall, cpu) in ((name, tuple(zip(*pairs, strict=True))) for name, pairs in taken.items())
    }


Row = Callable[[str, int, Mapping[str, Callable[[], object]]], None]


def single(ours: Any, by_ranges: Any, bare: Any, size: int, row: Row) -> None:
    body = os.urandom(size)
    message, data = item("k", body)
    told, into = f"{size // KIB:,} KiB", bytearray(size)
    puts = {"ours": lambda: ours.put(message, data), "obstore": lambda: obstore.put(bare, "raw", body)}
    gets = {"ours": lambda: ours.get(message.key), "obstore": lambda: obstore.get(bare, "raw").bytes()}
    row(f"put {told}", size, puts)
    row(f"get {told}", size, gets)
    if size > PART:
        row(f"get_into {told}", size, {**gets, "ours": lambda: ours.get_into(message.key, into)})
        starts = list(range(PART, size, PART))
        ends = [start + PART for start in starts]

        def ranges() -> bytes:  # one piece, as a client must hand it out
            first = obstore.get_range(bare, "raw", start=0, end=PART)
            return b"".join((first, *obstore.get_ranges(bare, "raw", starts=starts, ends=ends, coalesce=0)))

        by = {"ours": lambda: by_ranges.get(message.key), "obstore": ranges}
        row(f"get {told} by ranges of 8 MiB, obstore too", size, by)


def batch(ours: Any, bare: Any, row: Row) -> None:
    items = [item(f"k{i}", os.urandom(256 * KIB)) for i in range(BATCH)]
    ours.put_many(items)
    names = [f"raw{i}" for i in range(BATCH)]
    wanted = [message.key for message, _ in items]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda pair: obstore.put(bare, pair[0], bytes(pair[1][1])), zip(names, items, strict=True)))
        calls = {
            "ours": lambda: ours.get_many(wanted),
            "obstore": lambda: list(pool.map(lambda name: obstore.get(bare, name).bytes(), names)),
        }
        row(f"get_many {BATCH} × 256 KiB", BATCH * 256 * KIB, calls)


def measured(endpoint: str, rounds: int) -> list[list[object]]:
    bare: Any = S3Store(
        BUCKET, endpoint=endpoint, region="us-east-1", access_key_id="i", secret_access_key="s",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    keys = "access_key_id=i&secret_access_key=s"
    rows: list[list[object]] = []

    def row(what: str, size: int, calls: Mapping[str, Callable[[], object]]) -> None:
        found = race(calls, rounds)
        (mine, cpu), (its, its_cpu) = found["ours"], found["obstore"]
        rows.append([what, mine * 1e3, its * 1e3, size / mine / 1e6, its / mine, cpu * 1e3, its_cpu * 1e3])

    place = f"s3:{BUCKET}/ours?endpoint={endpoint}&{keys}&timeout=2min&connections={THREADS}"
    with CreateStorageBackend(place) as ours, CreateStorageBackend(f"{place}&ranges=8MiB") as by_ranges:
        for size in (256 * KIB, 2048 * KIB, 32768 * KIB):
            single(ours, by_ranges, bare, size, row)
        batch(ours, bare, row)
    return rows


def page(rows: list[list[object]]) -> list[str]:
    heads = ["", "ms", "obstore, ms", "MB/s", "of obstore", "processor, ms", "obstore's, ms"]
    return [machine(), "", *table(heads, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="docs/bench/s3.md", help="write the table into that page")
    options = parser.parse_args()
    with server() as endpoint:
        rows = measured(endpoint, options.rounds)
    print("\n".join(page(rows)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.markdown:
        write(options.markdown, page(rows))


if __name__ == "__main__":
    main()
