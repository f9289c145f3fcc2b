"""The door under SGLang beside SGLang's own file backend, in turn in one run; made for the environment of `make doors`.

    python -m scripts.doors --engine sglang --quick   # makes it
    python -m benchmarks.door_sglang [--mib 96] [--rounds 5] [--path DIR] [--json FILE]

Each backend is driven as SGLang's controller does: batches of 128 pages; the file backend by flat pages (which the
controller copies out of the host pool and into it), ours by `interface_v1`. Both write without fsync. Every page that
is read is compared with what was stored; ours is checked by its checksum as well. "reopened" is a new process's start:
the backend is closed and opened again, and the page cache is warm for both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH = 128
LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
#: By bytes of a page: layers, tokens.
SHAPES = {256 << 10: (16, 16), 2 << 20: (32, 64)}
DEVICES = {
    "ours, lmdb": "lmdb:{}/kv?capacity=2GiB&codec=raw&sync=none",
    "ours, cpu 64 MiB > lmdb": "cpu?capacity=64MiB > lmdb:{}/kv?capacity=2GiB&codec=raw&sync=none&promote=never",
}


def pool_of(layout: str, nbytes: int, count: int) -> Any:
    import torch
    from lms_conformance.adapters.hicache.pools import mha

    layers, tokens = SHAPES[nbytes]
    return mha(layout, torch.bfloat16, layers, tokens, count, 128)


def backend(name: str, path: Path, pool: Any, layout: str) -> Any:
    from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig

    from lms_tiers.doors.sglang import HiCache

    extra: dict[str, Any] = {"file_storage_path": str(path / "files")}
    if name != "HiCacheFile":
        extra = {"device": DEVICES[name].format(path)}
    config = HiCacheStorageConfig(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1, is_mla_model=False,
        enable_storage_metrics=False, is_page_first_layout=layout == "page_first", model_name="llama",
        extra_config=extra,
    )  # fmt: skip
    made = (HiCacheFile if name == "HiCacheFile" else HiCache)(config)
    made.register_mem_pool_host(pool)
    return made


def moves(made: Any, pool: Any) -> tuple[Callable[..., bool], Callable[..., bool]]:
    """Setting and getting a batch, each as the controller does with this backend."""
    if hasattr(made, "_pools"):
        return (
            lambda keys, indices: all(made.batch_set_v1(keys, indices)),
            lambda keys, indices: all(made.batch_get_v1(keys, indices)),
        )

    def set_pages(keys: list[str], indices: Any) -> bool:
        pages = [pool.get_data_page(indices[i * pool.page_size]) for i in range(len(keys))]
        return bool(made.batch_set(keys, pages))

    def get_pages(keys: list[str], indices: Any) -> bool:
        pages = made.batch_get(keys, [pool.get_dummy_flat_data_page() for _ in keys])
        for i, page in enumerate(pages):
            if page is None:
                return False
            pool.set_from_flat_data_page(indices[i * pool.page_size], page)
        return True

    return set_pages, get_pages


def rates(move: Callable[..., bool], pool: Any, count: int, nbytes: int) -> tuple[float, float]:
    """MB a second of moving all pages, in batches, and MB a second of processor time of the whole process."""
    import torch

    works, began = time.process_time(), time.perf_counter()
    for at in range(0, count, BATCH):
        some = range(at, min(count, at + BATCH))
        indices = torch.arange(some.start * pool.page_size, some.stop * pool.page_size, dtype=torch.int64)
        assert move([f"{i:064x}" for i in some], indices), "a page failed"
    megabytes = count * nbytes / 1e6
    return megabytes / (time.perf_counter() - began), megabytes / (time.process_time() - works)


def measured(layout: str, nbytes: int, mib: int, rounds: int, path: Path) -> dict[str, dict[str, list[float]]]:
    import torch

    count = max((mib << 20) // nbytes, SHAPES[nbytes][0])  # SGLang's `page_head` wants as many pages as layers
    pool = pool_of(layout, nbytes, count)
    memory = pool.kv_buffer.view(torch.uint8)
    data = torch.randint(0, 256, memory.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    subjects = ("HiCacheFile", *DEVICES)
    kinds = [f"{kind}{how}" for kind in ("set", "get", "reopened") for how in ("", " of processor")]
    found: dict[str, dict[str, list[float]]] = {subject: {kind: [] for kind in kinds} for subject in subjects}

    def into(subject: str, kind: str, moved: tuple[float, float]) -> None:
        for how, megabytes in zip(("", " of processor"), moved, strict=True):
            found[subject][kind + how].append(megabytes)

    for _ in range(rounds):
        for subject in subjects:
            place = Path(tempfile.mkdtemp(dir=path))
            for kind in ("get", "reopened"):
                made = backend(subject, place, pool, layout)
                set_pages, get_pages = moves(made, pool)
                if kind == "get":
                    memory.copy_(data)
                    into(subject, "set", rates(set_pages, pool, count, nbytes))
                memory.zero_()
                into(subject, kind, rates(get_pages, pool, count, nbytes))
                assert torch.equal(memory, data), f"{subject}: wrong bytes"
                getattr(made, "close", lambda: None)()
            shutil.rmtree(place)
    return found


def table(layout: str, nbytes: int, found: dict[str, dict[str, list[float]]]) -> str:
    theirs = found["HiCacheFile"]
    lines = [f"| {layout}, {nbytes >> 10} KiB | {' | '.join(theirs)} |", f"|---|{'---|' * len(theirs)}"]
    for subject, kinds in found.items():
        cells = []
        for kind, seen in kinds.items():
            ratio = statistics.median(a / b for a, b in zip(seen, theirs[kind], strict=True))
            cells.append(f"{statistics.median(seen):,.0f} ({ratio:.2f} ×)")
        lines.append(f"| {subject} | {' | '.join(cells)} |")
    return "\n".join(lines)


def there(arguments: list[str]) -> None:
    """Start again in the environment of `make doors`, where this is not it."""
    if os.environ.get("LMS_DOORS_ENGINE") == "sglang":
        return
    from scripts.doors import sglang
    from scripts.doors.environments import environment

    made = environment(sglang.ENGINE, sglang.ENGINE.newest, ROOT / ".doors")
    command = [str(made.python), "-m", "benchmarks.door_sglang", *arguments]
    sys.exit(subprocess.run(command, cwd=ROOT, env=dict(made.environ), check=False).returncode)


def main() -> None:
    """See the module."""
    there(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--path", type=Path, default=None)
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # copies of both: several threads that wait for each other measure how busy the machine is
    path = Path(tempfile.mkdtemp(dir=options.path))
    results = {}
    try:
        for nbytes in SHAPES:
            for layout in options.layout or LAYOUTS:
                found = measured(layout, nbytes, options.mib, options.rounds, path)
                results[f"{layout} {nbytes}"] = found
                print(table(layout, nbytes, found), flush=True)
    finally:
        shutil.rmtree(path)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
