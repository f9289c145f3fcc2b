"""Codecs on real KV bytes beside blosc2 and ZipNN: one run, one thread (CPU time), in turn, medians; then two threads.

Each turn begins with an untimed call, as if the chunk were one of many: without it, whoever follows another of our own
codecs finds our code and buffers in the caches, and whoever follows memcpy does not.

    python benchmarks/codecs.py [--rounds 15] [--json FILE] [--markdown FILE] [--only bf16,fp16]

The KV tensors are found through LMS_TIERS_SHARED or ../shared; fp16, fp8 and int8 are made from the fp32 file. Peers
that are not installed are shown as such (`pip install blosc2 zipnn`, ZipNN wants torch). MB/s of uncompressed bytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lms_tiers.codecs.base import decode_into, encode_bound  # noqa: E402  # runs from a checkout, without installing
from lms_tiers.codecs.catalog import built_in  # noqa: E402
from lms_tiers.codecs.workers import Crew  # noqa: E402

CHUNK: Final = 2_359_296  # [2, 6, 256, 384] of two bytes
#: Name, dtype, bytes per value, the least ratio. Floors beside blosc2: encoding, decoding; a second thread; noise.
KINDS: Final = {
    "bf16": ("bfloat16", 2, 1.49), "fp16": ("float16", 2, 1.17), "fp32": ("float32", 4, 1.19),
    "e5m2": ("float8_e5m2", 1, 1.41), "e4m3": ("float8_e4m3fn", 1, 1.21), "int8": ("int8", 1, None),
}  # fmt: skip
ENCODE, DECODE, TWO, NOISE = 2.0, 1.2, 1.8, 0.9
OURS: Final = ("auto", "planes", "zstd:1", "raw")


@dataclass
class Contender:
    """`prepare` is not timed; `encode` answers what `decode` takes; `size` its bytes; `decode` answers the data."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    size: Callable[[Any], int]
    prepare: Callable[[bytes], Any] = memoryview


def tensors(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def real_bytes(shared: Path) -> dict[str, bytes]:
    import torch

    single = tensors(shared / "kv" / "minilm_kv_fp32.safetensors")
    t = torch.frombuffer(bytearray(single), dtype=torch.float32)
    rows = t.view(-1, 384)
    scale = rows.abs().amax(1, keepdim=True) / 127

    def flat(values: torch.Tensor) -> bytes:
        return values.contiguous().view(torch.uint8).numpy().tobytes()

    return {
        "bf16": tensors(shared / "kv" / "minilm_kv_bf16.safetensors"),
        "fp16": flat(t.to(torch.float16)),
        "fp32": single,
        "e5m2": flat(t.to(torch.float8_e5m2)),
        "e4m3": flat(t.to(torch.float8_e4m3fn)),
        "int8": flat(torch.round(rows / scale).to(torch.int8)),
    }


def ours(name: str, dtype: str, crew: Crew | None = None) -> Contender:
    codec = built_in().make(name)
    scratch = memoryview(bytearray(encode_bound(CHUNK)))
    target = memoryview(bytearray(CHUNK))

    def decode(encoded: Any) -> memoryview:
        out = target[: encoded[1]]
        decode_into(encoded[0].layout, encoded[0].block_bytes, encoded[0].blocks, out, codec=codec, crew=crew)
        return out

    def encode(data: memoryview) -> Any:
        return codec.encode(data, dtype, out=scratch, crew=crew), len(data)

    return Contender(encode, decode, lambda e: e[0].nbytes)


def memcpy() -> Contender:
    target = np.empty(CHUNK, np.uint8)
    back = np.empty(CHUNK, np.uint8)

    def copy(source: Any, to: Any) -> Any:
        flat = np.frombuffer(source, np.uint8)
        np.copyto(to[: len(flat)], flat)
        return to[: len(flat)].data

    return Contender(lambda data: copy(data, target), lambda data: copy(data, back), len)


def blosc(width: int) -> Contender:
    import blosc2

    options: dict[str, Any] = {
        "codec": blosc2.Codec.ZSTD, "clevel": 1, "typesize": width, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1,
    }  # fmt: skip
    target = bytearray(CHUNK)

    def decode(packed: tuple[bytes, int]) -> memoryview:
        out = memoryview(target)[: packed[1]]
        blosc2.decompress2(packed[0], dst=out, nthreads=1)
        return out

    return Contender(lambda d: (blosc2.compress2(d, **options), len(d)), decode, lambda p: len(p[0]), bytes)


def zipnn(dtype: str) -> Contender:
    from zipnn import ZipNN

    coder = ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)
    # It reorders its input in place: each round gets a copy of its own.
    return Contender(coder.compress, coder.decompress, len, bytearray)


