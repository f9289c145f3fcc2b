"""How a serving process treats its chunk buffers; in a process of its own, because a process has one allocator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lms_tiers.server.memory import ChunkMemory

_PROGRAM = """
import json, resource, threading
from lms_tiers.server.memory import ChunkMemory

memory = ChunkMemory()
kept = memory.keep(256 * 2**20)

def fill(held):
    for _ in range(48):
        buffer = memory.buffer(2**20)
        buffer[::4096] = bytes(256)
        held.append(buffer)

def serve(held, filled, leave):
    fill(held)
    filled.set()
    leave.wait()

def faults(leave):
    # The thread stays, as a server's do: it would leave its heap to the next one otherwise.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held, filled = [], threading.Event()
    threading.Thread(target=serve, args=(held, filled, leave)).start()
    filled.wait()
    sizes = [len(b) for b in held]
    held.clear()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, sizes

leave = threading.Event()
first, sizes = faults(leave)
again, _ = faults(leave)
leave.set()
flags = open("/proc/self/smaps").read()
print(json.dumps({"kept": kept, "first": first, "again": again, "sizes": sizes, "huge": " hg" in flags}))
"""


def run() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the C library's settings are glibc's")
def test_a_freed_buffer_is_kept_for_the_next_thread_that_receives() -> None:
    found = run()
    assert found["kept"]
    assert found["sizes"] == [2**20] * 48
    # 48 MiB are 12,288 pages, if each of them were a fault again.
    assert isinstance(found["again"], int)
    assert found["again"] < 1000


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="this kernel has no huge pages"
)
def test_the_heap_of_buffers_asks_for_huge_pages() -> None:
    assert run()["huge"]


def test_without_settings_buffers_are_plain() -> None:
    assert len(ChunkMemory().buffer(5_000_000)) == 5_000_000
