"""`pinned` and `gpu` beside the machine's own ceilings, in one run; on a machine without an accelerator the host part.

    python benchmarks/accelerator.py [--rounds 15] [--wheels DIR] [--conform quick] [--json FILE]

`make gpu-check` runs it with the conformance kit. It needs this repository, torch and numpy; what else is missing
(lmdb, zstandard, say) is taken from the wheels in DIR. Exit status 1 where conformance fails or bytes are wrong, and
with --strict also where a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.accelerator_rates import Rate

ROOT: Final = Path(__file__).resolve().parent.parent
#: Import names, and the distributions that carry them.
NEEDED: Final = {
    "pluggy": "pluggy",
    "pydantic": "pydantic pydantic-core annotated-types typing-inspection typing-extensions",
    "typer": "typer",
    "rich": "rich",
    "lmdb": "lmdb",
    "xxhash": "xxhash",
    "zstandard": "zstandard",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15, help="turns each figure is the median of")
    arguments.add_argument("--wheels", type=Path, help="folder of wheels for what this Python lacks")
    arguments.add_argument("--conform", metavar="PROFILE", help="also run the conformance kit: quick, ci or nightly")
    arguments.add_argument("--strict", action="store_true", help="exit 1 where a goal is missed")
    arguments.add_argument("--json", type=Path, help="write everything as JSON")
    given = arguments.parse_args()
    with carried(given.wheels):
        sys.path[:0] = [str(ROOT), str(ROOT / "conformance")]
        return run(given)


@contextmanager
def carried(wheels: Path | None) -> Iterator[None]:
    """Modules this Python lacks, unpacked from wheels into a folder for as long as the run takes."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        yield
        return
    files = sorted(map(str, wheels.glob("*.whl"))) if wheels is not None and wheels.is_dir() else []
    if not files:
        names = " ".join(NEEDED[name] for name in missing)
        raise SystemExit(f"this Python lacks {names}: install them, or name a folder of their wheels with --wheels")
    site = tempfile.mkdtemp(prefix="lms-tiers-wheels-")
    try:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--target",
            site,
        ]
        subprocess.run([*pip, *files], check=True)
        # Behind everything installed: only what is missing comes from here.
        sys.path.append(site)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), site]))
        yield
    finally:
        shutil.rmtree(site, ignore_errors=True)


def run(given: argparse.Namespace) -> int:
    import torch

    from benchmarks.accelerator_rates import SIZES, Device, beside_a_kernel, device_rates, host_rates, small_operations

    accelerator = torch.accelerator.is_available()
    result: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    rates: list[Rate] = []
    with open_bare("pinned?capacity=1GiB&prefault=true") as pinned:
        result["page_locked"] = bool(pinned.stats().detail["page_locked"])
        for size, nbytes in SIZES.items():
            rates += host_rates(pinned, size, nbytes, given.rounds)
    if accelerator:
        device = Device()
        result["device"] = device.name
        with open_bare("gpu:0?capacity=2GiB") as gpu, open_bare("pinned?capacity=1GiB") as pinned:
            for size, nbytes in SIZES.items():
                rates += device_rates(device, gpu, pinned, size, nbytes, given.rounds)
            result["us_at_64_kib"] = {k: round(v, 2) for k, v in small_operations(device, gpu, given.rounds).items()}
            result["beside_a_kernel"] = beside_a_kernel(device, gpu)
    result["rates"] = [rate.row() for rate in rates]
    if given.conform:
        result["conformance"] = conform(given.conform, accelerator)
    missed = show(result, rates, accelerator)
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    wrong = any(not entry["ok"] for entry in result.get("conformance", []))
    wrong |= not result.get("beside_a_kernel", {}).get("right", True)
    return 1 if wrong or (given.strict and missed) else 0


def open_bare(text: str) -> Any:
    from lms_tiers.device import parse_device
    from lms_tiers.factory import open_backend

    return open_backend(parse_device(text).tiers[0])


def conform(profile: str, accelerator: bool) -> list[dict[str, Any]]:
    """The kit over the bare backends and over tiers of them."""
    from lms_conformance.devices import DeviceHarness
    from lms_conformance.harness import FactoryHarness, Harness
    from lms_conformance.run import run_properties

    def bare(text: str) -> Harness:
        return FactoryHarness(lambda path, capacity: open_bare(text.format(capacity=capacity or 64 << 20)), text)

    first = "gpu:0" if accelerator else "gpu:cpu"
    tiers = first + "?capacity={capacity} > pinned?capacity={capacity} > lmdb:{tmp}/lmdb?capacity={capacity}"
    subjects = {
        "pinned": bare("pinned?capacity={capacity}B"),
        first: bare(first + "?capacity={capacity}B"),
        f"{first} > pinned > lmdb": DeviceHarness(tiers),
    }
    found = []
    for name, harness in subjects.items():
        report = run_properties(harness, profile=profile)
        failed = [r.id for r in report.results if r.red]
        found.append({"subject": name, "ok": report.ok, "badge": report.badge, "failed": failed})
        print(f"{name}: {report.badge}{' failed: ' + ' '.join(failed) if failed else ''}", flush=True)
    return found


def machine() -> dict[str, Any]:
    import torch

    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(), "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip


def show(result: dict[str, Any], rates: list[Rate], accelerator: bool) -> int:
    """The tables; answers how many goals were missed."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110)
    where = result.get("device", "no accelerator: host memory only")
    table = Table(title=f"{where} · {result['machine']['cpu']} · torch {result['machine']['torch']}")
    for column in ("what", "chunk", "GB/s", "ceiling", "its GB/s", "ratio", "goal"):
        table.add_column(column, justify="left" if column in ("what", "ceiling") else "right")
    missed = 0
    for rate in rates:
        short = rate.goal is not None and rate.ratio < rate.goal
        missed += short
        colour = "red" if short else "green" if rate.goal is not None else ""
        ratio = f"[{colour}]{rate.ratio:.2f}[/]" if colour else f"{rate.ratio:.2f}"
        goal = "" if rate.goal is None else f"{rate.goal:.2f}"
        table.add_row(rate.what, rate.size, f"{rate.gb_s:.2f}", rate.ceiling, f"{rate.ceiling_gb_s:.2f}", ratio, goal)
    console.print(table)
    if accelerator:
        console.print("64 KiB, µs an operation (goal 30):", result["us_at_64_kib"])
        missed += sum(us > 30 for us in result["us_at_64_kib"].values())
        beside = result["beside_a_kernel"]
        missed += not beside["kernel_still_running"]
        console.print("64 MiB in and out beside a busy default stream:", beside)
    return missed


if __name__ == "__main__":
    sys.exit(main())