def contenders(kind: str) -> dict[str, Contender | str]:
    dtype, width, _ = KINDS[kind]
    found: dict[str, Contender | str] = {name: ours(name, dtype) for name in OURS}
    peers: dict[str, Callable[[], Contender]] = {"blosc2": lambda: blosc(width), "ZipNN": lambda: zipnn(dtype)}
    for name, make in peers.items():
        try:
            found[name] = make()
        except ImportError:
            found[name] = "not installed"
        except Exception as error:  # a peer that does not take this dtype is a row that says so
            found[name] = f"refuses: {error}"[:40]
    found["memcpy"] = memcpy()
    return found


def timed(call: Callable[[Any], Any], value: Any, clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    # CPU time of the whole process: waiting for a core does not count, and a peer's own threads (ZipNN's) do.
    start = clock()
    result = call(value)
    return clock() - start, result


def one_thread(kind: str, data: bytes, rounds: int) -> list[dict[str, Any]]:
    chunks = [data[i : i + CHUNK] for i in range(0, len(data) - CHUNK + 1, CHUNK)] or [data]
    runs = contenders(kind)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    sizes: dict[str, dict[int, int]] = {name: {} for name in runs}
    for i in range(rounds + 2):
        which = i % len(chunks)
        chunk = chunks[which]
        for name, run in list(runs.items()):
            if isinstance(run, str):
                continue
            try:
                # Once untimed: nobody's turn begins with the caches that another's has left.
                run.decode(run.encode(run.prepare(chunk)))
                prepared = run.prepare(chunk)
                encode, coded = timed(run.encode, prepared)
                sizes[name][which] = run.size(coded)
                decode, out = timed(run.decode, coded)
            except Exception as error:  # as above
                runs[name] = f"fails: {error}"[:40]
                continue
            if bytes(out) != chunk:
                runs[name] = "gives other bytes"
            elif i >= 2:
                times[name][0].append(encode / len(chunk))
                times[name][1].append(decode / len(chunk))
    rows = []
    for name, run in runs.items():
        row: dict[str, Any] = {"dtype": kind, "codec": name}
        if isinstance(run, str):
            row["note"] = run
        else:
            total = sum(len(chunks[i]) for i in sizes[name])
            row["ratio"] = total / sum(sizes[name].values())
            row["encode_mb_s"], row["decode_mb_s"] = (1e-6 / statistics.median(t) for t in times[name])
        rows.append(row)
    return rows


def calls(dtype: str, data: bytes, direction: str, crew: Crew | None = None) -> Callable[[], float]:
    """One call of the codec that answers its seconds."""
    run = ours("planes", dtype, crew)
    coded = run.encode(memoryview(data))
    call, value = (run.encode, memoryview(data)) if direction == "encode" else (run.decode, coded)
    return lambda: timed(call, value, time.perf_counter)[0]


def rate(dtype: str, data: bytes, direction: str, seconds: float) -> float:
    """Calls a second in this process."""
    call = calls(dtype, data, direction)
    end = time.perf_counter() + seconds
    spent = [call()]
    while time.perf_counter() < end:
        spent.append(call())
    return 1 / statistics.median(spent)


def scaling(kind: str, data: bytes, seconds: float = 0.5) -> list[dict[str, Any]]:
    """What a second thread brings, call by call in turn, beside what a second process brings at about the same time."""
    dtype = KINDS[kind][0]
    chunk = data[:CHUNK]
    rows = []
    with multiprocessing.get_context("fork").Pool(2) as pool, Crew(1) as crew:
        for direction in ("encode", "decode"):
            one, two = calls(dtype, chunk, direction), calls(dtype, chunk, direction, crew)
            gains, apart = [], []
            for _ in range(3):
                gains += [one() / two() for _ in range(60)]
                alone = pool.apply(rate, (dtype, chunk, direction, seconds))
                apart.append(sum(pool.starmap(rate, [(dtype, chunk, direction, seconds)] * 2)) / alone)
            gains = statistics.quantiles(gains, n=10)
            rows.append(
                {"dtype": kind, "direction": direction, "two_threads": gains[4], "two_threads_p90": gains[8],
                 "two_processes": statistics.median(apart)}
            )  # fmt: skip
    return rows


def incompressible(rounds: int) -> dict[str, float]:
    """Storing noise through `auto` against storing it raw: encode, then copy the blocks to where they are kept."""
    noise = memoryview(np.random.default_rng(1).bytes(CHUNK))
    kept = np.empty(CHUNK, np.uint8)
    scratch = memoryview(bytearray(encode_bound(CHUNK)))
    spent: dict[str, list[float]] = {"auto": [], "raw": []}
    codecs = {name: built_in().make(name) for name in spent}

    def store(name: str) -> None:
        at = 0
        for block in codecs[name].encode(noise, "bfloat16", out=scratch).blocks:
            np.copyto(kept[at : at + len(block)], np.frombuffer(block, np.uint8))
            at += len(block)

    for _ in range(rounds * 4):
        for name, times in spent.items():
            times.append(timed(store, name)[0])
    medians = {name: statistics.median(times) for name, times in spent.items()}
    return {"auto_of_raw": medians["raw"] / medians["auto"], "raw_mb_s": CHUNK / medians["raw"] / 1e6}


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="one thread, MB/s of uncompressed bytes by CPU time, medians")
    for column in ("dtype", "codec", "ratio", "encode", "decode", "of blosc2: encode", "decode"):
        table.add_column(column, justify="left" if column in ("dtype", "codec") else "right")
    blosc_rows = {r["dtype"]: r for r in result["one_thread"] if r["codec"] == "blosc2" and "note" not in r}
    for row in result["one_thread"]:
        if "note" in row:
            table.add_row(row["dtype"], row["codec"], row["note"], "", "", "", "")
            continue
        peer = blosc_rows.get(row["dtype"])
        against = [f"{row[k] / peer[k]:.2f}" if peer else "–" for k in ("encode_mb_s", "decode_mb_s")]
        least = KINDS[row["dtype"]][2]
        mark = "" if row["codec"] != "auto" or least is None else (" ✓" if row["ratio"] >= least else f" < {least}")
        table.add_row(
            row["dtype"], row["codec"], f"{row['ratio']:.4f}{mark}", f"{row['encode_mb_s']:,.0f}",
            f"{row['decode_mb_s']:,.0f}", *against,
        )  # fmt: skip
    console.print(table)
    table = Table(title="a second core: speed against one thread")
    for column in ("dtype", "direction", "two threads", "two processes (what the machine gives)"):
        table.add_column(column)
    for row in result["two"]:
        threads = f"{row['two_threads']:.2f} (9th decile {row['two_threads_p90']:.2f})"
        table.add_row(row["dtype"], row["direction"], threads, f"{row['two_processes']:.2f}")
    console.print(table)
    noise = result["incompressible"]
    console.print(f"noise through auto: {noise['auto_of_raw']:.3f} of raw ({noise['raw_mb_s']:,.0f} MB/s)")


