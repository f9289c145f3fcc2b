"""The backend `mooncake` beside bare `get_into` and LMCache's connector, over one Mooncake Store on loopback.

    python -m benchmarks.mooncake [--rounds 51] [--json FILE] [--markdown docs/bench/mooncake.md]

What is compared is called in turn, in one run; figures are the tenth percentile over the rounds, medians beside them.
"Bare" is Mooncake's own client in this process, into one registered buffer: it checks nothing and hands nothing out.
Beside `get` and `get_many` it copies what came into new bytes, as a client must that hands chunks out ("kept").
LMCache's connector (`mooncakestore`) is in the table where LMCache is installed (`make peers`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import mmap
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from lms_conformance.loopback import LoopbackServer
from lms_conformance.remote.mooncake import COMMAND, located, ready

from benchmarks.lmdb_all import machine, table
from benchmarks.redis import BATCH, KIB, item
from benchmarks.shared import write
from lms_tiers import CreateStorageBackend

SIZES: Final = (256 * KIB, 2048 * KIB, 32768 * KIB)
ROOM: Final = 80 << 20
Calls = Mapping[str, Callable[[], object]]


class Bare:
    """Mooncake's client, and a registered buffer."""

    def __init__(self, master: str) -> None:
        from mooncake.store import MooncakeDistributedStore

        self.store: Final[Any] = MooncakeDistributedStore()
        if self.store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 0, "tcp", "", master):
            raise SystemExit("Mooncake's client cannot be set up")
        self._memory: Final = mmap.mmap(-1, ROOM)
        self._memory.write(os.urandom(ROOM))
        self.at: Final = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.store.register_buffer(self.at, ROOM)

    def put(self, name: str, size: int) -> None:
        assert self.store.upsert_from(name, self.at, size) == 0

    def get_into(self, name: str, size: int) -> None:
        assert self.store.get_into(name, self.at, size) == size

    def get(self, name: str, size: int) -> bytes:
        self.get_into(name, size)
        return self._memory[:size]

    def get_many(self, names: list[str], size: int) -> list[bytes]:
        places = [self.at + i * size for i in range(len(names))]
        assert self.store.batch_get_into(names, places, [size] * len(names)) == [size] * len(names)
        return [self._memory[i * size : (i + 1) * size] for i in range(len(names))]


