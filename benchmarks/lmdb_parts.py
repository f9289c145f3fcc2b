"""Churn and read speed over the size of parts: what the part size of the lmdb backend was chosen by.

    python -m benchmarks.lmdb_parts [--parts 16KiB,64KiB,256KiB,1MiB] [--gib 1] [--plot FILE.png] [--json FILE]

For each size the backend itself, cutting values into parts of that size and the rest into quarters of it down to a
page: steady and first-fill throughput, latencies and map-full errors of `lmdb_churn`, hot reads of `lmdb_read`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lmdb_churn import Parts, ceilings, churn
from benchmarks.lmdb_read import measure
from lms_tiers.plugins.lmdb import preparing
from lms_tiers.plugins.lmdb.parts import PART_PAGES, Groups, cut
from lms_tiers.sizes import format_size, parse_size

PAGE = 4096


def pages(size: int) -> tuple[int, ...]:
    """Pages of a part of `size` bytes, and of ever smaller ones for the rest."""
    found = [max(1, size // PAGE)]
    while found[-1] > 1:
        found.append(max(1, found[-1] // 4))
    return tuple(found)


@contextmanager
def cutting(size: int) -> Iterator[None]:
    before = vars(preparing)["cut"]
    chosen = pages(size)

    def cut_so(length: int, page: int, finer: tuple[int, ...] = PART_PAGES, *, tail: int = 0) -> Groups:
        return cut(length, page, chosen if finer == PART_PAGES else finer, tail=tail)

    vars(preparing)["cut"] = cut_so
    try:
        yield
    finally:
        vars(preparing)["cut"] = before


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(7, 4))
    right = left.twinx()
    at = range(len(rows))
    (a,) = left.plot(at, [r["steady_mb_s"] for r in rows], "o-", color="tab:blue", label="churn, steady")
    (b,) = left.plot(at, [r["first_fill_mb_s"] for r in rows], "o:", color="tab:blue", label="first fill")
    (c,) = right.plot(at, [r["read_of_memcpy"] for r in rows], "s-", color="tab:red", label="hot read, of memcpy")
    left.set_xticks(list(at), [r["parts"] for r in rows])
    left.set_xlabel("part size")
    left.set_ylabel("MB/s written")
    right.set_ylabel("of memcpy")
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    left.legend(handles=[a, b, c], loc="lower right")
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default="16KiB,64KiB,256KiB,1MiB")
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--times", type=float, default=3)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lmdb-parts-", dir=given.path))
    rows: list[dict[str, Any]] = []
    try:
        machine = ceilings(folder)
        for text in given.parts.split(","):
            size = parse_size(text)
            path = folder / text
            path.mkdir()
            with cutting(size):
                row = churn(Parts, path, int(given.gib * (1 << 30)) // PAGE * PAGE, 0.95, given.times, "none")
                shutil.rmtree(path)
                reads = measure(64, 5, given.path)
            rows.append({
                **row, "parts": format_size(size), "read_gb_s": reads["get_into"],
                "read_of_memcpy": reads["get_into"] / reads["memcpy"],
            })  # fmt: skip
            told = (f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in rows[-1].items())
            print("  ".join(told), flush=True)
    finally:
        shutil.rmtree(folder)
    if given.plot:
        plot(rows, given.plot)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