def markdown(result: dict[str, Any]) -> str:
    """The fragment of docs/benchmarks.md; what misses its floor is bold."""

    def floor(value: float, least: float | None, digits: int = 2) -> str:
        text = f"{value:.{digits}f}"
        return text if least is None or value >= least else f"**{text}**"

    rows = {(row["dtype"], row["codec"]): row for row in result["one_thread"]}
    copies = [row["encode_mb_s"] for row in result["one_thread"] if row["codec"] == "memcpy"]
    machine, versions = result["machine"], result["versions"]
    noise = result["incompressible"]
    lines = [
        "## Codecs",
        "",
        "`python benchmarks/codecs.py --markdown docs/bench/codecs.md`: real KV bytes, peers beside us in the same",
        f"run, in turn, each turn begun with an untimed call, one thread, medians of {result['rounds']} by CPU time,",
        "split and merge included.",
        f"{result['date']}, {machine['cores']} cores of {machine['cpu']}, Python {versions['python']},",
        f"numpy {versions['numpy']}, zstandard {versions['zstandard']}, blosc2 {versions['blosc2']} (zstd 1,",
        f"byte shuffle), ZipNN {versions['zipnn']}. The memcpy",
        f"ceiling of the run, warm buffers: {min(copies):,.0f} to {max(copies):,.0f} MB/s. Bold: below the floor.",
        "",
        f"| dtype | ratio (least) | blosc2 | ZipNN | `auto` encode / decode, MB/s | encode of blosc2 (≥ {ENCODE:.0f}) |"
        f" decode of blosc2 (≥ {DECODE}) | encode / decode of ZipNN |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, (_, _, least) in KINDS.items():
        mine, peer, other = (rows.get((kind, name), {}) for name in ("auto", "blosc2", "ZipNN"))
        if "ratio" not in mine or "ratio" not in peer:
            continue
        encode, decode = (mine[k] / peer[k] for k in ("encode_mb_s", "decode_mb_s"))
        asked = least is not None  # a ratio is asked of the floats, and speed with it
        zipnn = ["refuses", "–"]
        if "ratio" in other:
            speeds = [mine[k] / other[k] for k in ("encode_mb_s", "decode_mb_s")]
            zipnn = [f"{other['ratio']:.4f}", f"{floor(speeds[0], 1)} / {speeds[1]:.2f}"]
        lines.append(
            f"| {kind} | {floor(mine['ratio'], least, 4)} ({least or '–'}) | {peer['ratio']:.4f} "
            f"| {zipnn[0]} | {mine['encode_mb_s']:,.0f} / {mine['decode_mb_s']:,.0f} "
            f"| {floor(encode, ENCODE if asked else None)} | {floor(decode, DECODE if asked else None)} | {zipnn[1]} |"
        )
    lines += [
        "",
        f"A second thread on one chunk of {CHUNK / 1e6:.1f} MB, against one (≥ {TWO}), calls in turn, wall time,",
        "median and 9th decile; beside it what a second process brings, which is what the machine had to give:",
        "",
        "| dtype | encode | two processes | decode | two processes |",
        "|---|---|---|---|---|",
    ]
    two = {(row["dtype"], row["direction"]): row for row in result["two"]}
    for kind in KINDS:
        if (kind, "encode") in two:
            cells = [
                f"{floor(row['two_threads'], TWO)} ({row['two_threads_p90']:.2f}) | {row['two_processes']:.2f}"
                for row in (two[kind, "encode"], two[kind, "decode"])
            ]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Noise through `auto`: {floor(noise['auto_of_raw'], NOISE, 3)} of the speed of copying it raw"
        f" ({noise['raw_mb_s']:,.0f} MB/s; floor {NOISE}).",
        "",
        "What was tried for the figures in bold: [Codecs](codecs.md).",
    ]
    return "\n".join(lines) + "\n"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    shared = Path(os.environ.get("LMS_TIERS_SHARED", HERE.parents[1] / "shared"))
    if not (shared / "kv").is_dir():
        raise SystemExit(f"no KV tensors at {shared}: set LMS_TIERS_SHARED")
    data = real_bytes(shared)
    kinds = options.only.split(",")
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "rounds": options.rounds,
        "machine": {"cpu": processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()}
        | {name: installed(name) for name in ("numpy", "zstandard", "blosc2", "zipnn")},
        "one_thread": [row for kind in kinds for row in one_thread(kind, data[kind], options.rounds)],
        "two": [row for kind in kinds for row in scaling(kind, data[kind])],
        "incompressible": incompressible(options.rounds),
    }
    show(result, Console(width=110))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(result))


if __name__ == "__main__":
    main()
