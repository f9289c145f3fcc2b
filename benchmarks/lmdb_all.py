"""Every benchmark of the lmdb backend, one after another: `make bench-lmdb`.

    python -m benchmarks.lmdb_all [--gib 6] [--only churn,read] [--json FOLDER] [--markdown FILE]

Each runs in a process of its own and prints its table with the machine's memcpy and disk beside it; ``--json`` leaves a
document of each in the folder. ``--markdown`` writes the measured tables between the marks in a page, or a new page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def churned(found: Document) -> list[str]:
    kept = found["rows"]
    ratios = [f"{row['layout']}: {ratio:.2f}" for row, ratio in zip(kept[1:], found["parts_over_whole"], strict=True)]
    return [
        "## Churn, measured", "",
        f"memcpy {found['machine']['memcpy_gb_s']:.1f} GB/s, plain file write "
        f"{found['machine']['file_write_mb_s']:.0f} MB/s; steady, parts over "
        f"{', over '.join(ratios)}.", "",
        *table(
            ["layout", "first fill MB/s", "steady MB/s", "steady ÷ first", "p50 put ms", "p99 put ms", "p99 ÷ p50",
             "map full", "live at the end", "file ÷ capacity"],
            [[r["layout"], r["first_fill_mb_s"], r["steady_mb_s"], r["steady_over_first"], r["p50_ms"], r["p99_ms"],
              r["p99_ms"] / r["p50_ms"], r["map_full"], r["live_at_end"], r["bytes_on_disk_over_capacity"]]
             for r in kept],
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


TOLD = {"lmdb_read": read, "lmdb_churn": churned, "lmdb_scale": scaled}


def write(page: Path, documents: dict[str, Document]) -> None:
    """Put the tables between the marks of `page`, or at its end."""
    lines = [BEGIN, "", machine(), ""]
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
    parser.add_argument("--only", default="read,churn,scale")
    parser.add_argument("--path", help="folder on the disk to measure")
    parser.add_argument("--json", type=Path, help="folder for the documents")
    parser.add_argument("--markdown", type=Path, help="page to write the tables into")
    given = parser.parse_args()
    extra = {
        "lmdb_read": [], "lmdb_churn": ["--gib", given.gib], "lmdb_scale": ["--chunks", given.chunks],
    }  # fmt: skip
    where = ["--path", given.path] if given.path else []
    documents: dict[str, Document] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.json or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (f"lmdb_{part}" for part in given.only.split(",")):
            print(f"\n== {name}", flush=True)
            file = folder / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", *extra[name], *where, "--json", str(file)]
            subprocess.run(command, check=True)
            documents[name] = json.loads(file.read_text())
    if given.markdown:
        write(given.markdown, documents)


if __name__ == "__main__":
    main()
