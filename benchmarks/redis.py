"""The backend `redis` beside redis-py with hiredis, and beside a bare `recv_into` loop, over one server on loopback.

    python -m benchmarks.redis [--rounds 101] [--json FILE] [--markdown docs/bench/redis.md]

What is compared is called in turn, in one run; figures are the tenth percentile over the rounds: on a machine
with other work the median is that work's. The bare loop sends the same
commands over a plain socket and checks nothing; "kept" reads each answer into a new buffer that it keeps, as a client
must that hands chunks out, the other one into the same buffer each time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.lmdb_all import machine, table
from benchmarks.server import free_port, wait_for
from benchmarks.shared import write
from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.resp.link import Link, command

KIB: Final = 1024
BATCH: Final = 64
Document = dict[str, Any]


@contextlib.contextmanager
def server() -> Iterator[int]:
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is not installed: apt-get install redis-server")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", ""]
        with subprocess.Popen([*words, "--appendonly", "no"], stdout=subprocess.DEVNULL) as child:
            try:
                wait_for(port)
                yield port
            finally:
                child.kill()


class Bare:
    """Commands over a plain socket."""

    def __init__(self, port: int, size: int) -> None:
        self.sock: Final = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._size: Final = size
        self._lead: Final = len(b"$%d\r\n" % size)
        self._one: Final = memoryview(bytearray(size))

    def get(self, names: Sequence[bytes], *, kept: bool) -> list[memoryview]:
        self.sock.sendall(b"".join(b"".join(command(b"GET", name)) for name in names))
        return [self._read(memoryview(bytearray(self._size)) if kept else self._one) for _ in names]

    def _read(self, into: memoryview) -> memoryview:
        self.sock.recv(self._lead, socket.MSG_WAITALL)
        got = 0
        while got < self._size:
            got += self.sock.recv_into(into[got:], 0, socket.MSG_WAITALL)
        self.sock.recv(2, socket.MSG_WAITALL)
        return into

    def set(self, name: bytes, body: bytes) -> None:
        self.sock.sendmsg(command(b"SET", name, (body,)))
        self.sock.recv(5, socket.MSG_WAITALL)


def race(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, called in turn, tenth percentile."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn > 1:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.quantiles(times, n=10)[0] for name, times in taken.items()}


def item(name: str, body: bytes) -> tuple[Any, bytearray]:
    meta = ChunkMeta(len(body), MemoryFormat.KV_2LTD, "uint8", (len(body),))
    return meta.message(OpaqueKey(name)), bytearray(body)


def single(port: int, size: int, rounds: int) -> Document:
    body, peer = os.urandom(size), importlib.import_module("redis").Redis(port=port)
    into = bytearray(size)
    with CreateStorageBackend(f"redis:127.0.0.1:{port}?timeout=60s") as ours:
        message, data = item("k", body)
        ours.put(message, data)
        peer.set("raw", body)
        bare = Bare(port, size)
        gets = {
            "get": lambda: ours.get(message.key), "get_into": lambda: ours.get_into(message.key, into),
            "redis-py": lambda: peer.get("raw"), "bare": lambda: bare.get([b"raw"], kept=False),
            "bare, kept": lambda: bare.get([b"raw"], kept=True),
        }  # fmt: skip
        puts = {
            "put": lambda: ours.put(message, data), "redis-py": lambda: peer.set("raw", body),
            "bare": lambda: bare.set(b"raw", body),
        }  # fmt: skip
        found = {"size": size, "get": race(gets, rounds), "put": race(puts, rounds)}
        bare.sock.close()
    peer.close()
    return found


def batch(port: int, size: int, rounds: int) -> Document:
    peer = importlib.import_module("redis").Redis(port=port)
    names = [b"raw%d" % i for i in range(BATCH)]
    bodies = [os.urandom(size) for _ in names]
    for name, body in zip(names, bodies, strict=True):
        peer.set(name, body)
    sends = 0
    send = Link.send

    def counted(link: Link, buffers: Any) -> None:
        nonlocal sends
        sends += 1
        send(link, buffers)

    with CreateStorageBackend(f"redis:127.0.0.1:{port}?timeout=60s") as ours:
        items = [item(f"k{i}", body) for i, body in enumerate(bodies)]
        ours.put_many(items)
        keys = [message.key for message, _ in items]
        bare = Bare(port, size)
        taken = race(
            {
                "get_many": lambda: ours.get_many(keys), "redis-py, mget": lambda: peer.mget(names),
                "bare": lambda: bare.get(names, kept=False), "bare, kept": lambda: bare.get(names, kept=True),
                "contains_prefix": lambda: ours.contains_prefix(keys),
            },
            rounds,
        )  # fmt: skip
        Link.send = counted  # type: ignore[assignment]
        ours.contains_prefix(keys)
        Link.send = send  # type: ignore[method-assign]
        bare.sock.close()
    peer.close()
    return {"size": size, "seconds": taken, "round trips": sends}


def page(found: Document) -> list[str]:
    rows: list[list[object]] = []
    for one in found["single"]:
        for verb in ("get", "put"):
            for name, seconds in one[verb].items():
                against = one[verb]["redis-py"] / seconds, one[verb]["bare"] / seconds
                rows.append([f"{one['size'] // KIB:,} KiB", verb, name, one["size"] / seconds / 1e6, *against])
    many = found["batch"]
    taken, total = many["seconds"], BATCH * many["size"]
    batches: list[list[object]] = [
        [name, seconds * 1e3, total / seconds / 1e6, taken["bare"] / seconds, taken["bare, kept"] / seconds]
        for name, seconds in taken.items()
        if name != "contains_prefix"
    ]
    two = next(one for one in found["single"] if one["size"] == 2048 * KIB)
    floors: list[tuple[str, float, float]] = [
        ("get of 2 MiB, over redis-py's", 1.5, two["get"]["redis-py"] / two["get"]["get"]),
        ("get of 2 MiB, over the bare loop that keeps", 0.8, two["get"]["bare, kept"] / two["get"]["get"]),
        ("get_into of 2 MiB, over the bare loop", 0.8, two["get"]["bare"] / two["get"]["get_into"]),
        ("get_many of 64 × 256 KiB, over the bare loop that keeps", 0.8, taken["bare, kept"] / taken["get_many"]),
        ("put of 2 MiB, over redis-py's", 1.0, two["put"]["redis-py"] / two["put"]["put"]),
    ]
    told: list[list[object]] = [
        [what, f"≥ {floor}", f"{value:.2f}" if value >= floor else f"**{value:.2f}: missed**"]
        for what, floor, value in floors
    ]
    prefix = f"{taken['contains_prefix'] * 1e6:.0f} µs, sent in {many['round trips']} go"
    return [
        machine(), "", *table(["figure", "floor", "this run"], [*told, ["`contains_prefix` of 64", "1", prefix]]),
        *table(["", "", "", "MB/s", "of redis-py", "of bare"], rows),
        "64 × 256 KiB in one call:", "",
        *table(["", "ms", "MB/s", "of bare", "of bare, kept"], batches),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="docs/bench/redis.md", help="write the tables into that page")
    options = parser.parse_args()
    with server() as port:
        found = {
            "single": [single(port, size * KIB, options.rounds) for size in (256, 2048, 8192)],
            "batch": batch(port, 256 * KIB, options.rounds),
        }
    print("\n".join(page(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.markdown:
        write(options.markdown, page(found))


if __name__ == "__main__":
    main()
