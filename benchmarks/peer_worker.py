"""One phase of one store, in a process of its own: replay, read back after a restart, write until killed, refill.

Usage: ``peer_worker.py STORE PHASE SPEC`` with SPEC a JSON file; the last line of standard output is the outcome.
Bytes are made and compared outside the timed sections, the same way for every store.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lms_tiers.place.machine import disk_bytes
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.trace import iter_trace

# These scripts lie beside each other and are no package.
STORES: dict[str, Any] = importlib.import_module("peer_stores").STORES
_LOOK_EVERY = 8  # requests between two looks at the disk: a walk over thousands of files takes milliseconds


def key(block: int) -> str:
    return f"{block:016x}"


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


class Phase:
    """A store opened for one phase."""

    def __init__(self, store: str, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.block: int = spec["block"]
        self.folder = Path(spec["folder"])
        self.blocks = BlockBytes(self.block)
        opening = STORES[store][1]
        # Import what the store needs before memory is measured: a store in a folder of its own, opened and closed.
        warm = Path(spec["scratch"])
        opening(warm, 64 * self.block, 256 * self.block, self.block).close()
        Path("/proc/self/clear_refs").write_text("5")
        self.before = memory("VmRSS")
        self.anonymous_before = memory("RssAnon")
        self.anonymous_peak = 0
        started = time.perf_counter()
        self.store = opening(self.folder, spec["ram"], spec["disk"], self.block)
        self.open_seconds = time.perf_counter() - started
        self.disk_peak = 0

    def look(self) -> None:
        """Note the peaks of disk and of memory that is not a mapped file."""
        self.anonymous_peak = max(self.anonymous_peak, memory("RssAnon") - self.anonymous_before)
        self.disk_peak = max(self.disk_peak, disk_bytes(self.folder))

    def make(self, block: int) -> Any:
        return self.store.takes(self.blocks.make(block))

    def is_right(self, block: int, data: Any) -> bool:
        return self.blocks.matches(block, data)

    # -- phases --------------------------------------------------------------------------------------------------

    def replay(self) -> dict[str, Any]:
        """The trace: the leading run is got and checked, the rest put."""
        get_ram: list[float] = []
        get_disk: list[float] = []
        puts: list[float] = []
        recent: OrderedDict[int, None] = OrderedDict()
        wrong = blocks = requests = 0
        now = time.perf_counter
        started = now()
        for request in iter_trace(self.spec["trace"], limit=self.spec["requests"]):
            ids = [int(i) for i in request.hash_ids]
            run = 0
            for block in ids:
                in_ram, seconds, data = self._timed_get(key(block))
                if data is None:
                    break
                (get_ram if in_ram else get_disk).append(seconds)
                wrong += not self.is_right(block, data)
                run += 1
            made = [(block, self.make(block)) for block in ids[run:]]
            for block, data in made:
                t = now()
                self.store.put(key(block), data)
                puts.append(now() - t)
            del made
            for block in ids:
                recent[block] = None
                recent.move_to_end(block)
            blocks += len(ids)
            requests += 1
            if requests % _LOOK_EVERY == 0:
                self.look()
        t = now()
        self.store.flush()
        flush = now() - t
        self.look()
        ended = now()
        peak = memory("VmHWM") - self.before
        last = list(itertools.islice(reversed(recent), 200))
        t = now()
        self.store.close()
        close = now() - t
        self.look()
        return {
            "requests": requests, "blocks": blocks, "prefix_hits": len(get_ram) + len(get_disk), "wrong": wrong,
            "seconds": ended - started, "get_ram_seconds": get_ram, "get_disk_seconds": get_disk,
            "put_seconds": puts, "flush_seconds": flush, "close_seconds": close, "rss_peak": peak,
            "anonymous_peak": self.anonymous_peak,
            "disk_peak": self.disk_peak, "last": last,
        }  # fmt: skip

    def _timed_get(self, text: str) -> tuple[bool, float, Any]:
        in_ram = self.store.in_ram(text)
        t = time.perf_counter()
        data = self.store.get(text)
        return in_ram, time.perf_counter() - t, data

    def check(self) -> dict[str, Any]:
        """Get the blocks named in the spec; those after the first `count` may rightly be gone, but not wrong."""
        warm = wrong = 0
        for i, block in enumerate(self.spec["check"]):
            data = self.store.get(key(block))
            if data is not None:
                right = self.is_right(block, data)
                wrong += not right
                warm += right and i < self.spec["count"]
        self.look()
        self.store.close()
        return {"open_seconds": self.open_seconds, "warm": warm, "wrong": wrong, "disk_peak": self.disk_peak}

    def write_until_killed(self) -> dict[str, Any]:
        """Put and flush 200 blocks, say so, and put on until the parent kills this process."""
        first: int = self.spec["first"]
        for block in range(first, first + 200):
            self.store.put(key(block), self.make(block))
        self.store.flush()
        made = self._endless(first + 200)
        os.write(1, b"ready\n")
        for block, data in made:
            self.store.put(key(block), data)
            os.write(1, f"{block}\n".encode())
        raise AssertionError("unreachable")

    def _endless(self, first: int) -> Iterator[tuple[int, bytearray]]:
        return ((block, self.make(block)) for block in itertools.count(first))

    def refill(self) -> dict[str, Any]:
        """Put a tenth more than the disk holds: what a store forgot at a restart now shows on disk."""
        first: int = self.spec["first"]
        for i in range(int(1.1 * self.spec["fill"] / self.block)):
            self.store.put(key(first + i), self.make(first + i))
            if i % 64 == 0:
                self.look()
        self.store.flush()
        self.look()
        self.store.close()
        return {"disk_peak": self.disk_peak}


def main() -> None:
    name, phase, spec = sys.argv[1:4]
    try:
        run = Phase(name, json.loads(Path(spec).read_text()))
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps(getattr(run, phase)()), flush=True)
    # Threads that a store leaves behind must not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
