"""LMCache: installed without its dependencies; what it needs to be imported for the CPU is named here.

Its tools are judged by what they print: they end with 0 whatever became of the adapter.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from scripts.doors.engine import ROOT, Check, Engine, Failed, Made

_KEYS: Final = 32


def _adapter(scratch: Path) -> str:
    device = f"lmdb:{scratch / 'kv'}?capacity=1GiB&codec=raw&sync=none"
    ours = {"type": "plugin", "module_path": "lms_tiers.doors.lmcache", "class_name": "L2Adapter"}
    return json.dumps({**ours, "adapter_params": {"device": device}})


def judged_check(printed: str, count: int) -> str:
    """What `basic_check --mode test_l2_adapter` saw.

    Raises
    ------
    Failed
        One of its counts is not `count` of `count`, or is missing.
    """
    wanted = ["correctly absent", "found", "(loaded)", "(content)"]
    seen = re.findall(r"Validation(?: (\(\w+\)))?: (\d+)/(\d+)(?: (correctly absent|found))?", printed)
    passed = [before or after for before, right, total, after in seen if right == total == str(count)]
    if passed != wanted or "Batch store OK" not in printed or "Test Failed" in printed:
        raise Failed(printed[-3000:])
    return f"{count}/{count} absent, stored, found, loaded, content"


def judged_bench(printed: str, operations: dict[str, int], count: int) -> str:
    """What `lmcache bench l2` saw: every round of every operation has done what it should with `count` keys.

    Parameters
    ----------
    operations : mapping of str to int
        Rounds of each of Store, Lookup and Load.

    Raises
    ------
    Failed
    """
    for operation, rounds in operations.items():
        lines = re.findall(rf"\[{operation}\] Round \d+: .*=(\d+)/(\d+)", printed)
        if len(lines) != rounds or any(pair != (str(count), str(count)) for pair in lines):
            raise Failed(f"{operation}: {lines}: {printed[-3000:]}")
    if "TIMEOUT" in printed or "MISMATCH" in printed:
        raise Failed(printed[-3000:])
    return ", ".join(f"{operation.lower()} {rounds} × {count}" for operation, rounds in operations.items())


def _basic_check(made: Made) -> str:
    printed = made.run(
        "-m", "lmcache.v1.basic_check", "--mode", "test_l2_adapter", "--model", "m", "--num-keys", "16",
        "--obj-size", "1048576", "--kv-dtype", "bfloat16", "--l2-adapter", _adapter(made.scratch),
    )  # fmt: skip
    return judged_check(printed, 16)


def _bench(made: Made, *more: str) -> str:
    return made.run(
        "-m", "lmcache.cli.main", "bench", "l2", "--no-skip-verify", "--num-keys", str(_KEYS), "--data-size-kb", "2048",
        "--rounds", "3", "--lookup-max-hit-rate", "1", *more, "--l2-adapter", _adapter(made.scratch),
    )  # fmt: skip


def _benched(made: Made) -> str:
    printed = _bench(made)
    if f"All {_KEYS} keys data verified OK" not in printed:
        raise Failed(printed[-3000:])
    seen = judged_bench(printed, {"Store": 4, "Lookup": 4, "Load": 4}, _KEYS)
    return (
        f"{seen}, verified; warm in a new process: {judged_bench(_bench(made, '--only', 'load'), {'Load': 4}, _KEYS)}"
    )


def _port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def _asked(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def _server(made: Made) -> str:
    _bench(made, "--only", "store")
    port, log = _port(), made.log.with_suffix(".server.log")
    command = [
        str(made.python), "-m", "lmcache.cli.main", "server", "--l1-size-gb", "0.25", "--no-l1-use-lazy",
        "--eviction-policy", "LRU", "--port", _port(), "--http-port", port, "--prometheus-port", _port(),
        "--l2-adapter", _adapter(made.scratch),
    ]  # fmt: skip
    with (
        log.open("wb") as said,
        subprocess.Popen(command, cwd=ROOT, env=made.environ, stdout=said, stderr=said) as child,
    ):
        try:
            for _ in range(1200):
                try:
                    status = _asked(f"http://127.0.0.1:{port}/status")["storage_manager"]["l2_adapters"][0]
                    break
                except OSError:
                    if child.poll() is not None:
                        break
                    time.sleep(0.1)
            else:
                child.kill()
            if child.poll() is not None:
                raise Failed(log.read_text(errors="replace")[-3000:])
            listed = _asked(f"http://127.0.0.1:{port}/cache/objects?page_size=5000")["entries"]
        finally:
            child.terminate()
    if not status["is_healthy"] or not status["keys"] == len(listed) == 4 * _KEYS:
        raise Failed(f"{len(listed)} keys are listed, and it says {status}")
    warm = judged_bench(_bench(made, "--only", "load"), {"Load": 4}, _KEYS)
    return f"healthy, lists the {len(listed)} keys that are there; after it: {warm}"


def judged_remote(printed: str, count: int) -> str:
    """What `basic_check --mode test_remote` saw.

    Raises
    ------
    Failed
    """
    rates = re.findall(r"\| (EXISTS \(non-exist\)|PUT|EXISTS \(exist\)|GET) +\|.*?(\d+)/(\d+)", printed)
    if len(rates) != 4 or any(rate[1:] != (str(count), str(count)) for rate in rates):
        raise Failed(printed[-3000:])
    if "Test Failed" in printed:
        raise Failed(printed[-3000:])
    return f"{count}/{count} absent, put, found, got"


def _remote(made: Made) -> str:
    port = _port()
    command = [sys.executable, "-m", "lms_tiers", "serve", "--port", port, "--device", "cpu?capacity=1GiB"]
    plugin = {
        "module_path": "lms_tiers.doors.lmcache",
        "class_name": "ConnectorAdapter",
        "device": f"lm:127.0.0.1:{port}",
    }
    extra = {f"remote_storage_plugin.lms.{name}": value for name, value in plugin.items()}
    with (
        made.log.with_suffix(".server.log").open("wb") as out,
        subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as child,
    ):
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                    break
                time.sleep(0.1)
            printed = made.run(
                "-m", "lmcache.v1.basic_check", "--mode", "test_remote", "--num-keys", "20", seconds=300,
                LMCACHE_CHUNK_SIZE="256", LMCACHE_LOCAL_CPU="false", LMCACHE_MAX_LOCAL_CPU_SIZE="0.5",
                LMCACHE_REMOTE_SERDE="naive", LMCACHE_REMOTE_URL="plugin://lms", LMCACHE_REMOTE_STORAGE_PLUGINS="lms",
                LMCACHE_EXTRA_CONFIG=json.dumps(extra),
            )  # fmt: skip
        finally:
            child.terminate()
    if "Creating connector for URL: plugin://lms" not in printed:
        raise Failed(printed[-3000:])
    return judged_remote(printed, 20)


ENGINE: Final = Engine(
    name="lmcache",
    package="lmcache",
    newest="0.5.6",
    needs=(
        "numpy<=2.2.6", "pyyaml", "psutil", "nvtx", "msgspec", "aiofiles", "aiofile", "prometheus_client<=0.24.1",
        "pyzmq", "sortedcontainers", "blake3", "cachetools", "httpx", "aiohttp", "py-cpuinfo", "redis", "safetensors",
        "opentelemetry-api<=1.40.0", "opentelemetry-sdk", "opentelemetry-exporter-prometheus",
        "opentelemetry-exporter-otlp-proto-grpc", "numba", "requests", "transformers", "cryptography", "fastapi",
        "openai", "uvicorn",
    ),
    sources=False,
    tests="tests/doors/lmcache",
    environ={"PYTHONHASHSEED": "0"},
    checks=(
        Check("`basic_check --mode test_l2_adapter`", _basic_check),
        Check("`bench l2`, 2 MiB", _benched),
        Check("connector, `basic_check --mode test_remote`", _remote),
        Check("`lmcache server`, restarted", _server, quick=False),
    ),
)  # fmt: skip
