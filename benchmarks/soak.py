"""Hours of random work over a store whose tiers fail at random: every byte read is checked, nothing may grow.

    python benchmarks/soak.py --minutes 10 [--json FILE]

Exit status 1 if a byte was wrong, a budget was broken, or memory or descriptors grew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from lms_tiers.device import parse_tier
from lms_tiers.errors import CapacityError, DeadlineExceededError, StorageUnavailableError
from lms_tiers.factory import open_backend
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore

KEYS = 600
SIZES = (4096, 65_536, 200_000, 262_144)
THREADS = 4
TOP, DISK = 16 << 20, 64 << 20
OPERATIONS = ("put", "put_many", "get", "get_many", "get_into", "remove", "remove_many", "touch")


def key(i: int) -> CacheEngineKey:
    return CacheEngineKey("soak", 1, 0, i, torch.bfloat16)


def meta(i: int, size: int) -> ClientMetaMessage:
    return ClientMetaMessage(ClientCommand.PUT, key(i), size, MemoryFormat.KV_2LTD, torch.uint8, torch.Size([size]))


def body(i: int, version: int, size: int) -> bytes:
    """Bytes that only this version of this key has, from end to end."""
    return (i.to_bytes(4, "little") + version.to_bytes(8, "little")) * (size // 12 + 1)


class Soak:
    """One store, its faults, its workers, and what they saw."""

    def __init__(self, folder: str, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.wrong: list[str] = []
        self.counts = dict.fromkeys(("puts", "refused", "gets", "hits", "removes", "flushes", "restarts", "faults"), 0)
        #: Per key: versions whose put began, and the newest whose put returned. One writer per key.
        self.begun = [0] * KEYS
        self.done = [0] * KEYS
        self.failed: set[tuple[int, int]] = set()
        self.open()

    def open(self) -> None:
        self.backends = [
            FaultyBackend(LMSLocalBackend(), 1),
            FaultyBackend(open_backend(parse_tier(f"lmdb:{self.folder}/kv?capacity={DISK}B")), 2),
        ]
        self.store = TieredStore(
            [
                TierConfig("ram", self.backends[0], TOP, Lru(TOP, time.monotonic)),
                TierConfig("disk", self.backends[1], DISK, Lru(DISK, time.monotonic)),
            ],
            back_pressure=0.2, stall=0.5, breaker_cooldown=0.05, breaker_longest=0.5, close_timeout=20.0,
        )  # fmt: skip

    def work(self, number: int, store: TieredStore, stop: threading.Event) -> None:
        rng = random.Random(number * 7919 + self.counts["restarts"])
        buffer = bytearray(max(SIZES) + 64)
        while not stop.is_set():
            i = min(int(rng.expovariate(1 / 150)), KEYS - 1)
            draw = rng.random()
            if draw < 0.04:
                self.put_many(store, [j for j in range(i, i + 16) if j < KEYS and j % THREADS == number], rng)
            elif draw < 0.3:
                self.put(store, i - i % THREADS + number if i - i % THREADS + number < KEYS else number, rng)
            elif draw < 0.9:
                self.get(store, i, draw < 0.6, buffer)
            elif draw < 0.93:
                store.remove(key(i - i % THREADS + number))
                self.counts["removes"] += 1
            else:
                head = [key(j) for j in range(i, min(i + 8, KEYS))]
                least = self.done[i : i + 8]
                for j, obj in enumerate(store.get_many(head)):
                    if obj is not None:
                        self.check(i + j, obj.data, obj.length, least[j])

    def put(self, store: TieredStore, i: int, rng: random.Random) -> None:
        size = rng.choice(SIZES)
        self.begun[i] += 1
        version = self.begun[i]
        try:
            store.put(meta(i, size), bytearray(body(i, version, size)[:size]))
            self.done[i] = version
            self.counts["puts"] += 1
        except (StorageUnavailableError, CapacityError):
            self.counts["refused"] += 1
            self.failed.add((i, version))

    def put_many(self, store: TieredStore, own: list[int], rng: random.Random) -> None:
        size = rng.choice(SIZES)
        versions = {}
        for i in own:
            self.begun[i] += 1
            versions[i] = self.begun[i]
        try:
            store.put_many([(meta(i, size), bytearray(body(i, v, size)[:size])) for i, v in versions.items()])
        except (StorageUnavailableError, CapacityError):
            self.counts["refused"] += 1  # how far it got is not known
        else:
            for i, version in versions.items():
                self.done[i] = version
            self.counts["puts"] += len(own)

    def get(self, store: TieredStore, i: int, whole: bool, buffer: bytearray) -> None:
        self.counts["gets"] += 1
        least = self.done[i]
        if whole:
            obj = store.get(key(i))
            if obj is not None:
                self.check(i, obj.data, obj.length, least)
        else:
            found = store.get_into(key(i), buffer)
            if found is not None:
                self.check(i, memoryview(buffer)[: found.length], found.length, least)

    def check(self, i: int, data: Any, length: int, least: int) -> None:
        """Whole and of this key; not older than the newest put that had returned before the read began."""
        self.counts["hits"] += 1
        found = bytes(data)
        version = int.from_bytes(found[4:12], "little")
        if len(found) != length or found != body(i, version, length)[:length]:
            self.wrong.append(f"key {i}: torn or foreign bytes")
        elif (i, version) in self.failed:
            self.wrong.append(f"key {i}: version {version}, whose put had failed")
        elif version < least:
            self.wrong.append(f"key {i}: version {version} after {least} was stored")

    def trouble(self, stop: threading.Event) -> None:
        """For a while, something fails somewhere."""
        while not stop.wait(self.rng.uniform(0.05, 0.4)):
            backend = self.rng.choice(self.backends)
            for operation in self.rng.sample(OPERATIONS, 2):
                fault = self.rng.choice([Fault.FAIL, Fault.FAIL_AFTER, Fault.SLOW, Fault.NOTHING, Fault.WRONG_LENGTH])
                if fault in (Fault.NOTHING, Fault.WRONG_LENGTH) and operation not in ("get", "get_into"):
                    continue
                error = self.rng.choice([RuntimeError, OSError, MemoryError])
                probability = self.rng.choice([0.02, 0.3, 1.0])
                backend.inject(operation, fault, times=20, probability=probability, error=error, seconds=0.02)
                self.counts["faults"] += 1
            if self.rng.random() < 0.05:
                backend.inject(self.rng.choice(("get", "put")), Fault.BLOCK, times=1)
            stop.wait(self.rng.uniform(0.0, 0.3))
            for each in self.backends:
                each.heal()
        for each in self.backends:
            each.heal()

    def leg(self, seconds: float) -> None:
        """Work for a while, then settle, check everything, close and reopen."""
        stop = threading.Event()  # of this leg alone: a thread that outlives it does not go on in the next
        threads = [threading.Thread(target=self.guarded, args=(n, self.store, stop)) for n in range(THREADS)]
        threads.append(threading.Thread(target=self.trouble, args=(stop,)))
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join(60)
        flushed = self.flush()
        stats = self.store.stats()
        for tier, capacity in zip(stats.tiers, (TOP, DISK), strict=True):
            if tier.peak_bytes > capacity:
                self.wrong.append(f"tier {tier.name}: {tier.peak_bytes} bytes of {capacity}")
        before = list(self.done)
        self.store.close()
        self.open()
        self.counts["restarts"] += 1
        buffer = bytearray(max(SIZES) + 64)
        for i in range(KEYS):
            # Without a flush an older one may come back: never a torn or a foreign one.
            if not flushed:
                self.done[i] = 0
            if before[i]:
                self.get(self.store, i, bool(i % 2), buffer)
            self.done[i] = before[i]
        self.store.clear()

    def flush(self) -> bool:
        """Flush as soon as the disk, healed by now, is probed again."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(StorageUnavailableError, DeadlineExceededError):
                self.store.flush(20)
                self.counts["flushes"] += 1
                return True
            time.sleep(0.05)
        return False

    def guarded(self, number: int, store: TieredStore, stop: threading.Event) -> None:
        try:
            self.work(number, store, stop)
        except BaseException as error:
            self.wrong.append(f"thread {number}: {type(error).__name__}: {error}")
            stop.set()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="lms-soak-")
    samples: list[tuple[float, int, int, int]] = []
    began = time.monotonic()
    try:
        soak = Soak(folder, arguments.seed)
        leg = min(15.0, arguments.minutes * 60 / 4)
        while (passed := time.monotonic() - began) < arguments.minutes * 60 and not soak.wrong:
            soak.leg(leg)
            samples.append((passed, resident(), descriptors(), threading.active_count()))
            print(
                f"{passed:7.0f} s  {samples[-1][1] / 2**20:7.1f} MiB  {samples[-1][2]:3} descriptors  "
                f"{samples[-1][3]:2} threads  {soak.counts}  wrong {len(soak.wrong)}",
                flush=True,
            )
        soak.store.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    settled = samples[len(samples) // 4 :]
    half = len(settled) // 2
    early, late = settled[: half or 1], settled[half:]
    growth = max(s[1] for s in late) / max(s[1] for s in early)
    fds = max(s[2] for s in late) - max(s[2] for s in early)
    result = {
        "minutes": (time.monotonic() - began) / 60, "wrong": len(soak.wrong), "counts": soak.counts,
        "rss_mib_early": max(s[1] for s in early) / 2**20, "rss_mib_late": max(s[1] for s in late) / 2**20,
        "descriptors_grew": fds, "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    for line in soak.wrong[:20]:
        print("WRONG", line)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if soak.wrong or fds > 4 or growth > 1.1 else 0


if __name__ == "__main__":
    sys.exit(main())
