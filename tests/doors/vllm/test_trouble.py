"""Faults under the tier, what is stuck, a server that goes, and the end."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.adapters.vllm_tier.drive import name

from lms_tiers.errors import DeadlineExceededError
from lms_tiers.plugins.faulty.backend import Fault
from tests.depth import drawn
from tests.doors.vllm.conftest import PATIENCE, ROW, SLOTS, Open, chunk, request

READS = ("get", "get_into", "get_many", "get_many_into", "get_scattered", "view")


def _number(key: bytes) -> int:
    return int.from_bytes(key[:-4], "big")


#: What goes wrong with a third of all calls of every backend.
FAULTS = ((Fault.FAIL, 0.2), (Fault.NOTHING, 0.05), (Fault.WRONG_LENGTH, 0.05), (Fault.LIE, 0.05))


def test_no_call_of_the_scheduler_waits_for_a_store_that_is_stuck(open_tier: Open) -> None:
    drive = open_tier("faulty:cpu?capacity=64MiB", options={"workers": 2, "lookup_patience": "200ms"})
    drive.store_rows([1])
    drive.results.clear()
    gate = threading.Event()
    backend = drive.store
    stuck = {n: getattr(backend, n) for n in ("contains_many", "get_many_into", "put_from", "stats")}
    for operation, call in stuck.items():

        def waits(*given: Any, call: Any = call, **named: Any) -> Any:
            assert gate.wait(10 * PATIENCE)  # or the store comes back by failing
            return call(*given, **named)

        setattr(backend, operation, waits)
    jobs = []
    for i in range(20):
        jobs.append(drive.job([1], [2 + i % 3]))
        (drive.tier.submit_load if i % 2 else drive.tier.submit_store)(jobs[-1])
        drive.tier.lookup(name(100 + i), request(str(i)))
        drive.tier.get_stats()
        list(drive.tier.take_events())
        drive.tier.on_request_finished(request(str(i)))
        drive.step()
    assert drive.look(1) == "MISS"  # given up: the prompt is computed
    assert not gate.is_set()
    assert not drive.results
    gate.set()
    for job in jobs:
        drive.result(job)


def test_two_stores_run_at_one_time_however_many_threads_there_are(open_tier: Open) -> None:
    drive = open_tier("cpu?capacity=64MiB", options={"workers": 6})
    gate, inside = threading.Event(), threading.Semaphore(0)
    put_from = drive.store.put_from

    def waits(*given: Any, **named: Any) -> Any:
        inside.release()
        assert gate.wait(PATIENCE)
        return put_from(*given, **named)

    drive.store.put_from = waits
    jobs = [drive.job([n], [n]) for n in range(4)]
    for job in jobs:
        drive.tier.submit_store(job)
    assert inside.acquire(timeout=PATIENCE)
    assert inside.acquire(timeout=PATIENCE)
    drive.load_rows([100], [7])  # one that comes later goes by, and the other stores still wait
    assert drive.tier._transfers.counts() == (2, 2)
    gate.set()
    assert all(drive.result(job).success for job in jobs)


def test_a_store_that_is_stuck_gathers_no_more_lookups_than_it_must(open_tier: Open) -> None:
    drive = open_tier(options={"lookup_patience": 3600})
    gate, inside = threading.Event(), threading.Event()
    call = drive.store.contains_many

    def waits(*given: Any, **named: Any) -> Any:
        inside.set()
        assert gate.wait(10 * PATIENCE)  # or the store comes back by failing
        return call(*given, **named)

    drive.store.contains_many = waits
    answers = []
    for i in range(80):
        drive.tier.lookup(name(i), request())
        drive.step()
        assert inside.wait(PATIENCE)  # else the first one that is taken makes room for one more
        answers.append(drive.tier.lookup(name(i), request()).name)
    assert answers[:60] == ["RETRY"] * 60
    assert answers[-10:] == ["MISS"] * 10
    gate.set()
    assert drive.look(3) == "MISS"


def test_shutdown_waits_for_what_is_in_the_store_and_nothing_is_written_afterwards(open_tier: Open) -> None:
    drive = open_tier(options={"workers": 1, "close_timeout": "20ms"})
    drive.store_rows([1, 2, 3])
    gate, inside = threading.Event(), threading.Event()
    call = drive.store.get_many_into

    def waits(*given: Any, **named: Any) -> Any:
        inside.set()
        assert gate.wait(PATIENCE)
        return call(*given, **named)

    drive.store.get_many_into = waits
    drive.tier._store.backend.close, close = (lambda: None), drive.tier._store.backend.close
    drive.tier.submit_load(drive.job([1], [5]))
    drive.tier.submit_load(drive.job([2, 3], [6, 7]))
    assert inside.wait(PATIENCE)
    with pytest.raises(DeadlineExceededError, match="still use buffers"):
        drive.tier.shutdown()
    gate.set()
    drive.tier._close_timeout = 10 * PATIENCE
    drive.tier.shutdown()
    assert drive.slot(5) == chunk(1)  # it was under way
    assert (drive.slot(6), drive.slot(7)) == (b"\xa5" * ROW, b"\xa5" * ROW)
    found = {result.job_id: result for result in drive.tier.get_finished_jobs()}
    assert [found[drive.jobs - 1].success, found[drive.jobs].success] == [True, False]
    close()
    drive.release()


def test_a_damaged_chunk_fails_its_load_and_rows_beside_are_as_they_were(open_tier: Open, tmp_path: Path) -> None:
    device = f"lmdb:{tmp_path}/kv?capacity=64MiB&codec=raw"
    first = open_tier(device)
    first.store_rows([1, 2, 3])
    first.close()
    with (tmp_path / "kv" / "data").open("r+b") as file:
        at = file.read().index(chunk(2)) + ROW // 2
        file.seek(at)
        file.write(bytes([chunk(2)[ROW // 2] ^ 1]))
    drive = open_tier(device)
    result = drive.load_rows([1, 2, 3], [1, 3, 5])
    assert (result.success, sorted(map(_number, result.successful_keys))) == (False, [1, 3])
    assert (drive.slot(1), drive.slot(5)) == (chunk(1), chunk(3))
    assert all(drive.slot(slot) == b"\xa5" * ROW for slot in (0, 2, 4, 6, 7))
    assert drive.looks([1, 2, 3]) == ["HIT", "MISS", "HIT"]


def test_a_server_that_goes_and_comes_back_costs_misses_and_no_more(open_tier: Open) -> None:
    from lms_tiers import LMSLocalBackend
    from lms_tiers.server.server import Server
    from lms_tiers.server.settings import make_settings

    settings = {"host": "127.0.0.1", "threads": 4, "max_chunk": "1MiB", "receive_budget": "16MiB"}
    server = Server(LMSLocalBackend(), make_settings(None, {**settings, "port": 0}))
    server.__enter__()
    port = server.port
    drive = open_tier(f"lm:127.0.0.1:{port}", options={"lookup_patience": "5s"})
    try:
        assert drive.store_rows([1, 2]).success
        assert drive.looks([1, 2, 3]) == ["HIT", "HIT", "MISS"]
    finally:
        server.__exit__(None, None, None)
    assert drive.looks([1]) == ["MISS"]
    assert not drive.store_rows([3]).success
    before = drive.slot(6)
    assert not drive.load_rows([1], [6]).success
    assert drive.slot(6) == before
    with Server(LMSLocalBackend(), make_settings(None, {**settings, "port": port})):
        drive.until(lambda: drive.store_rows([4]).success)
        assert drive.looks([1, 4]) == ["MISS", "HIT"]
        assert drive.load_rows([4], [7]).success
        assert drive.slot(7) == chunk(4)
        drive.close()


@pytest.mark.parametrize("seeds", drawn(4, 24))
def test_with_a_third_of_all_calls_failing_not_one_byte_is_wrong(open_tier: Open, tmp_path: Path, seeds: range) -> None:
    hits = failures = 0
    for seed in seeds:
        rng = random.Random(seed)
        below = rng.choice([f"faulty:cpu?capacity={20 * ROW}B", f"faulty:lmdb:{tmp_path / str(seed)}?capacity=64MiB"])
        top = rng.choice(["", f"faulty:cpu?capacity={6 * ROW}B > "])
        drive = open_tier(f"store?breaker_threshold=1000&back_pressure=10ms > {top}{below}&seed={seed}")
        faulty = [tier.backend for tier in drive.store._h.tiers]
        for backend in faulty:
            for fault, probability in FAULTS:
                backend.inject("*", fault, probability=probability)
        for _ in range(40):
            keys = rng.sample(range(12), rng.randint(1, 4))
            slots = rng.sample(range(SLOTS), len(keys))
            if rng.random() < 0.5:
                drive.store_rows(keys, slots)
                continue
            drive.looks(keys)
            around = {slot: drive.slot(slot) for slot in range(SLOTS) if slot not in slots}
            result = drive.load_rows(keys, slots)
            good = set(keys if result.success else map(_number, result.successful_keys or ()))
            for key, slot in zip(keys, slots, strict=True):
                assert key not in good or drive.slot(slot) == chunk(key), f"seed {seed}: wrong bytes of {key}"
            assert all(drive.slot(slot) == data for slot, data in around.items()), f"seed {seed}: a slot beside"
            hits += len(good)
            failures += len(keys) - len(good)
        for backend in faulty:
            backend.heal()
        drive.close()
    assert hits > 20
    assert failures > 20
