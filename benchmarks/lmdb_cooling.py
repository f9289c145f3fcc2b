"""What `codec=auto` costs and brings: a replay of the real trace through `cpu > lmdb`, raw and by when it encodes.

    python -m benchmarks.lmdb_cooling TRACE [--requests 2000] [--blocks 8192] [--rounds 3] [--plot FILE] [--json FILE]

Each point is a process of its own: `raw`, and `auto` with one value of `cooling.FULL` (the share of the tier from
which on cold chunks are encoded). Points take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.getter_tiers import clock, meta, spread
from lms_tiers import CreateStorageBackend
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import cooling
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.trace import iter_trace
from lms_tiers.sizes import parse_size


def child(options: argparse.Namespace, folder: str, codec: str, full: float) -> dict[str, Any]:
    """One replay; figures of its calls and of what the disk tier held at its end."""
    cooling.FULL = full
    size = options.block
    disk = options.blocks * size
    device = f"cpu?capacity={disk // 8}B > lmdb:{folder}?capacity={disk}B&sync={options.sync}&codec={codec}"
    store: Any = CreateStorageBackend(device)
    blocks = BlockBytes(size)
    gets: list[float] = []
    puts: list[float] = []
    for request in iter_trace(options.trace, limit=options.requests):
        ids = [int(i) for i in request.hash_ids]
        run = 0
        for block in ids:
            started = clock()
            found = store.get(OpaqueKey(f"{block:016x}"))
            took = clock() - started
            if found is None:
                break
            gets.append(took)
            assert blocks.matches(block, found.data)
            run += 1
        made = [(meta(block, size), blocks.make(block)) for block in ids[run:]]
        for item in made:
            started = clock()
            store.put(*item)
            puts.append(clock() - started)
    started = clock()
    store.flush()
    flushed = clock() - started
    backend = store._h.tiers[1].backend
    charges = [backend.stored_bytes(key) for key in backend.list_keys()]
    tiers = store.stats().tiers
    store.close()
    return {
        "held": len(charges), "share encoded": sum(charge < size for charge in charges) / len(charges),
        "hits": len(gets), "disk hits": tiers[1].hits, "drops": sum(tier.drops for tier in tiers),
        "get MB/s": len(gets) * size / sum(gets) / 1e6,
        "put MB/s": len(puts) * size / (sum(puts) + flushed) / 1e6,
        "get p50 µs": spread(gets)["p50"], "get p99 µs": spread(gets)["p99"], "put p99 µs": spread(puts)["p99"],
    }  # fmt: skip


def points() -> Iterator[tuple[str, str, float]]:
    yield "raw", "raw", 0.0
    for full in (0.5, 0.75, 0.875, 0.95):
        yield f"auto from {full:.1%}", "auto", full


def plot(path: Path, medians: dict[str, dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    raw = medians["raw"]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    names = [name for name in medians if name != "raw"]
    at = [medians[name]["share encoded"] for name in names]
    for what, told in (("held", "blocks held"), ("hits", "hits"), ("get MB/s", "gets"), ("put MB/s", "puts")):
        order = sorted(zip(at, [medians[name][what] / raw[what] for name in names], strict=True))
        axes.plot([x for x, _ in order], [y for _, y in order], "o-", label=told)
    axes.axhline(1.0, color="grey", linewidth=0.5)
    axes.set(xlabel="share of the blocks in the disk tier that are encoded", ylabel="over raw, same run")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def markdown(medians: dict[str, dict[str, float]]) -> list[str]:
    raw = medians["raw"]
    shown = ("share encoded", "held", "hits", "get MB/s", "put MB/s", "get p50 µs", "get p99 µs", "put p99 µs", "drops")
    lines = [f"| | {' | '.join(shown)} | held ÷ raw | gets ÷ raw | puts ÷ raw |", "|" + "---|" * (len(shown) + 4)]
    for name, found in medians.items():
        cells = [f"{found[what]:.2f}" if what == "share encoded" else f"{found[what]:,.0f}" for what in shown]
        over = [f"{found[what] / raw[what]:.2f}" for what in ("held", "get MB/s", "put MB/s")]
        lines.append(f"| {name} | {' | '.join(cells + over)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trace")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--block", type=parse_size, default=parse_size("256KiB"))
    parser.add_argument("--blocks", type=int, default=8192, help="that the disk tier is as large as; an eighth above")
    parser.add_argument("--sync", default="batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--path", type=Path, help="folder on the disk to measure")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        folder, codec, full = options.child
        print(json.dumps(child(options, folder, codec, float(full))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for name, codec, full in points():
            folder = tempfile.mkdtemp(prefix="lmdb-cooling-", dir=options.path)
            command = [sys.executable, "-m", "benchmarks.lmdb_cooling", options.trace]
            command += ["--requests", str(options.requests), "--sync", options.sync]
            command += ["--block", f"{options.block}B", "--blocks", str(options.blocks)]
            try:
                done = subprocess.run(
                    [*command, "--child", folder, codec, str(full)],
                    stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
            finally:
                shutil.rmtree(folder)
            found.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[name][-1], file=sys.stderr, flush=True)
    medians = {
        name: {what: statistics.median(run[what] for run in runs) for what in runs[0]} for name, runs in found.items()
    }
    print("\n".join(markdown(medians)))
    if options.plot is not None:
        plot(options.plot, medians)
    if options.json is not None:
        options.json.write_text(json.dumps({"options": vars(options), "rounds": found}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
