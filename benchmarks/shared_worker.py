"""One store of `benchmarks/shared_soak.py`, a process of its own: does what its standard input says, a line a job.

    python -m benchmarks.shared_worker DEVICE TABLE NUMBER

TABLE is a file that all stores map. It says for each store and key which put was begun last, so that whoever reads a
chunk knows whether somebody had put it, and how far each store is, so that the parent kills it in the middle of things.
"""

from __future__ import annotations

import json
import logging
import mmap
import random
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey
from lms_tiers.errors import DeadlineExceededError, LmsTiersError, StorageUnavailableError
from lms_tiers.messages import ClientMetaMessage
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.stats import BreakerState

#: Keys that all stores write, and fresh ones that are handed from one store to the others.
KEYS: Final = 240
HANDED: Final = 24
#: Stores of a run at most, restarted ones counted anew; and threads of each.
STORES: Final = 4096
THREADS: Final = 2
SIZES: Final = (4096, 65_536, 200_000, 100_001)
_CONTENT: Final = struct.Struct("<IIQ")
_SECONDS: Final = 60.0


def body(i: int, writer: int, sequence: int) -> bytes:
    """Bytes that only this put of this key has, from end to end."""
    size = SIZES[(i + sequence) % len(SIZES)]
    return (_CONTENT.pack(i, writer, sequence) * (size // _CONTENT.size + 1))[:size]


def item(name: str, data: bytes) -> tuple[ClientMetaMessage, bytearray]:
    meta = ChunkMeta(len(data), MemoryFormat.KV_2LTD, "uint8", (len(data),))
    return meta.message(OpaqueKey(name)), bytearray(data)


class Table:
    """The file that all stores map: a row a store, a number a key, and at its end how many calls it has made."""

    def __init__(self, path: Path) -> None:
        size = STORES * (KEYS + 1) * 8
        with path.open("a+b") as file:
            file.truncate(size)
            self._map: Final = mmap.mmap(file.fileno(), size)
        self._numbers: Final = memoryview(self._map).cast("Q")

    def begin(self, store: int, i: int, sequence: int) -> None:
        self._numbers[store * (KEYS + 1) + i] = sequence

    def begun(self, store: int, i: int) -> int:
        return self._numbers[store * (KEYS + 1) + i] if store < STORES else 0

    def step(self, store: int) -> None:
        self._numbers[store * (KEYS + 1) + KEYS] += 1  # threads may lose one: it tells how far, not how many

    def steps(self, store: int) -> int:
        return self._numbers[store * (KEYS + 1) + KEYS]

    def close(self) -> None:
        self._numbers.release()
        self._map.close()


class Stumbles(logging.Handler):
    """Notes what a thread of a store stumbled over; that a tier is away and back is no news here."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__()
        self._wrong: Final = wrong

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._wrong.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


class Worker:
    """A store, what it has put, and what it saw that cannot be."""

    def __init__(self, device: str, table: Table, number: int) -> None:
        store = CreateStorageBackend(device)
        assert isinstance(store, TieredStore)
        self.store: Final = store
        self.table: Final = table
        self.number: Final = number
        self.counts: Counter[str] = Counter()
        self.wrong: Final[list[str]] = []
        logging.getLogger().addHandler(Stumbles(self.wrong))
        #: Per key: the newest put begun, and the oldest of this store's own that a read may answer.
        self.sequence: Final = [0] * KEYS
        self.least: Final = [0] * KEYS

    # -- at random ---------------------------------------------------------------------------------------------------

    def storm(self, operations: int, seed: int) -> dict[str, Any]:
        """Random calls of all kinds on keys that other stores write as well."""
        threads = [
            threading.Thread(target=self._guarded, args=(operations, n, random.Random(seed * 31 + n)))
            for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {}

    def _guarded(self, operations: int, thread: int, draw: random.Random) -> None:
        try:
            for _ in range(operations):
                self.table.step(self.number)
                self._step(thread, draw)
        except Exception as error:
            self.wrong.append(f"store {self.number}: {type(error).__name__}: {error}")

    def _step(self, thread: int, draw: random.Random) -> None:
        i = min(int(draw.expovariate(1 / 60)), KEYS - 1)
        own = i - i % THREADS + thread  # one thread of each store writes a key, so that its puts have an order
        what = draw.random()
        try:
            if what < 0.2:
                self._put([own])
            elif what < 0.25:
                self._put([j for j in range(i, min(i + 12, KEYS)) if j % THREADS == thread])
            elif what < 0.65:
                self._read([i])
            elif what < 0.85:
                self._read(list(range(i, min(i + 16, KEYS))))
            elif what < 0.92:
                self.store.contains_prefix([self.key(j) for j in range(i, min(i + 16, KEYS))])
            elif what < 0.97:
                self._remove(own)
            elif what < 0.99:
                self.store.flush(_SECONDS)
                self.counts["flushes"] += 1
            else:
                self.store.clear(_SECONDS)
        except LmsTiersError as error:
            self.counts[type(error).__name__] += 1

    @staticmethod
    def key(i: int) -> OpaqueKey:
        return OpaqueKey(f"shared-{i}")

    def _put(self, numbers: Sequence[int]) -> None:
        items = []
        for i in numbers:
            self.sequence[i] += 1
            self.table.begin(self.number, i, self.sequence[i])
            items.append(item(f"shared-{i}", body(i, self.number, self.sequence[i])))
        if len(items) == 1:
            self.store.put(*items[0])
        elif items:
            self.store.put_many(items)
        for i in numbers:
            self.least[i] = self.sequence[i]
        self.counts["puts"] += len(numbers)

    def _remove(self, i: int) -> None:
        try:
            self.store.remove(self.key(i))
            self.counts["removes"] += 1
        finally:  # forgotten here, also where the engine does not answer
            self.least[i] = self.sequence[i] + 1

    def _read(self, numbers: Sequence[int]) -> None:
        least = [self.least[i] for i in numbers]
        keys = [self.key(i) for i in numbers]
        found = self.store.get_many(keys) if len(keys) > 1 else [self.store.get(keys[0])]
        self.counts["gets"] += len(numbers)
        for i, obj, oldest in zip(numbers, found, least, strict=True):
            if obj is not None:
                self.counts["hits"] += 1
                self._check(i, bytes(obj.data), oldest)

    def _check(self, i: int, data: bytes, oldest: int) -> None:
        """Somebody put it under this key; it is whole; it is not older than what this store had put or removed."""
        key, writer, sequence = _CONTENT.unpack_from(data) if len(data) >= _CONTENT.size else (-1, 0, 0)
        if key != i or data != body(i, writer, sequence):
            self.wrong.append(f"store {self.number}, key {i}: torn or foreign bytes {data[:32]!r}")
        elif not 0 < sequence <= self.table.begun(writer, i):
            self.wrong.append(f"store {self.number}, key {i}: put {sequence} of store {writer}, which nobody made")
        elif writer == self.number and sequence < oldest:
            self.wrong.append(f"store {self.number}, key {i}: own put {sequence}, though {oldest} came after it")
        elif writer != self.number:
            self.counts["hits_of_others"] += 1

    # -- in step with the others -------------------------------------------------------------------------------------

    def ready(self) -> dict[str, Any]:
        """Return when everything put here is sent, and the tier is asked again."""
        until = time.monotonic() + _SECONDS
        while True:
            try:
                self.store.put(*item(f"probe-{self.number}", b"probe"))
                self.store.flush(_SECONDS)
            except (StorageUnavailableError, DeadlineExceededError) as error:
                if time.monotonic() > until:
                    self.wrong.append(f"store {self.number}: the shared tier does not come back: {error}")
                    return {}
                time.sleep(0.05)
                continue
            return {}

    def hand(self, name: str, sequence: int) -> dict[str, Any]:
        """Put fresh keys and flush."""
        self.store.put_many([item(f"{name}-{i}", body(i, 0, sequence)) for i in range(HANDED)])
        self.store.flush(_SECONDS)
        return {}

    def take(self, name: str, allowed: Sequence[int], forget: bool) -> dict[str, Any]:
        """Read what was handed over; each key must hold one of the puts `allowed`, 0 for none."""
        if forget:
            self.store.clear(_SECONDS)
        before = self._failures()
        keys = [OpaqueKey(f"{name}-{i}") for i in range(HANDED)]
        found = self.store.get_many(keys)
        reached = before[0] is BreakerState.CLOSED and self._failures() == before
        for i, obj in enumerate(found):
            rights = [body(i, 0, sequence) if sequence else None for sequence in allowed]
            seen = None if obj is None else bytes(obj.data)
            if seen in rights:
                self.counts["taken"] += 1
            elif seen is None and not reached:
                self.counts["not_reached"] += 1
            else:
                what = "nothing" if seen is None else f"put {_CONTENT.unpack_from(seen)[2]}"
                self.wrong.append(f"store {self.number}, {name}-{i}: {what}, where {list(allowed)} may be")
        return {}

    def _failures(self) -> tuple[BreakerState, int, int]:
        """Changes where the shared tier could not be asked."""
        edge = self.store.stats().shared
        assert edge is not None
        return edge.breaker, edge.failures, edge.backend.failures if edge.backend is not None else 0

    def give_up(self, name: str) -> dict[str, Any]:
        """Remove what was handed over."""
        self.store.remove_many([OpaqueKey(f"{name}-{i}") for i in range(HANDED)])
        return {}

    def run(self) -> None:
        """Do jobs until there are no more, and say after each what was counted and what was wrong."""
        jobs = {f.__name__: f for f in (self.storm, self.ready, self.hand, self.take, self.give_up)}
        print("ready", flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            try:
                jobs[job.pop("do")](**job)
            except Exception as error:
                self.wrong.append(f"store {self.number}: {type(error).__name__}: {error}")
            print(json.dumps({"counts": self.counts, "wrong": self.wrong}), flush=True)
            self.counts.clear()
            self.wrong.clear()
        self.store.close()


def main() -> None:
    device, path, number = sys.argv[1:4]
    Worker(device, Table(Path(path)), int(number)).run()


if __name__ == "__main__":
    main()
