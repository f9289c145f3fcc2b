"""What the tiered store adds to a read of its lower tier, to a hit whose caches are cold, and to a put that evicts.

    python -m benchmarks.getter [--only PART ...] [--lower extents|lmdb] [--trace FILE] [--json FILE]

Each part measures in one run what it is held against: the bare backend, a dictionary with LRU order, a copy of the same
bytes, plain files. The lower tier is one flat file of extents with a dictionary for its index, checksums checked at
each read (`extents`), so that what is left is the store's own; or the project's own disk tier (`lmdb`).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from benchmarks.getter_tiers import BLOCK, MIB, Machine, clock, each_timed, key, meta, spread
from benchmarks.peer_stores import RamLru, plain_files
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.trace import iter_trace

# -- cold gets ---------------------------------------------------------------------------------------------------------


def cold(machine: Machine) -> dict[str, Any]:
    """4,000 blocks of the lower tier, each got once, in an order of no help; a quarter of them fits above."""
    count = machine.options.blocks
    blocks = BlockBytes(BLOCK)
    order = [int(i) for i in np.random.default_rng(1).permutation(count)]
    ram, disk = count * BLOCK // 4, 2 * count * BLOCK

    bare = machine.lower(disk, BLOCK)
    store = machine.store(ram, disk, BLOCK)
    for subject in (bare, store):
        for at in range(0, count, 32):
            subject.put_many([(meta(i, BLOCK), blocks.make(i)) for i in range(at, min(count, at + 32))])
    store.flush()
    below = [i for i in order if "cpu" not in store.tiers_of(key(i))]
    keys = [key(i) for i in below]
    runs = [keys[at : at + 32] for at in range(0, len(keys) - 31, 32)]
    found: dict[str, Any] = {}
    for _ in range(machine.options.rounds):
        _round(found, "bare get", lambda: each_timed(bare.get, keys))
        _round(found, "bare get_many", lambda: each_timed(bare.get_many, runs), 32)
        # Each pass over all of them leaves the last ones above: the next pass finds the first ones below again.
        _round(found, "store get", lambda: each_timed(store.get, keys))
        _round(found, "store get_many", lambda: each_timed(store.get_many, runs), 32)
    bare.close()
    stats = store.stats()
    store.close()
    top, lower = stats.tiers
    return {
        "us": {name: _median(rounds) for name, rounds in found.items()},
        "hits": [top.hits, lower.hits], "promoted": top.promoted, "skipped": top.promotions_skipped,
        "mean over bare": _ratio(found, "store get", "bare get"),
        "p99 over p50": statistics.median(r["p99"] / r["p50"] for r in found["store get"]),
        "get_many over bare gets": 1 / _ratio(found, "store get_many", "bare get"),
    }  # fmt: skip


def _round(found: dict[str, Any], name: str, run: Callable[[], list[float]], per: int = 1) -> None:
    gc.collect()
    found.setdefault(name, []).append(spread([t / per for t in run()]))


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {figure: round(statistics.median(r[figure] for r in rounds), 1) for figure in rounds[0]}


def _ratio(found: dict[str, Any], name: str, base: str) -> float:
    pairs = zip(found[name], found[base], strict=True)
    return float(statistics.median(a["mean"] / b["mean"] for a, b in pairs))


# -- hits --------------------------------------------------------------------------------------------------------------


class DictLru:
    """The least that keeps chunks in order of use."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Any] = OrderedDict()

    def put(self, client_meta: Any, data: Any) -> None:
        self._held[client_meta.key.to_string()] = data

    def get(self, key: Any) -> Any:
        text = key.to_string()
        found = self._held.get(text)
        if found is not None:
            self._held.move_to_end(text)
        return found


