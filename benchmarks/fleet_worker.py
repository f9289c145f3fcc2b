"""One host's store of `benchmarks/fleet.py`, a process of its own: does what its standard input says, a line a job.

    python -m benchmarks.fleet_worker DEVICE SPEC

SPEC is JSON: the trace, how many of its requests, and bytes of a block. Requests come one by one, in step with
the other hosts, or go on in a thread of their own while other jobs are done. Every byte that is read is checked.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.errors import LmsTiersError
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.trace import Request, iter_trace
from lms_tiers.tiered.store import TieredStore


class Host:
    """A store, and what was seen of it."""

    def __init__(self, device: str, spec: dict[str, Any]) -> None:
        store = CreateStorageBackend(device)
        assert isinstance(store, TieredStore)
        self.store: Final = store
        self.requests: Final = list(iter_trace(spec["trace"], limit=spec["requests"]))
        self.block: Final[int] = spec["block"]
        self.blocks: Final = BlockBytes(self.block)
        self.counts: Counter[str] = Counter()
        self.wrong: Final[list[str]] = []
        #: When a call began, `get` or `put`, and seconds: lookup and read of a request's run, put of the rest.
        self.calls: list[tuple[float, str, float]] = []
        self._loading: threading.Thread | None = None
        self._enough: Final = threading.Event()

    # -- requests ----------------------------------------------------------------------------------------------------

    def request(self, number: int) -> dict[str, Any]:
        """One request in step; what it puts is on the shared tier before the next one comes, as in the trace's time."""
        self._one(number, self.requests[number], "")
        while (shared := self.store.stats().shared) is not None and shared.unsent:
            time.sleep(0.0005)
        return {}

    def load(self, numbers: Sequence[int], rate: float) -> dict[str, Any]:
        """Begin to do these requests again and again, so many a second; each time they are new ones to all caches."""
        self._enough.clear()
        self._loading = threading.Thread(target=self._load, args=(numbers, rate))
        self._loading.start()
        return {}

    def _load(self, numbers: Sequence[int], rate: float) -> None:
        turn, due = 0, time.monotonic()
        while True:
            turn += 1
            for number in numbers:
                if self._enough.wait(max(0.0, due - time.monotonic())):
                    return
                due = max(due + 1 / rate, time.monotonic() - 1)  # what was missed is not made up for
                self._one(number, self.requests[number], f"{turn}:")

    def unload(self) -> dict[str, Any]:
        """End that; answers `taken`."""
        self._enough.set()
        if self._loading is not None:
            self._loading.join()
        return self.taken()

    def taken(self) -> dict[str, Any]:
        """When each call since the last time began, and how long it took."""
        calls, self.calls = self.calls, []
        return {"calls": calls}

    def _one(self, number: int, request: Request, salt: str) -> None:
        ids = [f"{salt}{block}" for block in request.hash_ids]
        keys = [OpaqueKey(text) for text in ids]
        try:
            with self.store.request(number, keys[-1:] if request.tail_is_partial() else []):
                run = self._get(ids, keys)
                self._put(ids[run:])
        except LmsTiersError as error:
            self.counts["errors"] += 1
            self.wrong.append(f"{type(error).__name__}: {error}")
        self.counts["requests"] += 1
        self.counts["references"] += len(ids)

    def _get(self, ids: Sequence[str], keys: Sequence[OpaqueKey]) -> int:
        began = time.monotonic()
        present = self.store.contains_prefix(keys)
        found = self.store.get_many(keys[:present])
        self.calls.append((began, "get", time.monotonic() - began))
        run = next((i for i, obj in enumerate(found) if obj is None), len(found))
        for text, obj in zip(ids, found, strict=False):
            if obj is not None and not self.blocks.matches(text, obj.data):
                self.wrong.append(f"{text}: wrong bytes")
        self.counts["hits"] += run
        return run

    def _put(self, ids: Sequence[str]) -> None:
        items = [self._item(text, self.blocks.make(text)) for text in ids]
        began = time.monotonic()
        self.store.put_many(items)
        self.calls.append((began, "put", time.monotonic() - began))

    def _item(self, text: str, data: bytearray) -> Any:
        return ChunkMeta(self.block, MemoryFormat.KV_2LTD, "bfloat16", (self.block // 2,)).message(
            OpaqueKey(text)
        ), data

    # -- canaries ----------------------------------------------------------------------------------------------------

    def hatch(self, names: Sequence[str]) -> dict[str, Any]:
        """Put small chunks that the other hosts look for."""
        for name in names:
            self.store.put(ChunkMeta(len(name), MemoryFormat.KV_2LTD, "uint8", (len(name),)).message(
                OpaqueKey(name)
            ), bytearray(name.encode()))  # fmt: skip
        return {}

    def seen(self, names: Sequence[str], seconds: float) -> dict[str, Any]:
        """Whether all of them are seen within so many seconds."""
        left, until = list(names), time.monotonic() + seconds
        while True:
            found = self.store.get_many([OpaqueKey(name) for name in left])
            for name, obj in zip(left, found, strict=True):
                if obj is not None and bytes(obj.data) != name.encode():
                    self.wrong.append(f"{name}: wrong bytes")
            left = [name for name, obj in zip(left, found, strict=True) if obj is None]
            if not left or time.monotonic() > until:
                return {"seen": not left}
            time.sleep(0.01)

    # -- figures -----------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """All that was counted since the start."""
        stats = self.store.stats()
        return {
            "counts": dict(self.counts), "wrong": self.wrong,
            "hits": [*(tier.hits for tier in stats.tiers), 0 if stats.shared is None else stats.shared.hits],
            "capacity": [tier.capacity_bytes for tier in stats.tiers],
            "keys": [tier.keys for tier in stats.tiers],
            "corrupt": sum(tier.corrupt for tier in stats.tiers),
            "edge": None if stats.shared is None else {
                "sent": stats.shared.sent, "failures": stats.shared.failures, "dropped": stats.shared.dropped,
                "in_doubt": stats.shared.in_doubt, "breaker": stats.shared.breaker.value,
                "bytes_read": stats.shared.bytes_read, "bytes_written": stats.shared.bytes_written,
            },
            "network": network_bytes(),
            "resident": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
        }  # fmt: skip


def network_bytes() -> list[int]:
    """Bytes received and sent by this host's own interface."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "eth0":
            words = figures.split()
            return [int(words[0]), int(words[8])]
    return [0, 0]


def main() -> None:
    """Do jobs until standard input ends."""
    host = Host(sys.argv[1], json.loads(sys.argv[2]))
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(getattr(host, job.pop("do"))(**job)), flush=True)
    host.unload()
    host.store.close()


if __name__ == "__main__":
    main()
