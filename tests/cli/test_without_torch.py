"""What only moves bytes has no torch in its process, and is small: the server, the client, the tools of a store, a replay."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from lms_tiers import ChunkMeta, CreateStorageBackend, MemoryFormat, OpaqueKey

pytestmark = pytest.mark.leaks_allowed

MIB = 1 << 20
#: What a process that serves or inspects bytes has no use for.
HEAVY = ("torch", "hypothesis", "matplotlib", "pytest")
#: Peak resident memory of such a process (VmHWM: anonymous and file-backed pages together), in MiB.
SMALL = 90

#: Runs `body`, then tells on standard error what was imported and the peak of resident memory.
WATCHED = """
import json, sys
def tell():
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({{"loaded": sorted(sys.modules), "peak": peak / 1024}}), file=sys.stderr)
try:
{body}
finally:
    tell()
"""
COMMAND = """
    from lms_tiers.cli import main
    main()
"""
READ_BACK = """
    import runpy
    runpy.run_module("lms_tiers.replay.restart", run_name="__main__")
"""
ROUND_TRIP = """
    from lms_tiers import ChunkMeta, MemoryFormat, OpaqueKey
    from lms_tiers.client import Client
    meta = ChunkMeta(300_000, MemoryFormat.KV_2LTD, "bfloat16", (2, 1, 75_000))
    with Client(sys.argv[1]) as client:
        assert client.get(OpaqueKey("absent")) is None
        client.put(meta.message(OpaqueKey("k")), bytearray(b"x" * 300_000))
        found = client.get(OpaqueKey("k"))
        assert bytes(found.data) == b"x" * 300_000
        into = bytearray(300_000)
        assert client.get_into(OpaqueKey("k"), into) == meta
        assert into == found.data
        assert [key.to_string() for key in client.list_keys()] == ["k"]
        client.flush(60)
"""


def start(body: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WATCHED.format(body=body), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(child: subprocess.Popen[str]) -> str:
    """The output of a child that ended well, small and without anything heavy."""
    out, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    report: dict[str, Any] = json.loads(errors.splitlines()[-1])
    assert not set(HEAVY) & set(report["loaded"])
    assert report["peak"] < SMALL
    return out


@dataclass
class Served:
    child: subprocess.Popen[str]
    address: str = ""
    metrics: str = ""
    store: Path = field(default_factory=Path)


@contextmanager
def serving(store: Path) -> Iterator[Served]:
    device = f"cpu?capacity=1MiB > lmdb:{store}?capacity=32MiB"
    child = start(COMMAND, "serve", "--port", "0", "--device", device, "--metrics-port", "0")
    served = Served(child, store=store)
    try:
        lines: IO[str] | None = child.stdout
        assert lines is not None
        for line in lines:
            if line.startswith("listening on "):
                served.address = line.split()[2]
            if line.startswith("metrics on "):
                served.metrics = line.split()[2]
            if line.startswith("point lms-tiers at it"):
                break
        else:
            raise AssertionError(child.communicate()[1])
        yield served
    finally:
        child.kill()
        child.communicate()


def test_a_server_its_client_and_stats_move_bytes_without_torch(tmp_path: Path) -> None:
    with serving(tmp_path / "kv") as served:
        told(start(ROUND_TRIP, served.address))
        assert "lmdb" in told(start(COMMAND, "stats", served.metrics))
        served.child.send_signal(signal.SIGTERM)
        told(served.child)


@pytest.mark.parametrize("command", ["check", "inspect", "compact"])
def test_the_tools_of_a_store_work_without_torch(command: str, tmp_path: Path) -> None:
    meta = ChunkMeta(6000, MemoryFormat.KV_2LTD, "bfloat16", (2, 1500))
    with CreateStorageBackend(f"lmdb:{tmp_path}/kv?capacity=32MiB&codec=planes") as backend:
        for i in range(20):
            backend.put(meta.message(OpaqueKey(f"k{i}")), bytearray(bytes([i]) * 6000))
    out = told(start(COMMAND, command, str(tmp_path / "kv"), "--json"))
    assert json.loads(out)["chunks"] == 20


def test_a_trace_is_replayed_and_read_back_without_torch(tmp_path: Path) -> None:
    trace, task = tmp_path / "trace.jsonl", tmp_path / "task.json"
    trace.write_text('{"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [1, 2]}\n' * 2)
    device = f"lmdb:{tmp_path}/kv?capacity=32MiB"
    out = told(start(COMMAND, "replay", str(trace), "--device", device, "--block-bytes", "16KiB", "--json", "-"))
    assert json.loads(out)["verified_blocks"] == 2
    task.write_text(json.dumps({"device": device, "block_bytes": 16 << 10, "keys": "native", "blocks": [1, 2, 3]}))
    found = json.loads(told(start(READ_BACK, str(task))))
    assert (found["right"], found["wrong"], found["missing"]) == (2, 0, 1)
