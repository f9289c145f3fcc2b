"""The door as SGLang's threads use it: over its own host pools in `make doors`, over doubles otherwise."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lms_tiers.errors import ConfigError, DeadlineExceededError
from lms_tiers.plugins.faulty.backend import Fault
from tests.depth import drawn
from tests.doors.sglang.conftest import (
    LAYOUTS,
    LMDB,
    PAGES,
    Drive,
    Open,
    Pieces,
    chunk,
    name,
    pool_of,
    storage,
)

ROOT = Path(__file__).parents[3]
PATIENCE = 60
MEMORY = "cpu?capacity=64MiB"
LATENT = [(layout, latent) for layout in LAYOUTS for latent in (False, True) if (layout, latent) != ("page_head", True)]


# -- pages there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [MEMORY, LMDB, f"cpu?capacity=1KiB > {LMDB}&promote=never"])
@pytest.mark.parametrize(("layout", "latent"), LATENT)
def test_pages_come_back_to_their_slots_and_to_no_others(
    open_door: Open, layout: str, latent: bool, device: str
) -> None:
    drive = open_door(device, pool=pool_of(layout, latent=latent))
    assert drive.save([1, 2, 3, 4]) == [True] * 4
    assert drive.untouched()
    assert drive.load([4, 9, 1], [15, 8, 0]) == [True, False, True]
    assert (drive.slot(15), drive.slot(0)) == (chunk(4, drive.size), chunk(1, drive.size))
    assert drive.untouched(0, 15)
    assert drive.door.batch_exists([name(key) for key in (1, 2, 3, 9, 4)]) == 3
    assert drive.looks([1, 9]) == [True, False]


def test_batches_of_many_pages_go_through_in_windows(open_door: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import lms_tiers.doors.sglang.pool as module

    drive = open_door(LMDB, pool=pool_of("layer_first"))
    monkeypatch.setattr(module, "_COPIES", 3 * drive.size)
    keys = list(range(16))
    assert all(drive.save(keys))
    assert all(drive.load(keys, keys[::-1]))
    assert [drive.slot(15 - key) for key in keys] == [chunk(key, drive.size) for key in keys]


def test_one_page_may_stand_in_a_batch_twice(open_door: Open) -> None:
    for layout in ("layer_first", "page_first"):
        drive = open_door(MEMORY, pool=pool_of(layout))
        assert drive.save([1, 1, 2]) == [True] * 3
        assert drive.load([1, 2, 1], [5, 6, 7]) == [True] * 3
        assert [drive.slot(slot) for slot in (5, 6, 7)] == [chunk(key, drive.size) for key in (1, 2, 1)]


def test_flat_pages_in_tensors_are_the_same_pages(open_door: Open) -> None:
    for layout in ("layer_first", "page_first", "page_head"):
        drive = open_door(MEMORY, pool=pool_of(layout))
        assert drive.save([1]) == [True]
        into = drive.pool.get_dummy_flat_data_page()
        assert drive.door.get(name(1), into) is into
        assert into.view(torch.uint8).numpy().tobytes() == chunk(1, drive.size)
        assert drive.door.get(name(1)).view(torch.uint8).numpy().tobytes() == chunk(1, drive.size)
        into.zero_()
        found = drive.door.batch_get([name(2), name(1)], [drive.pool.get_dummy_flat_data_page(), into])
        assert found[0] is None
        assert found[1] is into
        assert into.view(torch.uint8).numpy().tobytes() == chunk(1, drive.size)
        drive.fill(3, chunk(5, drive.size))
        page = drive.pool.get_data_page(3 * drive.pages.page_size)
        assert drive.door.set(name(5), page) is True
        assert drive.door.batch_set([name(6), name(5)], [page, page]) is True
        assert drive.load([5, 6], [8, 9]) == [True, True]
        assert drive.slot(8) == drive.slot(9) == chunk(5, drive.size)
        short = page[:-1]
        assert drive.door.set(name(7), short) is False
        assert drive.door.get(name(5), short) is None
        assert drive.door.set(name(7)) is False
        assert not drive.door.exists(name(7))


def test_pages_that_are_held_are_not_stored_again(open_door: Open) -> None:
    drive = open_door(MEMORY)
    drive.save([1, 2])
    written = drive.store.stats().tiers[0].bytes_written
    assert drive.save([2, 3, 1]) == [True] * 3
    assert drive.store.stats().tiers[0].bytes_written == written + drive.size


def test_a_chain_is_told_to_the_policy_where_sglang_passes_it_on(open_door: Open) -> None:
    drive = open_door(MEMORY)
    told: list[Any] = []
    policy = drive.store._h.tiers[0].policy
    insert = policy.on_insert

    def told_of(text: str, size: int, context: Any) -> None:
        told.append(context.position)
        insert(text, size, context)

    policy.on_insert = told_of
    info = storage().HiCacheStorageExtraInfo(prefix_keys=[name(90), name(91)])
    assert all(drive.door.batch_set_v1([name(1), name(2)], drive.indices([0, 1]), info))
    assert told == [2, 3]


# -- several pools -----------------------------------------------------------------------------------------------------


def transfer(pool: str, keys: list[int], slots: Any = None, trailing: bool = False) -> Any:
    module = storage()
    policy = module.PoolHitPolicy.TRAILING_PAGES if trailing else module.PoolHitPolicy.ALL_PAGES
    return module.PoolTransfer(
        name=module.PoolName(pool), keys=[name(key) for key in keys], host_indices=slots, hit_policy=policy
    )


def test_pools_of_a_hybrid_model_are_stored_and_restored_side_by_side(open_door: Open) -> None:
    drive = open_door(LMDB)
    states = Pieces()
    side = Drive(drive.door, states)
    drive.door.register_mem_host_pool_v2(drive.pool, storage().PoolName.KV)
    drive.door.register_mem_host_pool_v2(states, storage().PoolName.MAMBA)
    for slot in range(3):
        side.fill(slot, chunk(slot, 22))
        drive.fill(slot, chunk(slot, drive.size))
    both = [transfer("kv", [0, 1, 2], drive.indices([0, 1, 2])), transfer("mamba", [1, 2], side.indices([1, 2]))]
    assert drive.door.batch_set_v2(both) == {"kv": [True] * 3, "mamba": [True] * 2}
    back = [transfer("kv", [2, 0], drive.indices([8, 9])), transfer("mamba", [2, 0], side.indices([8, 9]))]
    assert drive.door.batch_get_v2(back) == {"kv": [True] * 2, "mamba": [True, False]}
    assert (drive.slot(8), side.slot(8)) == (chunk(2, drive.size), chunk(2, 22))
    assert side.slot(9) == bytes(22)
    found = drive.door.batch_exists_v2([name(key) for key in (0, 1, 2, 3)], [transfer("mamba", [9], trailing=True)])
    assert (found.kv_hit_pages, found.extra_pool_hit_pages) == (3, {"kv": 3, "mamba": 3})
    assert found.restorable_prefix_pages == [2, 3]
    assert drive.door.batch_exists_v2([name(0), name(1)], [transfer("mamba", [])]).kv_hit_pages == 0
    assert drive.door.batch_exists_v2([name(0), name(1)]).kv_hit_pages == 2


def test_a_pool_that_is_not_known_or_has_other_indices_moves_nothing_and_stops_no_other(open_door: Open) -> None:
    drive = open_door(MEMORY)
    drive.save([1])
    transfers = [
        transfer("swa", [1], drive.indices([0])), transfer("kv", [1], drive.indices([5])),
        transfer("mamba", [], None), transfer("indexer", [1, 2], drive.indices([0])),
    ]  # fmt: skip
    drive.door.register_mem_host_pool_v2(pool_of("page_first"), storage().PoolName.INDEXER)
    expected = {"swa": [False], "kv": [True], "mamba": [], "indexer": [False, False]}
    assert drive.door.batch_get_v2(transfers) == expected
    assert drive.slot(5) == chunk(1, drive.size)
    assert drive.door.batch_exists_v2([name(1)], [transfer("swa", [1])]).kv_hit_pages == 0


# -- identity ----------------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another dtype": ({"dtype": torch.float16}, {}),
    "another layout": ({"layout": "page_first_direct"}, {}),
    "another page size": ({"page_size": 2, "pages": 32}, {}),
    "other layers": ({"layers": 4}, {}),
    "a latent cache": ({"latent": True}, {}),
    "another model": ({}, {"model_name": "qwen"}),
    "no model": ({}, {"model_name": None}),
    "another revision": ({}, {"options": {"revision": "b"}}),
    "another kind of 8-bit floats": ({}, {"options": {"kv_cache_dtype": "fp8_e5m2"}}),
    "another adapter": ({}, {"options": {"namespace": {"lora": "b"}}}),
    "another tensor size": ({}, {"tp_size": 2}),
    "another tensor rank": ({}, {"tp_size": 2, "tp_rank": 1}),
    "another pipeline rank": ({}, {"pp_size": 2, "pp_rank": 1}),
    "another context rank": ({}, {"attn_cp_size": 2, "attn_cp_rank": 1}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_pages_of_another_run_are_a_miss(open_door: Open, other: str, served: Callable[..., Any]) -> None:
    shape, changes = OTHERS[other]
    device = f"lm:127.0.0.1:{served().port}"
    ours = open_door(device)
    assert ours.save([1, 2]) == [True, True]
    theirs = open_door(device, pool=pool_of(**shape), **changes)
    keys = [name(1), name(2)]
    assert (theirs.door.batch_exists(keys), theirs.looks([1, 2])) == (0, [False, False])
    assert theirs.load([1, 2], [3, 4]) == [False, False]
    assert theirs.untouched()
    assert theirs.door.get(name(1)) is None
    again = open_door(device)
    assert again.load([1, 2], [3, 4]) == [True, True]


def test_a_pool_of_bytes_whose_dtype_nobody_tells_is_refused_with_what_to_say(open_door: Open) -> None:
    with pytest.raises(ConfigError, match="set kv_cache_dtype"):
        open_door().door.register_mem_pool_host(pool_of(dtype=torch.uint8))
    told = open_door(pool=pool_of(dtype=torch.uint8), options={"kv_cache_dtype": "fp8_e5m2"})
    assert told.save([1]) == [True]


@pytest.mark.parametrize("remote", [False, True])
def test_a_page_of_another_length_under_the_same_key_is_a_miss(
    open_door: Open, served: Callable[..., Any], remote: bool
) -> None:
    """As a release leaves it that counts its pages in another way."""
    drive = open_door(f"lm:127.0.0.1:{served().port}" if remote else MEMORY)
    drive.save([1])
    from dataclasses import replace

    from lms_tiers import OpaqueKey

    pool = drive.door._pools["kv"]
    meta = replace(pool._meta, length=drive.size - 2, shape=(drive.size // 2 - 1,))
    pool._store.put(meta.message(OpaqueKey(name(1))), bytearray(drive.size - 2))
    assert drive.load([1], [5]) == [False]
    assert drive.untouched()


@pytest.fixture
def served() -> Iterator[Callable[..., Any]]:
    """Starts servers over memory; on a port that was used before where it is given."""
    from lms_tiers import LMSLocalBackend
    from lms_tiers.server.server import Server
    from lms_tiers.server.settings import make_settings

    servers: list[Any] = []

    def start(port: int = 0) -> Any:
        settings = {"host": "127.0.0.1", "threads": 4, "max_chunk": "1MiB", "receive_budget": "16MiB", "port": port}
        server = Server(LMSLocalBackend(), make_settings(None, settings))
        server.__enter__()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("above", ["", "cpu?capacity=1MiB > "])
def test_with_mla_one_rank_writes_and_all_read_over_a_shared_tier(
    open_door: Open, served: Callable[..., Any], above: str
) -> None:
    device = f"{above}lm:127.0.0.1:{served().port}"
    ranks = [open_door(device, is_mla_model=True, tp_size=2, tp_rank=rank) for rank in range(2)]
    assert ranks[0].save([1, 2]) == [True, True]
    if above:
        ranks[0].store.flush(PATIENCE)
    assert [rank.door.batch_exists([name(1), name(2), name(3)]) for rank in ranks] == [2, 2]
    assert ranks[1].load([2, 1], [3, 4]) == [True, True]
    assert ranks[1].slot(3) == chunk(2, ranks[1].size)


def test_states_are_each_ranks_own_even_with_mla(open_door: Open, served: Callable[..., Any]) -> None:
    device = f"lm:127.0.0.1:{served().port}"
    ranks = [open_door(device, is_mla_model=True, tp_size=2, tp_rank=rank) for rank in range(2)]
    for rank in ranks:
        rank.door.register_mem_host_pool_v2(Pieces(), storage().PoolName.MAMBA)
    move = [transfer("mamba", [1], torch.tensor([0]))]
    assert ranks[0].door.batch_set_v2(move) == {"mamba": [True]}
    assert [rank.door.batch_get_v2(move) for rank in ranks] == [{"mamba": [True]}, {"mamba": [False]}]


def test_with_mla_a_store_of_each_ranks_own_is_refused_with_what_to_do(open_door: Open) -> None:
    with pytest.raises(ConfigError, match="never has a hit"):
        open_door(LMDB.replace("{path}", "{path}-{rank}"), is_mla_model=True, tp_size=2)
    assert open_door(LMDB, is_mla_model=True).save([1]) == [True]


def test_each_rank_has_a_place_of_its_own(open_door: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\{rank\}"):
        open_door(LMDB, tp_size=2)
    ranks = [open_door(LMDB.replace("{path}", "{path}-{rank}"), tp_size=2, tp_rank=rank) for rank in range(2)]
    assert [rank.save([rank.door._config.tp_rank]) for rank in ranks] == [[True], [True]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kv-dp0-pp0-cp0-tp0", "kv-dp0-pp0-cp0-tp1"]


# -- what fails --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["layer_first", "page_first"])
def test_a_store_that_failed_is_not_seen(open_door: Open, layout: str) -> None:
    drive = open_door(f"store?breaker_threshold=99 > faulty:{MEMORY}", pool=pool_of(layout))
    for operation in ("put", "put_many", "put_from"):
        drive.faulty().inject(operation, Fault.FAIL)
    assert drive.save([1, 2]) == [False, False]
    assert (drive.looks([1, 2]), drive.door.batch_exists([name(1)])) == ([False, False], 0)
    drive.faulty().heal()
    assert drive.save([1, 2]) == [True, True]


def test_a_page_damaged_on_disk_is_a_miss(open_door: Open, tmp_path: Path) -> None:
    for layout in ("page_first", "layer_first"):
        place = tmp_path / layout
        drive = open_door(LMDB.replace("{path}", str(place)), pool=pool_of(layout))
        assert drive.save([1, 2]) == [True, True]
        drive.store.flush(PATIENCE)
        data = place / "data"
        at = data.read_bytes().index(chunk(1, drive.size)[:64])
        with data.open("r+b") as file:
            file.seek(at + 100)
            file.write(bytes(64))
        assert drive.load([1, 2], [6, 7]) == [False, True]
        assert drive.slot(7) == chunk(2, drive.size)
        assert drive.untouched(6, 7)
        assert layout == "page_first" or drive.untouched(7), "a copy is not copied in before it is known to be whole"
        assert drive.looks([1, 2]) == [False, True]


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


# -- the whole ---------------------------------------------------------------------------------------------------------


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


KILLED = """
import os, signal, sys
from contextlib import nullcontext
from pathlib import Path
sys.path[:0] = {path!r}
from tests.doors.sglang import double
from tests.doors.sglang.conftest import REAL, Drive, config, pool_of
with nullcontext() if REAL else double.installed():
    from lms_tiers.doors.sglang import HiCache
    door = HiCache(config({{"device": {device!r}}}))
    drive = Drive(door, pool_of())
    door.register_mem_pool_host(drive.pool)
    assert drive.save([1, 2, 3, 4]) == [True] * 4
    print("stored", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_stored_before_the_process_was_killed_is_found_afterwards(open_door: Open, tmp_path: Path) -> None:
    device = LMDB.replace("{path}", str(tmp_path / "kv"))
    code = KILLED.format(path=[str(ROOT), str(ROOT / "conformance")], device=device)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (-9, "stored\n"), done.stderr
    drive = open_door(device)
    assert drive.door.batch_exists([name(key) for key in (1, 2, 3, 4, 5)]) == 4
    assert drive.load([4, 1], [6, 7]) == [True, True]
    assert (drive.slot(6), drive.slot(7)) == (chunk(4, drive.size), chunk(1, drive.size))


def test_clearing_removes_what_is_this_runs_and_nothing_else(open_door: Open, served: Callable[..., Any]) -> None:
    device = f"lm:127.0.0.1:{served().port}"
    ours, theirs = open_door(device), open_door(device, model_name="qwen")
    for drive in (ours, theirs):
        assert all(drive.save([1, 2, 3]))
    assert ours.door.clear() is True
    assert (ours.looks([1, 2, 3]), theirs.looks([1, 2, 3])) == ([False] * 3, [True] * 3)


def test_what_was_moved_is_told_once_in_the_engines_terms(open_door: Open) -> None:
    drive = open_door(MEMORY)
    drive.save([1, 2, 3])
    drive.load([1, 2, 9], [4, 5, 6])
    told = drive.door.get_stats()
    assert (told.backup_pgs, told.prefetch_pgs) == ([3], [2])
    assert len(told.backup_bandwidth) == len(told.prefetch_bandwidth) == 1
    assert told.backup_bandwidth[0] > 0
    again = drive.door.get_stats()
    assert (again.backup_pgs, again.prefetch_pgs) == ([], [])
    quiet = open_door(MEMORY, enable_storage_metrics=False)
    quiet.save([1])
    assert quiet.door.get_stats() is None


def test_a_pool_may_be_registered_after_transfers_have_begun_and_again(open_door: Open) -> None:
    drive = open_door(MEMORY)
    drive.save([1])
    known = drive.door._pools["kv"]
    drive.door.register_mem_host_pool_v2(drive.pool, storage().PoolName.KV)
    assert drive.door._pools["kv"] is known
    drive.door.register_mem_host_pool_v2(pool_of("page_head"), storage().PoolName.KV)
    assert drive.looks([1]) == [False], "another pool has pages of another layout"


@pytest.mark.parametrize(
    ("options", "match"),
    [({"device": ""}, "device"), ({"devise": "cpu"}, "device"), ({"promote": "perhaps"}, "promote"),
     ({"close_timeout": "soon"}, "close_timeout"), ({"namespace": {"a": 1.5}}, "namespace")],
)  # fmt: skip
def test_a_configuration_that_is_no_good_is_refused_by_name(open_door: Open, options: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        open_door(MEMORY, options=options)


def test_without_sglang_the_door_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['sglang'] = None\n"
        "import lms_tiers.doors.sglang as door\n"
        "from lms_tiers.errors import ConfigError\n"
        "try:\n"
        "    door.HiCache\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    environ = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environ)
    assert "pip install sglang" in done.stdout, done.stderr


def test_importing_the_door_imports_neither_torch_nor_sglang() -> None:
    code = (
        "import sys\n"
        "import lms_tiers.doors.sglang\n"
        "import lms_tiers.doors.sglang.pages, lms_tiers.doors.sglang.pool, lms_tiers.doors.sglang.opening\n"
        "assert not {'torch', 'sglang'} & set(sys.modules)\n"
    )
    environ = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environ)


def test_options_are_read_beside_the_engines_own(open_door: Open) -> None:
    from lms_tiers.doors.sglang.options import options_of

    given = options_of({"backend_name": "lms", "interface_v1": 1, "device": "cpu", "close_timeout": "2s"})
    assert (given.device, given.close_timeout, given.promote) == ("cpu", 2.0, False)
