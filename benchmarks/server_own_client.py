"""One worker of `benchmarks/server.py`: this project's client, driven as `server_lmcache_client.py` is.

Arguments are ports; one that ends in ``x`` belongs to a server of this project, with which the extension is spoken.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from lms_tiers import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.client.client import Client


def _key(worker: int, i: int) -> OpaqueKey:
    return OpaqueKey(f"own/model@1@{worker}@{i:x}@bfloat16")


class Worker:
    """A connection to each server."""

    def __init__(self, ports: list[str]) -> None:
        self.servers = [
            Client(f"127.0.0.1:{port.rstrip('x')}", connections=1, timeout=60, extension=port.endswith("x"))
            for port in ports
        ]  # fmt: skip

    def put(self, server: Client, worker: int, chunks: list[bytearray]) -> None:
        """One after another, each acknowledged."""
        for i, chunk in enumerate(chunks):
            meta = ChunkMeta(len(chunk), MemoryFormat.KV_2LTD, "bfloat16", (2, 1, 256, len(chunk) // 1024))
            server.put(meta.message(_key(worker, i)), chunk)

    def get(self, server: Client, worker: int, size: int, count: int) -> None:
        """One after another, checked by the client where the protocol has a checksum."""
        for i in range(count):
            obj = server.get(_key(worker, i))
            assert obj is not None
            assert obj.length == size

    def small(self, server: Client, worker: int, size: int, count: int) -> dict[str, list[float]]:
        """Microseconds of each operation."""
        times: dict[str, list[float]] = {"put_exists": [], "get": []}
        for _ in range(count):
            chunk = bytearray(size)
            start = time.perf_counter()
            self.put(server, worker, [chunk])
            assert server.contains(_key(worker, 0))
            middle = time.perf_counter()
            self.get(server, worker, size, 1)
            times["put_exists"].append((middle - start) * 1e6)
            times["get"].append((time.perf_counter() - middle) * 1e6)
        return times

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """One job, begun at its moment."""
        server, size, worker, count = self.servers[job["server"]], job["size"], job["worker"], job["count"]
        # A chunk is the store's once it is put: a buffer each, made before the clock runs.
        data = random.Random(worker).randbytes(size)
        chunks = [bytearray(data) for _ in range(count)] if job["op"] == "put" else []
        while time.monotonic() < job["start"]:
            pass
        begin, times = time.monotonic(), None
        if job["op"] == "put":
            self.put(server, worker, chunks)
        elif job["op"] == "get":
            self.get(server, worker, size, count)
        else:
            times = self.small(server, worker, size, count)
        return {"begin": begin, "end": time.monotonic(), "times": times}


def main() -> None:
    worker = Worker(sys.argv[1:])
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
