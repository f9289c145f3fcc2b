"""How soon a server answers and how much memory it holds, beside a bare interpreter and one that imports torch.

Each is started several times, one at a time, from files that are in the page cache; the best and the median are told.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds after which a server that does not answer is given up.
_PATIENCE = 60.0
_LOOK = 0.002


def ran(code: str) -> tuple[float, float]:
    """Seconds until an interpreter that runs `code` has ended, and its peak of resident memory in MiB."""
    code += "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - begin, int(done.stdout) / 1024


def served(device: str) -> tuple[float, float]:
    """Seconds from the start of `lms-tiers serve` to its first connection, and its resident memory then in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/socket"
        command = [sys.executable, "-m", "lms_tiers", "serve", "--unix", place, "--device", device.format(tmp=folder)]
        begin = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            while not connects(place):
                if child.poll() is not None or time.perf_counter() - begin > _PATIENCE:
                    child.kill()
                    raise SystemExit(f"the server did not start: {child.communicate()[1]}")
                time.sleep(_LOOK)
            ready = time.perf_counter() - begin
            status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            return ready, next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
        finally:
            child.terminate()
            child.communicate()


def connects(place: str) -> bool:
    """Whether something listens on the Unix socket at `place`."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(place) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    measured: dict[str, Callable[[], tuple[float, float]]] = {
        "python -c pass": lambda: ran("pass"),
        "import torch": lambda: ran("import torch"),
        "import lms_tiers.server.run": lambda: ran("import lms_tiers.server.run"),
        "serve, cpu": lambda: served("cpu?capacity=16MiB"),
        "serve, cpu > lmdb": lambda: served("cpu?capacity=16MiB > lmdb:{tmp}/kv?capacity=64MiB"),
    }
    print(f"{'':28} {'best s':>8} {'median s':>9} {'MiB':>7}")
    for name, measure in measured.items():
        runs = [measure() for _ in range(rounds + 1)][1:]  # the first brings the files into the page cache
        times = [seconds for seconds, _ in runs]
        print(f"{name:28} {min(times):8.2f} {statistics.median(times):9.2f} {max(mib for _, mib in runs):7.0f}")


if __name__ == "__main__":
    main()
