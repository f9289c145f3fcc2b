"""`make interop`: LMCache's real client against this server, and LMCache's own server on this project's storage.

    python interop/run.py [--folder .interop] [--python PATH] [--json FILE]

Makes an environment of its own with LMCache 0.5.6 for the CPU (once; torch is pinned), then runs four checks:

1. its `LMCServerConnector` against `lms-tiers serve`: puts, gets and existence, byte for byte, over several sizes,
   formats and dtypes;
2. `python -m lmcache.v1.basic_check --mode test_remote` against `lms-tiers serve`;
3. a restart of `lms-tiers serve` over lmdb: the connector finds what it stored;
4. LMCache's own server, its `CreateStorageBackend` replaced by this project's, driven by the same connector.

Exit 0 when all pass, 1 when one fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
LMCACHE: Final = "lmcache==0.5.6"
TORCH: Final = "torch==2.13.0"
#: What LMCache needs to import on a machine without CUDA; its own requirements would bring CUDA libraries.
NEEDED: Final = (
    "numpy<=2.2.6", "pyyaml", "psutil", "nvtx", "msgspec", "aiofiles", "aiofile", "prometheus_client<=0.24.1", "pyzmq",
    "sortedcontainers", "blake3", "cachetools", "httpx", "aiohttp", "py-cpuinfo", "redis", "safetensors",
    "opentelemetry-api<=1.40.0", "opentelemetry-sdk", "numba", "requests", "transformers", "cryptography",
)  # fmt: skip


def environment(folder: Path) -> Path:
    """The interpreter of the environment with LMCache in it, made on first use."""
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists():
        print(f"making {folder} with {LMCACHE} (some minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, TORCH], check=True)
        subprocess.run([*install, "--no-deps", LMCACHE], check=True)
        subprocess.run([*install, *NEEDED], check=True)
        # This project runs in that environment too, inside LMCache's own server.
        subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), "-e", str(ROOT)], check=True)
        done.touch()
    return python


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server process that writes what it says to `log`; stopped by SIGTERM."""
    with log.open("wb") as said:
        child = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    try:
        for _ in range(900):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if child.poll() is not None:
                said_last = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {said_last}")
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{' '.join(command)} does not listen")
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def serve(device: str, port: int) -> list[str]:
    """The command of this project's server."""
    return [sys.executable, "-m", "lms_tiers", "serve", "--port", str(port), "--device", device]


class Checks:
    """The four checks; each raises, or answers one line of what it saw."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python = str(python)
        self.folder = folder
        self._log = folder / "server.log"

    def _connector(self, port: int, step: str) -> str:
        command = [self.python, str(HERE / "connector.py"), str(port), step]
        return self._run(command).strip().splitlines()[-1]

    def _run(self, command: list[str], **environ: str) -> str:
        env = {**os.environ, **environ}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise RuntimeError(f"exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def connector(self) -> str:
        """LMCache's connector against this server."""
        port = free_port()
        with server(serve("cpu?capacity=1GiB", port), port, self._log):
            return self._connector(port, "all")

    def basic_check(self) -> str:
        """LMCache's own check of a remote store."""
        port = free_port()
        config = self.folder / "basic_check.yaml"
        config.write_text(
            f'chunk_size: 256\nlocal_cpu: false\nmax_local_cpu_size: 0.5\nremote_url: "lm://127.0.0.1:{port}"\n'
            'remote_serde: "naive"\n'
        )
        with server(serve("cpu?capacity=1GiB", port), port, self._log):
            command = [self.python, "-m", "lmcache.v1.basic_check", "--mode", "test_remote", "--num-keys", "20"]
            output = self._run(command, LMCACHE_CONFIG_FILE=str(config))
        rates = re.findall(r"\| (EXISTS \(non-exist\)|PUT|EXISTS \(exist\)|GET) +\|.*?(\d+)/(\d+)", output)
        if len(rates) != 4 or any(passed != total for _, passed, total in rates) or "Test Failed" in output:
            raise RuntimeError(output[-3000:])
        return ", ".join(f"{name} {passed}/{total}" for name, passed, total in rates)

    def _tiers(self, name: str) -> str:
        """Two tiers, the lower one empty: what an earlier run left must not be found."""
        store = self.folder / name
        shutil.rmtree(store, ignore_errors=True)
        return f"cpu?capacity=64MiB > lmdb:{store}?capacity=512MiB"

    def restart(self) -> str:
        """The cache is there again after a restart."""
        device = self._tiers("lmdb")
        port = free_port()
        with server(serve(device, port), port, self._log):
            self._connector(port, "store")
        with server(serve(device, port), port, self._log):
            return self._connector(port, "find")

    def storage(self) -> str:
        """LMCache's server on this project's storage."""
        port = free_port()
        device = self._tiers("hosted")
        with server([self.python, str(HERE / "lmcache_server.py"), "127.0.0.1", str(port), device], port, self._log):
            return self._connector(port, "all")


def main() -> int:
    """Run the checks; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".interop")
    parser.add_argument(
        "--python", type=Path, help="an interpreter with LMCache and this project, instead of a new one"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    checks = Checks(options.python or environment(options.folder.resolve()), options.folder.resolve())
    named: dict[str, Callable[[], str]] = {
        "LMCServerConnector against lms-tiers serve": checks.connector,
        "lmcache.v1.basic_check --mode test_remote against lms-tiers serve": checks.basic_check,
        "LMCServerConnector after a restart over lmdb": checks.restart,
        "LMCache's server on lms_tiers.CreateStorageBackend": checks.storage,
    }
    results = {}
    for name, check in named.items():
        try:
            results[name] = {"passed": True, "saw": check()}
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            results[name] = {"passed": False, "saw": str(error)}
        print(f"{'ok    ' if results[name]['passed'] else 'FAILED'} {name}: {results[name]['saw']}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(result["passed"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
