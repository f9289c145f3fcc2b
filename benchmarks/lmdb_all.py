"""Every benchmark of the lmdb backend, one after another: `make bench-lmdb`.

    python -m benchmarks.lmdb_all [--gib 6] [--only lmdb_churn,lmdb_read] [--touch] [--json FOLDER] [--markdown FILE]

Each runs in a process of its own and prints its table with the machine's memcpy and disk beside it; ``--json`` leaves a
document of each in the folder. ``--markdown`` writes the measured tables between the marks in a page, or a new page.
``--touch`` writes to all free memory before each: a virtual machine may have to ask its host for each page that it has
never used, which takes ten times as long as to write a page of a file, whoever writes it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import mmap
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: Memory left alone when the rest is touched, and how the kernel is asked to do that (linux/mman.h).
LEFT = 1 << 30
POPULATE_WRITE = 23

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Document = Any


def row(*cells: object) -> str:
    return "| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |"


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    return [row(*head), "|" + "---|" * len(head), *(row(*cells) for cells in rows), ""]


def machine() -> str:
    told = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in told if line.startswith("model name")), platform.machine())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return (
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores of {cpu}, {pages:.0f} GiB of memory, "
        f"Linux {platform.release()}, Python {platform.python_version()}, lmdb {version('lmdb')}, "
        f"numpy {version('numpy')}, xxhash {version('xxhash')}."
    )


def busy() -> str:
    load = Path("/proc/loadavg").read_text().split()[1]
    return f"Load average of the last five minutes at the end: {load}."


def touch() -> None:
    """Let the kernel write to memory that is free, so that the host has given it; it is free again afterwards."""
    with open("/proc/meminfo") as told:
        free = next(int(line.split()[1]) * 1024 for line in told if line.startswith("MemFree"))
    if free > LEFT:
        with mmap.mmap(-1, (free - LEFT) // mmap.PAGESIZE * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as memory:
            memory.madvise(POPULATE_WRITE)


def churned(found: Document) -> list[str]:
    return [
        "## Churn, measured", "",
        f"memcpy {found['machine']['memcpy_gb_s']:.1f} GB/s, plain file write "
        f"{found['machine']['file_write_mb_s']:.0f} MB/s.", "",
        *table(
            ["layout", "first fill MB/s", "steady MB/s", "steady ÷ first", "p50 put ms", "p99 put ms", "p99 ÷ p50",
             "map full", "live at the end", "file ÷ capacity"],
            [[r["layout"], r["first_fill_mb_s"], r["steady_mb_s"], r["steady_over_first"], r["p50_ms"], r["p99_ms"],
              r["p99_ms"] / r["p50_ms"], r["map_full"], r["live_at_end"], r["bytes_on_disk_over_capacity"]]
             for r in found["rows"]],
        ),
    ]  # fmt: skip


def read(found: Document) -> list[str]:
    rows: list[list[object]] = [[name, value, value / found["memcpy"]] for name, value in found.items()]
    return ["## Hot reads, measured", "", *table(["", "GB/s", "of memcpy"], rows)]


def scaled(found: Document) -> list[str]:
    names = {
        "first_get_s": "opening to first get, s", "loaded_s": "everything loaded, s",
        "bytes_per_entry": "memory per entry, bytes",
        "contains_p50_us": "`contains` p50, µs", "contains_p99_us": "`contains` p99, µs",
        "contains_loading_p50_us": "`contains` p50 while loading, µs",
        "contains_loading_p99_us": "`contains` p99 while loading, µs",
        "first_key_s": "first key of `iter_keys`, s", "list_keys_s": "`list_keys`, s",
        "scan_first_s": "`scan`, first, s", "scan_s": "`scan`, all, s",
        "pairs_in_order": "pairs in the order of use",
    }  # fmt: skip
    return [
        "## Scale, measured", "",
        f"{found['chunks']:,} chunks of {found['size']} bytes; filled in {found['fill_s']:.0f} s, "
        f"{found['disk_bytes_per_chunk']:.0f} bytes on disk each; reopened as a backend, as a tier, and as a tier that "
        "is asked from the first moment on.", "",
        *table(
            ["", *(r["kind"] for r in found["rows"])],
            [[told, *(r.get(key, "–") for r in found["rows"])] for key, told in names.items()],
        ),
    ]  # fmt: skip


def put(found: Document) -> list[str]:
    puts, pins = found["puts"], found["pins"]
    return [
        "## Puts through the tiers, measured", "",
        "Chunks of 2 MiB into `cpu` (256 MiB) over this tier (2 GiB, `codec=raw&sync=none`), beside plain files under "
        "a RAM LRU; and puts of 4 KiB that evict, without a pin and with 10,000.", "",
        *table(
            ["2 MiB", "MB/s", "mean µs", "p50 µs", "p99 µs"],
            [[name, *(puts[name][figure] for figure in ("MB/s", "mean", "p50", "p99"))]
             for name in ("store", "plain files")],
        ),
        *table(["pins", "µs a put"], [[name, us] for name, us in pins["us a put"].items()]),
    ]  # fmt: skip


TOLD = {"lmdb_read": read, "lmdb_churn": churned, "lmdb_scale": scaled, "getter": put}

#: What each figure is held against: its name, whether more is better, the floor, and where it stands.
FLOORS: list[tuple[str, bool, float, str, Callable[[Document], float]]] = [
    ("churn: steady ÷ first fill", True, 0.9, "lmdb_churn", lambda d: d["rows"][0]["steady_over_first"]),
    ("churn: steady, over whole values", True, 1.5, "lmdb_churn", lambda d: d["over_whole"]),
    ("churn: put p99 ÷ p50", False, 5, "lmdb_churn", lambda d: d["rows"][0]["p99_ms"] / d["rows"][0]["p50_ms"]),
    ("2 MiB puts over plain files'", True, 4, "getter", lambda d: d["puts"]["MB/s over plain files"]),
    ("their p99 over plain files'", False, 1, "getter", lambda d: d["puts"]["p99 over plain files"]),
    ("hot `get_into` over `preadv` and xxh3", True, 0.9, "lmdb_read", lambda d: d["get_into"] / d["preadv and xxh3"]),
    ("two readers over one", True, 1.8, "lmdb_read", lambda d: d["get_into, 2 readers"] / d["get_into"]),
    ("1 M chunks: opening to first get, s", False, 1.5, "lmdb_scale", lambda d: d["rows"][1]["first_get_s"]),
    ("`contains` p99 while it loads, µs", False, 20, "lmdb_scale", lambda d: d["rows"][2]["contains_loading_p99_us"]),
    ("memory an entry, bytes", False, 400, "lmdb_scale", lambda d: d["rows"][1]["bytes_per_entry"]),
    ("a put that evicts beside 10,000 pins, over none", False, 1.1, "getter",
     lambda d: d["pins"]["10,000 pins over none"]),
]  # fmt: skip


def held_against(documents: dict[str, Document]) -> list[str]:
    rows: list[list[object]] = []
    for figure, more, floor, name, value_of in FLOORS:
        if name in documents:
            value = value_of(documents[name])
            kept = value >= floor if more else value <= floor
            rows.append(
                [figure, f"{'≥' if more else '≤'} {floor}", f"{value:.3g}" if kept else f"**{value:.3g}: missed**"]
            )
    return table(["figure", "floor", "this run"], rows)


def write(page: Path, documents: dict[str, Document], touched: bool) -> None:
    """Put the tables between the marks of `page`, or at its end."""
    memory = f"Free memory was {'' if touched else 'not '}written to first."
    lines = [BEGIN, "", f"{machine()} {busy()} {memory}", "", *held_against(documents)]
    for name, document in documents.items():
        lines += TOLD[name](document)
    measured = "\n".join([*lines, END])
    text = page.read_text() if page.exists() else "# The lmdb backend\n\n"
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    page.write_text(before + ("" if begin else "\n") + measured + after)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", default="6", help="size of the churned store")
    parser.add_argument("--chunks", default="1000000", help="small chunks of the scale run")
    parser.add_argument("--only", default="lmdb_read,getter,lmdb_churn,lmdb_scale")
    parser.add_argument("--touch", action="store_true", help="write to all free memory before each")
    parser.add_argument("--path", help="folder on the disk to measure")
    parser.add_argument("--json", type=Path, help="folder for the documents")
    parser.add_argument("--markdown", type=Path, help="page to write the tables into")
    given = parser.parse_args()
    extra = {
        "lmdb_read": [], "lmdb_churn": ["--gib", given.gib], "lmdb_scale": ["--chunks", given.chunks],
        "getter": ["--only", "puts", "pins", "--lower", "lmdb", "--rounds", "3"],
    }  # fmt: skip
    where = ["--path", given.path] if given.path else []
    documents: dict[str, Document] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.json or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in given.only.split(","):
            print(f"\n== {name}", flush=True)
            file = folder / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", *extra[name], *where, "--json", str(file)]
            if given.touch:
                touch()  # before each: what lies free for minutes the host may take back
            subprocess.run(command, check=True)
            documents[name] = json.loads(file.read_text())
    if given.markdown:
        write(given.markdown, documents, given.touch)


if __name__ == "__main__":
    main()