def hits(machine: Machine) -> dict[str, Any]:
    """Gets from memory, 64 MiB walked between two of them; and one right after another."""
    count = 512
    store = machine.store(count * 2 * BLOCK, 1 << 30, BLOCK)
    subjects: dict[str, Any] = {"dictionary": DictLru(), "cpu": LMSLocalBackend(), "store": store}
    for subject in subjects.values():
        for i in range(count):
            subject.put(meta(i, 4096), bytearray(4096))
    store.drain()
    walked = np.ones(64 * MIB // 8, np.int64)
    rng = np.random.default_rng(2)
    took: dict[str, list[float]] = {name: [] for name in subjects}
    gc.collect()
    gc.disable()
    for _ in range(machine.options.walks):
        names = list(subjects)
        rng.shuffle(names)
        for name in names:
            asked, get = key(int(rng.integers(count))), subjects[name].get
            walked += 1
            started = clock()
            found = get(asked)
            took[name].append(clock() - started)
            assert found is not None
    warm = {}
    keys = [key(i) for i in range(count)]
    for name, subject in subjects.items():
        get = subject.get
        rounds = []
        for _ in range(40):
            started = clock()
            for asked in keys:
                get(asked)
            rounds.append((clock() - started) / count)
        warm[name] = 1e6 * statistics.median(rounds)
    gc.enable()
    store.close()
    us = {name: spread(seconds) for name, seconds in took.items()}
    return {
        "us cold": us, "us warm": warm,
        "store over dictionary": us["store"]["p50"] / us["dictionary"]["p50"],
        "store over cpu": us["store"]["p50"] / us["cpu"]["p50"],
    }  # fmt: skip


# -- the trace ---------------------------------------------------------------------------------------------------------


def replay(machine: Machine) -> dict[str, Any]:
    """The leading run of each request is got and checked, the rest put; 256 MiB of memory over 2 GiB of disk."""
    options = machine.options
    ram, disk = 256 * MIB, 2048 * MIB

    class Bare:
        """The lower backend under a dictionary of chunks in memory, with an order of use on disk."""

        takes = bytearray

        def __init__(self) -> None:
            self._backend = machine.lower(disk, BLOCK)
            self._sizes: OrderedDict[str, None] = OrderedDict()

        def get(self, text: str) -> Any:
            if text not in self._sizes:
                return None
            self._sizes.move_to_end(text)
            found = self._backend.get(OpaqueKey(text))
            return None if found is None else found.data

        def put(self, text: str, data: Any) -> None:
            if len(self._sizes) >= disk // BLOCK - 64:
                self._backend.remove(OpaqueKey(self._sizes.popitem(last=False)[0]))
            self._backend.put(meta(int(text, 16), BLOCK), data)
            self._sizes[text] = None

        def close(self) -> None:
            self._backend.close()

    class Ours:
        def __init__(self) -> None:
            self.store = machine.store(ram, disk, BLOCK)

        def in_ram(self, text: str) -> bool:
            return "cpu" in self.store.tiers_of(OpaqueKey(text))

        def get(self, text: str) -> Any:
            found = self.store.get(OpaqueKey(text))
            return None if found is None else found.data

        def put(self, text: str, data: Any) -> None:
            self.store.put(meta(int(text, 16), BLOCK), data)

        def flush(self) -> None:
            self.store.flush()

        def close(self) -> None:
            self.store.close()

    kinds: dict[str, Callable[[], Any]] = {
        "plain files": lambda: plain_files(machine.path(), ram, disk, BLOCK),
        "bare, RAM LRU": lambda: RamLru(Bare(), ram),
        "store": Ours,
    }
    rounds: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for name, opening in kinds.items():
            rounds.setdefault(name, []).append(_one_replay(opening(), options))
    found: dict[str, Any] = {
        name: {figure: statistics.median(r[figure] for r in runs) for figure in runs[0]}
        for name, runs in rounds.items()
    }
    ours, plain = rounds["store"], rounds["plain files"]
    for figure in ("get MB/s", "disk get MB/s", "put MB/s", "get p99", "put p99"):
        ratios = [a[figure] / b[figure] for a, b in zip(ours, plain, strict=True)]
        found[f"{figure} over plain files"] = statistics.median(ratios)
    return found


def _one_replay(store: Any, options: argparse.Namespace) -> dict[str, Any]:
    blocks = BlockBytes(BLOCK)
    gets: list[float] = []
    disk_gets: list[float] = []
    puts: list[float] = []
    gc.collect()
    for request in iter_trace(options.trace, limit=options.requests):
        ids = [int(i) for i in request.hash_ids]
        run = 0
        for block in ids:
            text = f"{block:016x}"
            in_ram = store.in_ram(text)
            started = clock()
            data = store.get(text)
            took = clock() - started
            if data is None:
                break
            gets.append(took)
            if not in_ram:
                disk_gets.append(took)
            assert blocks.matches(block, data)
            run += 1
        made = [(f"{block:016x}", blocks.make(block)) for block in ids[run:]]
        for text, data in made:
            started = clock()
            store.put(text, data)
            puts.append(clock() - started)
        del made
    store.flush()
    store.close()
    rates = {"get": gets, "disk get": disk_gets, "put": puts}
    found: dict[str, Any] = {f"{name} MB/s": len(s) * BLOCK / sum(s) / 1e6 for name, s in rates.items()}
    for name, seconds in rates.items():
        found |= {f"{name} {figure}": value for figure, value in spread(seconds).items() if figure != "worst"}
    return found | {"gets": len(gets), "disk gets": len(disk_gets), "puts": len(puts)}


# -- puts --------------------------------------------------------------------------------------------------------------


def pins(machine: Machine) -> dict[str, Any]:
    """Puts that evict, without a pin and with 10,000 of them, in turns."""
    stores = {}
    for name, pinned in (("none", 0), ("10,000", 10_000)):
        store = machine.store(20_000 * 4096, 1 << 30, 4096)
        for i in range(20_000):
            store.put(meta(i, 4096), bytearray(4096))
        store.drain()
        store.pin([key(i) for i in range(19_999, 19_999 - pinned, -1)], 600.0)
        stores[name] = store
    took: dict[str, list[float]] = {name: [] for name in stores}
    for at in range(20):
        for name, store in stores.items():
            items = [(meta(100_000 + 200 * at + i, 4096), bytearray(4096)) for i in range(200)]
            started = clock()
            for item in items:
                store.put(*item)
            took[name].append((clock() - started) / 200)
            store.drain()
    for store in stores.values():
        store.close()
    us = {name: 1e6 * statistics.median(seconds) for name, seconds in took.items()}
    return {"us a put": us, "10,000 pins over none": us["10,000"] / us["none"]}


def puts(machine: Machine) -> dict[str, Any]:
    """Chunks of 2 MiB through the tiers, of the trace's leading requests, beside plain files."""
    size, ram, disk = 2 * MIB, 256 * MIB, 2048 * MIB
    blocks = BlockBytes(size)
    found: dict[str, list[dict[str, float]]] = {"plain files": [], "store": []}

    def timed(put: Callable[[int, bytearray], Any]) -> dict[str, float]:
        gc.collect()
        took = []
        for i in range(600):
            data = blocks.make(i)
            started = clock()
            put(i, data)
            took.append(clock() - started)
            del data
        return spread(took) | {"MB/s": size / 1e6 * len(took) / sum(took)}

    for _ in range(machine.options.rounds):
        plain = plain_files(machine.path(), ram, disk, size)
        store = machine.store(ram, disk, size)
        found["plain files"].append(timed(lambda i, data, to=plain: to.put(f"{i:016x}", data)))  # type: ignore[misc]
        found["store"].append(timed(lambda i, data, to=store: to.put(meta(i, size), data)))  # type: ignore[misc]
        store.close()
        plain.close()
    result: dict[str, Any] = {name: _median(rounds) for name, rounds in found.items()}
    pairs = list(zip(found["store"], found["plain files"], strict=True))
    result["MB/s over plain files"] = statistics.median(a["MB/s"] / b["MB/s"] for a, b in pairs)
    result["p99 over plain files"] = statistics.median(a["p99"] / b["p99"] for a, b in pairs)
    return result


def copies() -> dict[str, float]:
    """What the machine itself takes for a block: a copy, a fresh buffer, a checksum (microseconds)."""
    source, target = bytearray(os.urandom(BLOCK)), np.ones(BLOCK, np.uint8)
    from_source = np.frombuffer(source, np.uint8)

    def timed(call: Callable[[], Any]) -> float:
        return 1e6 * statistics.median(each_timed(lambda _: (call(), 1), range(500)))

    return {
        "copy": timed(lambda: np.copyto(target, from_source)),
        "fresh buffer": timed(lambda: bytearray(BLOCK)),
        "checksum": timed(lambda: xxhash.xxh3_64_intdigest(source)),
    }


PARTS: dict[str, Callable[[Machine], dict[str, Any]]] = {
    "cold": cold, "hits": hits, "replay": replay, "pins": pins, "puts": puts,
}  # fmt: skip


def lines(found: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, dict) and all(isinstance(v, (int, float)) for v in value.values()):
            yield f"{indent}{name}: " + ", ".join(f"{k} {v:,.2f}" for k, v in value.items())
        elif isinstance(value, dict):
            yield f"{indent}{name}"
            yield from lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {value:,.2f}" if isinstance(value, float) else f"{indent}{name}: {value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--lower", choices=("extents", "lmdb"), default="extents", help="what the lower tier is")
    parser.add_argument("--trace", type=Path, help="request trace of the part `replay`, which is left out without one")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--blocks", type=int, default=4000)
    parser.add_argument("--walks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--path", type=Path, help="folder on the disk to measure")
    parser.add_argument("--json", type=Path, help="write what was measured there")
    options = parser.parse_args()
    parts = [part for part in options.only if part != "replay" or options.trace is not None]
    folder = Path(tempfile.mkdtemp(prefix="getter-", dir=options.path))
    found: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "us a block": copies()}
    try:
        for part in parts:
            found[part] = PARTS[part](Machine(options, folder))
            print("\n".join(lines({part: found[part]})), flush=True)
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        shutil.rmtree(folder)
    print("\n".join(lines({"us a block": found["us a block"]})))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
