"""The L2 adapter in trouble: memory is touched only while it is lent, and a doubtful chunk is a miss."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lms_tiers import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from tests.depth import drawn
from tests.doors.lmcache.engine import Listener, Loops, Slot, key
from tests.doors.lmcache.test_adapter import until

Open = Callable[..., Any]
Faulty = Callable[..., tuple[Any, FaultyBackend]]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_damaged_chunk_is_a_miss_and_the_guards_around_slots_stand(adapter: Open, tmp_path: Path) -> None:
    device = f"lmdb:{tmp_path}?capacity=64MiB&codec=raw"
    first = adapter(device)
    Loops(first).put(range(8))
    first.close()
    data = tmp_path / "data"
    size = Slot().nbytes
    with data.open("r+b") as file:
        content = file.read()
        # Some get one flipped byte in the middle of what they are: fewer than would switch the tier off.
        for i in range(1, 4):
            at = content.index(bytes(Slot().filled(i).data[:64].tolist()))
            file.seek(at + size // 2)
            file.write(bytes([content[at + size // 2] ^ 1]))
    loops, listener = Loops(adapter(device)), Listener()
    loops.adapter.register_listener(listener)
    slots = [Slot() for _ in range(8)]
    assert loops.load([key(i) for i in range(8)], slots) == [i not in (1, 2, 3) for i in range(8)]
    assert all(slots[i].holds(i) for i in (0, 4, 5, 6, 7))
    assert all(slot.guarded for slot in slots)
    until(lambda: len(listener.sizes) == 5)


def test_closing_waits_for_what_runs_drops_what_waits_and_nothing_is_written_later(faulty: Faulty) -> None:
    adapter, backend = faulty(workers=2)
    loops = Loops(adapter)
    loops.put(range(3))
    backend.inject("*", Fault.BLOCK)
    slots = [Slot() for _ in range(6)]
    loads = [adapter.submit_load_task([key(i % 3)], [slots[i].obj]) for i in range(6)]
    store = adapter.submit_store_task([key(9)], [Slot().filled(9).obj])
    until(lambda: backend.blocked)
    closing = threading.Thread(target=adapter.close)
    closing.start()
    try:
        until(lambda: adapter._tasks.counts()[0] == 0)
        assert closing.is_alive(), "it returned while a buffer was in use"
    finally:
        backend.heal()
        backend.release()
        closing.join()
    before = [slot.memory.clone() for slot in slots]
    ended = [adapter.query_load_result(task) for task in loads]
    assert all(bits is not None for bits in ended), "every task has its result"
    assert sum(not bits.test(0) for bits in ended) >= 4
    assert store in adapter.pop_completed_store_tasks()
    for i, (slot, bits) in enumerate(zip(slots, ended, strict=True)):
        assert slot.holds(i % 3) if bits.test(0) else slot.untouched
    assert all(torch.equal(slot.memory, was) for slot, was in zip(slots, before, strict=True))


def test_memory_that_lmcache_may_have_given_to_others_is_neither_read_nor_written(faulty: Faulty) -> None:
    clock = Clock()
    adapter, backend = faulty(workers=1, clock=clock, store_within=240, load_within=480)
    loops = Loops(adapter)
    loops.put([1])
    backend.inject("*", Fault.BLOCK)
    slot, late = Slot(), Slot()
    blocked = adapter.submit_load_task([key(1)], [slot.obj])
    until(lambda: backend.blocked)
    store = adapter.submit_store_task([key(2)], [Slot().filled(2).obj])
    load = adapter.submit_load_task([key(1)], [late.obj])
    clock.now += 481
    backend.heal()
    backend.release()
    loops.loaded(blocked, 1)
    assert loops.loaded(load, 1) == [False]
    assert late.untouched
    assert not loops.stored(store).is_successful()
    assert loops.lookup([key(2)]) == [False]
    assert loops.get([1]) == [True]


def test_what_was_stored_out_of_memory_that_is_lent_no_more_is_removed(faulty: Faulty) -> None:
    clock = Clock()
    adapter, backend = faulty(clock=clock)
    loops, listener = Loops(adapter), Listener()
    adapter.register_listener(listener)
    backend.inject("put", Fault.BLOCK)
    backend.inject("put_many", Fault.BLOCK)
    backend.inject("put_from", Fault.BLOCK)
    store = adapter.submit_store_task([key(2)], [Slot().filled(2).obj])
    until(lambda: backend.blocked)
    clock.now += 241
    backend.heal()
    backend.release()
    assert not loops.stored(store).is_successful()
    assert loops.lookup([key(2)]) == [False]
    until(lambda: not listener.sizes)
    assert adapter.get_usage().total_bytes_used == 0


def test_results_that_nobody_asks_for_are_given_up(adapter: Open) -> None:
    clock = Clock()
    made = adapter(clock=clock)
    loops = Loops(made)
    loops.put([1])
    forgotten = made.submit_lookup_and_lock_task([key(1)], {})
    loops.wait(made.get_lookup_and_lock_event_fd())
    clock.now += 901
    assert loops.lookup([key(1)]) == [True]
    assert made.query_lookup_and_lock_result(forgotten) is None


@pytest.mark.parametrize("seeds", drawn(2, 20))
@pytest.mark.parametrize("lower", [False, True], ids=["one tier", "two tiers"])
def test_among_failures_of_three_in_ten_calls_no_byte_is_wrong(seeds: range, lower: bool, faulty: Faulty) -> None:
    for seed in seeds:
        below = FaultyBackend(LMSLocalBackend(), seed) if lower else None
        made, top = faulty(20 * Slot().nbytes if lower else None, lower=below)
        for backend in (top, below) if below is not None else (top,):
            backend.inject("*", Fault.FAIL, probability=0.3)
            backend.inject("get", Fault.WRONG_LENGTH, probability=0.1)
            backend.inject("get_many", Fault.NOTHING, probability=0.1)
        assert read_rightly(random.Random(seed), Loops(made)), "nothing was ever read"
        for backend in (top, below) if below is not None else (top,):
            backend.heal()
        made.close()


def read_rightly(random_: random.Random, loops: Loops) -> int:
    """Drawn stores and loads; how many chunks came as they were. One that came otherwise is an error."""
    right = 0
    for _ in range(40):
        numbers = random_.sample(range(40), 6)
        if random_.random() < 0.5:
            loops.put(numbers)
        else:
            loops.lookup([key(i) for i in numbers])
            got = loops.get(numbers)
            assert False not in got
            right += got.count(True)
            loops.adapter.submit_unlock([key(i) for i in numbers])
    return right


WRITER = """
import os, sys
import importlib.util
sys.path[:0] = sys.argv[3:]
from tests.doors.lmcache import double
if importlib.util.find_spec("lmcache") is None: double.install()
from lms_tiers.doors.lmcache import L2Adapter
from tests.doors.lmcache.engine import Loops
loops = Loops(L2Adapter({"device": sys.argv[1]}))
assert loops.put(range(20)).is_successful()
print("stored", flush=True)
sys.stdin.read()
"""


@pytest.mark.leaks_allowed
def test_what_a_killed_process_stored_is_there_for_the_next(adapter: Open, tmp_path: Path) -> None:
    device = f"lmdb:{tmp_path}/kv?capacity=64MiB&codec=raw"
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", WRITER, device, "", str(root), str(root / "conformance")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "stored\n"
        os.kill(child.pid, signal.SIGKILL)
    loops, listener = Loops(adapter(device)), Listener()
    loops.adapter.register_listener(listener)
    assert loops.lookup([key(i) for i in range(21)]) == [True] * 20 + [False]
    assert loops.get(range(20)) == [True] * 20
    assert len(listener.sizes) == 20
    assert loops.adapter.get_usage().total_bytes_used == 20 * Slot().nbytes


def test_a_server_that_goes_and_comes_back(adapter: Open) -> None:
    kept = LMSLocalBackend()
    settings = {"port": 0, "threads": 2}
    server = Server(kept, make_settings(None, settings))
    port = server.port
    made = adapter(f"lm:127.0.0.1:{port}?connect_timeout=5&timeout=20")
    loops, listener = Loops(made), Listener()
    made.register_listener(listener)
    assert loops.put(range(6)).is_successful()
    assert loops.lookup([key(i) for i in range(7)]) == [True] * 6 + [False]
    assert made.report_status()["is_healthy"]
    server.close()
    assert loops.lookup([key(i) for i in range(6)]) == [False] * 6
    assert loops.get(range(6)) == [None] * 6
    assert not loops.put([9]).is_successful()
    made.submit_unlock([key(i) for i in range(6)])
    assert not made.report_status()["is_healthy"]
    assert len(listener.sizes) == 6, "what a server holds is not gone because it is away"
    with Server(kept, make_settings(None, {**settings, "port": port})):
        until(lambda: made.report_status()["is_healthy"])
        assert loops.lookup([key(i) for i in range(6)]) == [True] * 6
        assert loops.get(range(6)) == [True] * 6
        assert loops.put([9]).is_successful()
        kept.remove(made._names.key(key(3)))  # by somebody else
        assert loops.lookup([key(3)]) == [False]
        assert key(3) not in listener.sizes
        assert sorted(int(text, 16) for text, _ in loops.listed()) == [0, 1, 2, 4, 5, 9]
        made.close()
    assert not listener.wrong
    kept.close()


def test_a_store_opens_over_a_server_that_is_away_and_says_so(adapter: Open) -> None:
    made = adapter("lm:127.0.0.1:9?lazy=true")
    assert not made.report_status()["is_healthy"]
    assert Loops(made).lookup([key(1)]) == [False]


def test_a_tier_that_does_not_work_is_unhealthy(faulty: Faulty) -> None:
    made, backend = faulty(threshold=2)
    assert made.report_status()["is_healthy"]
    backend.inject("*", Fault.FAIL)
    assert not Loops(made).put([1, 2]).is_successful()
    backend.heal()
    status = made.report_status()
    assert not status["is_healthy"]
    assert not status["tiers"]["faulty"]["works"]
    assert status["failed_stores"] == 1
    made.close()
    assert not made.report_status()["is_healthy"]


def test_a_report_tells_what_is_there_and_no_secrets(adapter: Open) -> None:
    made = adapter("cpu?capacity=64MiB")
    Loops(made).put([1, 2])
    status = made.report_status()
    assert status["is_healthy"]
    assert (status["keys"], status["bytes"], status["waiting"]) == (2, 2 * Slot().nbytes, 0)
    assert status["tiers"]["cpu"]["chunks"] == 2