class Peer:
    """LMCache's connector, as its engine calls it."""

    def __init__(self, master: str) -> None:
        import torch
        from lmcache.utils import CacheEngineKey
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.memory_management import MemoryFormat
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.connector.mooncakestore_connector import MooncakestoreConnector
        from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

        extra = {
            "local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE", "global_segment_size": 0,
            "local_buffer_size": ROOM, "protocol": "tcp", "device_name": "", "master_server_address": master,
            "mooncake_master_server_addr": master, "transfer_timeout": 60,
        }  # fmt: skip
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=256, local_cpu=False, max_local_cpu_size=0.5, extra_config=extra
        )
        metadata = LMCacheMetadata("bench/model", 1, 1, 0, 0, torch.bfloat16, (1, 2, 256, 1, 8))
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._cpu: Any = LocalCPUBackend(config, metadata, dst_device="cpu")
        self._connector: Any = MooncakestoreConnector(self._loop, self._cpu, config)
        self._key: Callable[[int], Any] = lambda i: CacheEngineKey("bench/model", 1, 0, i, torch.bfloat16)
        self._chunk: Callable[[int], Any] = lambda size: self._cpu.allocate(
            torch.Size((2, 1, 256, size // 1024)), torch.bfloat16, MemoryFormat.KV_2LTD
        )

    def _run(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(60)

    def put(self, i: int, size: int) -> None:
        chunk = self._chunk(size)
        self._run(self._connector.put(self._key(i), chunk))
        chunk.ref_count_down()

    def get(self, wanted: list[int], size: int) -> None:
        for chunk in self._run(self._connector.batched_get([self._key(i) for i in wanted])):
            assert chunk is not None
            assert chunk.get_size() == size
            chunk.ref_count_down()


def race(calls: Calls, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds of each, called in turn: tenth percentile and median."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn > 1:
                taken[name].append(time.perf_counter() - began)
    return {name: (statistics.quantiles(times, n=10)[0], statistics.median(times)) for name, times in taken.items()}


def measured(location: str, master: str, rounds: int) -> list[list[object]]:
    rows: list[list[object]] = []
    bare = Bare(master)
    peer: Peer | None = None
    with contextlib.suppress(ImportError):
        peer = Peer(master)

    def row(what: str, size: int, calls: Calls) -> None:
        found = race(calls, rounds)
        ours, middle = found["ours"]
        others = [found[name][0] / ours if name in found else None for name in ("bare", "lmcache")]
        median = found["bare"][1] / middle
        rows.append([what, ours * 1e3, size / ours / 1e6, others[0], median, "–" if others[1] is None else others[1]])

    number = 0
    with CreateStorageBackend(f"mooncake:{location}&prefix=ours/&timeout=60s") as ours:
        for size in SIZES:
            body, into, told = os.urandom(size), bytearray(size), f"{size // KIB:,} KiB"
            message, data = item(f"k{size}", body)
            ours.put(message, data)
            bare.put(f"raw{size}", size)
            gets: dict[str, Callable[[], object]] = {
                "ours": partial(ours.get, message.key), "bare": partial(bare.get, f"raw{size}", size),
            }  # fmt: skip
            if peer is not None:
                peer.put(size, size)
                gets["lmcache"] = partial(peer.get, [size], size)
            row(f"get {told}", size, gets)
            gets["ours"] = partial(ours.get_into, message.key, into)
            gets["bare"] = partial(bare.get_into, f"raw{size}", size)
            row(f"get_into {told}", size, gets)

            def put_ours(size: int = size, body: bytes = body) -> None:
                nonlocal number
                number += 1
                message, data = item(f"n{number}", body)
                ours.put(message, data)
                ours.remove(message.key)

            def put_bare(size: int = size) -> None:
                bare.put(f"raw-n{number}", size)
                assert bare.store.remove(f"raw-n{number}", True) == 0

            row(f"put and remove {told}", size, {"ours": put_ours, "bare": put_bare})
        size = 256 * KIB
        items = [item(f"b{i}", os.urandom(size)) for i in range(BATCH)]
        names = [f"raw-b{i}" for i in range(BATCH)]
        ours.put_many(items)
        for name in names:
            bare.put(name, size)
        wanted = [message.key for message, _ in items]
        many: dict[str, Callable[[], object]] = {
            "ours": partial(ours.get_many, wanted), "bare": partial(bare.get_many, names, size),
        }  # fmt: skip
        if peer is not None:
            for i in range(BATCH):
                peer.put(i, size)
            many["lmcache"] = partial(peer.get, list(range(BATCH)), size)
        row(f"get_many {BATCH} × 256 KiB", BATCH * size, many)
        row(f"contains_prefix of {BATCH}", 0, {
            "ours": partial(ours.contains_prefix, wanted), "bare": partial(bare.store.batch_is_exist, names),
        })  # fmt: skip
    bare.store.close()
    return rows


def page(rows: list[list[object]]) -> list[str]:
    heads = ["", "ms", "MB/s", "of bare", "of bare, medians", "of LMCache's connector"]
    return [machine(), "", *table(heads, rows)]


@contextlib.contextmanager
def server() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with LoopbackServer((*COMMAND, f"{2 << 30}"), ready, folder=Path(folder, "store"), log=log) as store:
            yield store.address


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--markdown", type=Path, metavar="docs/bench/mooncake.md", help="write the table into that page"
    )
    options = parser.parse_args()
    with server() as address:
        rows = measured(located(address), address, options.rounds)
    print("\n".join(page(rows)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.markdown:
        write(options.markdown, page(rows))


if __name__ == "__main__":
    main()
