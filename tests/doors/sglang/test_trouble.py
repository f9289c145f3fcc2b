"""What fails under the door, what is stuck, and its end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.adapters.hicache.drive import name

from lms_tiers.errors import DeadlineExceededError
from lms_tiers.plugins.faulty.backend import Fault
from tests.depth import drawn
from tests.doors.sglang.conftest import LAYOUTS, LMDB, PAGES, Drive, Open, chunk, pool_of, transfer

PATIENCE = 60

MEMORY = "cpu?capacity=64MiB"


@pytest.mark.parametrize("layout", ["layer_first", "page_first"])
def test_a_store_that_failed_is_not_seen(open_door: Open, layout: str) -> None:
    drive = open_door(f"store?breaker_threshold=99 > faulty:{MEMORY}", pool=pool_of(layout))
    for operation in ("put", "put_many", "put_from"):
        drive.faulty().inject(operation, Fault.FAIL)
    assert drive.save([1, 2]) == [False, False]
    assert (drive.looks([1, 2]), drive.door.batch_exists([name(1)])) == ([False, False], 0)
    drive.faulty().heal()
    assert drive.save([1, 2]) == [True, True]


def test_nothing_is_raised_into_the_engines_threads(open_door: Open, caplog: pytest.LogCaptureFixture) -> None:
    drive = open_door(MEMORY)
    pool = drive.door._pools["kv"]
    pool._store = None
    keys = [name(1), name(2)]
    assert drive.door.batch_get_v1(keys, drive.indices([0, 1])) == [False, False]
    assert drive.door.batch_set_v1(keys, drive.indices([0, 1])) == [False, False]
    assert drive.door.batch_get_v1(keys, drive.indices([0, 1 << 30])) == [False, False]
    assert (drive.door.batch_exists(keys), drive.door.exists(keys[0])) == (0, False)
    assert drive.door.batch_exists_v2(keys, [transfer("kv", [1])]).kv_hit_pages == 0
    moves = [transfer("kv", [1], drive.indices([0]))]
    assert drive.door.batch_get_v2(moves) == drive.door.batch_set_v2(moves) == {"kv": [False]}
    assert drive.door.get(keys[0]) is None
    assert drive.door.batch_get(keys, [None, None]) == [None, None]
    assert drive.door.set(keys[0], drive.pool.get_dummy_flat_data_page()) is False
    assert drive.door.batch_set(keys, [drive.pool.get_dummy_flat_data_page()] * 2) is False
    assert drive.door.clear() is False
    assert "failed" in caplog.text


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.01)


@pytest.mark.parametrize("layout", ["layer_first", "page_first"])
def test_a_damaged_page_is_a_miss_and_pages_beside_are_as_they_were(
    open_door: Open, tmp_path: Path, layout: str
) -> None:
    first = open_door(LMDB, pool=pool_of(layout))
    assert first.save([1, 2, 3]) == [True] * 3
    first.door.close()
    with (tmp_path / "kv" / "data").open("r+b") as file:
        page = chunk(2, first.size)
        file.seek(file.read().index(page) + len(page) // 2)
        file.write(bytes([page[len(page) // 2] ^ 1]))
    drive = open_door(LMDB, pool=pool_of(layout))
    assert drive.load([1, 2, 3], [4, 6, 8]) == [True, False, True]
    assert [drive.slot(slot) for slot in (4, 8)] == [chunk(key, drive.size) for key in (1, 3)]
    assert drive.untouched(4, 6, 8)
    assert drive.looks([1, 2, 3]) == [True, False, True]


@pytest.mark.parametrize("layout", ["layer_first", "page_first"])
def test_calls_that_failed_hold_no_page_and_no_door_open(open_door: Open, layout: str) -> None:
    """SGLang locks nothing in its storages; what a failed call held on to, it could never give back."""
    pool = pool_of(layout)
    room = 8 * Drive(None, pool).size
    drive = open_door(
        f"store?breaker_threshold=999 > faulty:cpu?capacity={room}B", pool=pool, options={"close_timeout": "0s"}
    )
    assert drive.save([1, 2, 3, 4]) == [True] * 4
    drive.faulty().inject("*", Fault.FAIL)
    for _ in range(20):
        assert drive.load([1, 2, 3, 4], [5, 6, 7, 8]) == [False] * 4
        assert drive.save([11, 12, 13, 14]) == [False] * 4
    drive.faulty().heal()
    assert drive.save(list(range(21, 29))) == [True] * 8, "it needs the room of all that was there"
    assert drive.looks([1, 2, 3, 4]) == [False] * 4
    assert drive.load([21, 28], [1, 2]) == [True, True]
    drive.door.close()  # nobody is counted as inside


def test_a_server_that_goes_and_comes_back_costs_misses_and_no_more(
    open_door: Open, served: Callable[..., Any]
) -> None:
    server = served()
    drive = open_door(f"lm:127.0.0.1:{server.port}")
    assert drive.save([1, 2]) == [True, True]
    server.__exit__(None, None, None)
    assert drive.door.batch_exists([name(1)]) == 0
    assert drive.save([3]) == [False]
    assert drive.load([1], [6]) == [False]
    assert drive.untouched()
    served(server.port)
    until(lambda: drive.save([4]) == [True])
    assert drive.looks([1, 4]) == [False, True]
    assert drive.load([4], [7]) == [True]
    assert drive.slot(7) == chunk(4, drive.size)


#: What goes wrong with a third of all calls of every backend.
FAULTS = ((Fault.FAIL, 0.2), (Fault.NOTHING, 0.05), (Fault.WRONG_LENGTH, 0.05), (Fault.LIE, 0.05))


@pytest.mark.parametrize("seeds", drawn(5, 60))
def test_with_a_third_of_all_calls_failing_not_one_byte_is_wrong(open_door: Open, tmp_path: Path, seeds: range) -> None:
    hits = failures = 0
    for seed in seeds:
        rng = random.Random(seed)
        pool = pool_of(rng.choice(LAYOUTS))
        size = Drive(None, pool).size
        below = rng.choice([f"faulty:cpu?capacity={20 * size}B", f"faulty:lmdb:{tmp_path / str(seed)}?capacity=64MiB"])
        top = rng.choice(["", f"faulty:cpu?capacity={6 * size}B > "])
        drive = open_door(f"store?breaker_threshold=1000&back_pressure=10ms > {top}{below}&seed={seed}", pool=pool)
        faulty = [tier.backend for tier in drive.store._h.tiers]
        for backend in faulty:
            for fault, probability in FAULTS:
                backend.inject("*", fault, probability=probability)
        for _ in range(40):
            keys = rng.sample(range(12), rng.randint(1, 4))
            slots = rng.sample(range(PAGES), len(keys))
            if rng.random() < 0.5:
                drive.save(keys, slots)
                continue
            drive.door.batch_exists([name(key) for key in keys])
            there = drive.load(keys, slots)
            for key, slot, good in zip(keys, slots, there, strict=True):
                assert not good or drive.slot(slot) == chunk(key, size), f"seed {seed}: wrong bytes of {key}"
            assert drive.untouched(*slots), f"seed {seed}: a slot beside"
            hits, failures = hits + sum(there), failures + len(there) - sum(there)
            drive.wipe()
        for backend in faulty:
            backend.heal()
        drive.door.close()
    assert hits > 20
    assert failures > 20


class Held:
    """Keeps the calls of a backend inside until they are let go."""

    def __init__(self, backend: Any, operation: str) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        call = getattr(backend, operation)

        def held(*given: Any, **named: Any) -> Any:
            self.inside.set()
            assert self.go.wait(PATIENCE)
            return call(*given, **named)

        setattr(backend, operation, held)


@contextmanager
def running(work: Callable[[], Any]) -> Iterator[list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    yield answers
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("load", [True, False])
def test_closing_waits_for_what_is_inside_and_nothing_is_written_afterwards(open_door: Open, load: bool) -> None:
    drive = open_door(MEMORY, options={"close_timeout": "20ms"})
    drive.save([1, 2])
    held = Held(drive.faulty(), "get_many" if load else "put_from")
    closed: list[bool] = []
    close = drive.store.close

    def closing() -> None:
        closed.append(True)
        close()

    drive.store.close = closing
    work = (lambda: drive.load([1, 2], [5, 6])) if load else (lambda: drive.save([3, 4], [5, 6]))
    with running(work) as answers:
        assert held.inside.wait(PATIENCE)
        with pytest.raises(DeadlineExceededError, match="inside the store"):
            drive.door.close()
        assert not closed, "a transfer is under way"
        assert drive.load([1], [8]) == [False], "nobody comes in any more"
        held.go.set()
    assert answers == [[True, True]]
    drive.door.close()
    drive.door.close()
    assert closed == [True]
    drive.wipe()
    assert drive.load([1], [9]) == [False]
    assert drive.save([7]) == [False]
    assert (drive.looks([1]), drive.door.clear(), drive.door.get_stats()) == ([False], False, None)
    assert drive.untouched()
