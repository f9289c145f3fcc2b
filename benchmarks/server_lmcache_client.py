"""One worker of `benchmarks/server.py`: LMCache's own connector, driven line by line over standard input.

Runs in LMCache's environment and imports nothing of this project. A job is a JSON line with `server` (index), `op`,
`size`, `count`, `worker` and `start` (monotonic seconds); the answer is a JSON line with `begin`, `end` and, for
`small`, the microseconds of each operation.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector.lm_connector import LMCServerConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend


def _key(worker: int, i: int) -> Any:
    return CacheEngineKey("bench/model", 1, worker, i, torch.bfloat16)


class Worker:
    def __init__(self, ports: list[int]) -> None:
        config = LMCacheEngineConfig.from_defaults(chunk_size=256, local_cpu=False, max_local_cpu_size=0.25)
        metadata = LMCacheMetadata("bench/model", 1, 1, 0, 0, torch.bfloat16, (1, 2, 256, 1, 8))
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.cpu: Any = LocalCPUBackend(config, metadata, dst_device="cpu")
        self.servers = [LMCServerConnector("127.0.0.1", port, self.loop, self.cpu) for port in ports]

    def chunk(self, size: int) -> Any:
        shape = torch.Size((2, 1, 256, size // 1024))
        return self.cpu.allocate(shape, torch.bfloat16, MemoryFormat.KV_2LTD)

    async def put(self, server: Any, worker: int, chunk: Any, count: int) -> None:
        for i in range(count):
            await server.put(_key(worker, i), chunk)
        assert await server.exists(_key(worker, count - 1))

    async def get(self, server: Any, worker: int, size: int, count: int) -> None:
        for i in range(count):
            chunk = await server.get(_key(worker, i))
            assert chunk is not None
            assert chunk.get_size() == size
            chunk.ref_count_down()

    async def small(self, server: Any, worker: int, chunk: Any, count: int) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {"put_exists": [], "get": []}
        for i in range(count):
            start = time.perf_counter()
            await server.put(_key(worker, i), chunk)
            assert await server.exists(_key(worker, i))
            middle = time.perf_counter()
            got = await server.get(_key(worker, i))
            end = time.perf_counter()
            got.ref_count_down()
            times["put_exists"].append((middle - start) * 1e6)
            times["get"].append((end - middle) * 1e6)
        return times

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        server, size, worker, count = self.servers[job["server"]], job["size"], job["worker"], job["count"]
        chunk = self.chunk(size) if job["op"] != "get" else None
        if chunk is not None:
            chunk.tensor.fill_(worker + 1)
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "put": lambda: self.put(server, worker, chunk, count),
            "get": lambda: self.get(server, worker, size, count),
            "small": lambda: self.small(server, worker, chunk, count),
        }
        while time.monotonic() < job["start"]:
            pass
        begin = time.monotonic()
        result = asyncio.run_coroutine_threadsafe(calls[job["op"]](), self.loop).result()
        end = time.monotonic()
        if chunk is not None:
            chunk.ref_count_down()
        return {"begin": begin, "end": end, "times": result}


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    worker = Worker([int(port) for port in sys.argv[1:]])
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(worker.run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
