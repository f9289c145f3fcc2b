"""The door under SGLang's own factory, controller and injectors, and beside its own file backend as the oracle."""

from __future__ import annotations

import hashlib
import queue
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lms_conformance.adapters.hicache import pools
from lms_conformance.adapters.hicache.drive import name

from tests.depth import drawn
from tests.doors.sglang.conftest import LMDB, PAGE, PAGES, REAL, Drive, Open, Pieces, chunk, config, pool_of

pytestmark = pytest.mark.skipif(not REAL, reason="SGLang is not installed: make doors")

PATIENCE = 60
OURS = {
    "backend_name": "lms", "module_path": "lms_tiers.doors.sglang", "class_name": "HiCache", "interface_v1": 1,
}  # fmt: skip


@contextmanager
def created(device: str, pool: Any, **changes: Any) -> Iterator[Any]:
    """A backend as SGLang's factory makes it."""
    from sglang.srt.mem_cache.storage import StorageBackendFactory

    made = StorageBackendFactory.create_backend("dynamic", config({**OURS, "device": device}, **changes), pool)
    made.register_mem_pool_host(pool)
    pools.all_registered(made)
    try:
        yield made
    finally:
        made.close()


def test_the_factory_makes_the_door_and_checks_its_class(tmp_path: Path) -> None:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

    from lms_tiers.doors.sglang import HiCache

    with created(LMDB.replace("{path}", str(tmp_path)), pool_of()) as made:
        assert type(made) is HiCache
        assert isinstance(made, HiCacheStorage)


def test_pools_are_made_whatever_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2 << 30, available=1 << 30))
    assert pool_of().page_size == pool_of("layer_first").page_size


# -- the controller ----------------------------------------------------------------------------------------------------


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes SGLang's controller, with its threads, over a pool and a directory; of one rank alone."""
    from sglang.srt.managers import cache_controller
    from sglang.srt.mem_cache import utils

    monkeypatch.setattr(utils, "get_native_hash", chained)  # theirs is compiled where it is used first
    ranks = {f"{kind}{what}": size for kind in ("tp", "pp", "attn_tp", "attn_dp", "attn_dcp")
             for what, size in (("_rank", 0), ("_size", 1))}  # fmt: skip
    monkeypatch.setattr(cache_controller, "get_parallel", lambda: SimpleNamespace(**ranks))
    monkeypatch.setattr(cache_controller, "is_dp_attention_enabled", lambda: False)
    made: list[Any] = []

    def make(pool: Any, device: str = LMDB, **options: Any) -> Any:
        device_pool = SimpleNamespace(
            device="cpu", layer_num=pool.layer_num, register_layer_transfer_counter=lambda counter: None
        )
        one = cache_controller.HiCacheController(
            SimpleNamespace(get_kvcache=lambda: device_pool), pool, PAGE, None, None, storage_backend="dynamic",
            prefetch_threshold=PAGE, model_name="llama", enable_storage_metrics=True,
            storage_backend_extra_config={**OURS, "device": device.replace("{path}", str(tmp_path / "kv")), **options},
        )  # fmt: skip
        made.append(one)
        return one

    yield make
    for one in made:
        if one.enable_storage:
            one.detach_storage_backend()


def chained(token_ids: Any, prior_digest: bytes | None, page_size: int | None = None) -> list[str]:
    """Hashes of pages of tokens, each with those before it."""
    found, last = [], prior_digest or b""
    for at in range(0, len(token_ids) // PAGE * PAGE, PAGE):
        last = hashlib.sha256(last + repr(list(token_ids[at : at + PAGE])).encode()).digest()
        found.append(last.hex())
    return found


def tokens(seed: int, pages: int) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(1 << 16) for i in range(pages * PAGE)]


def backed_up(one: Any, pool: Any, seed: int, slots: list[int]) -> None:
    """Back up pages of a prompt from their slots, as SGLang does when they are evicted from the device."""
    drive = Drive(None, pool)
    hashes = hashes_of(tokens(seed, len(slots)))
    for i, slot in enumerate(slots):
        drive.fill(slot, chunk(seed * 100 + i, drive.size))
    one.write_storage(drive.indices(slots), tokens(seed, len(slots)), hashes)
    done = one.ack_backup_queue.get(timeout=PATIENCE)
    assert done.completed_tokens == len(slots) * PAGE
    drive.wipe()


def hashes_of(token_ids: list[int]) -> list[str]:
    from sglang.srt.mem_cache.utils import get_storage_hash_str

    return list(get_storage_hash_str(token_ids, None, page_size=PAGE))


def prefetched(one: Any, pool: Any, seed: int, pages: int, slots: list[int]) -> int:
    """Prefetch a prompt into slots as far as it hits; how many of its pages arrived."""
    one.prefetch(f"request {seed}", tokens(seed, pages))
    operation = one.prefetch_hit_queue.get(timeout=PATIENCE)
    hits = operation.storage_hit_count // PAGE
    if not hits:
        return 0
    operation.host_indices = Drive(None, pool).indices(slots[:hits])
    one.prefetch_buffer.put(operation)
    arrived = 0
    while True:
        ack = one.ack_prefetch_queue.get(timeout=PATIENCE)
        arrived = max(arrived, (ack.completed_tokens or 0) // PAGE)
        if ack.completed_req:
            return arrived


@pytest.mark.parametrize("v1", [1, 0])
@pytest.mark.parametrize("layout", ["layer_first", "page_first", "page_first_direct", "page_head"])
def test_the_controllers_threads_back_up_and_prefetch(controller: Any, layout: str, v1: int) -> None:
    pool = pool_of(layout)
    one = controller(pool, interface_v1=v1)
    backed_up(one, pool, 1, [0, 1, 2, 3])
    drive = Drive(None, pool)
    assert prefetched(one, pool, 1, 6, [9, 8, 7, 6, 5, 4]) == 4
    assert [drive.slot(slot) for slot in (9, 8, 7, 6)] == [chunk(100 + i, drive.size) for i in range(4)]
    assert drive.untouched(9, 8, 7, 6)
    assert prefetched(one, pool, 2, 3, [0, 1, 2]) == 0


def test_a_controller_that_starts_again_is_warm_in_either_interface(controller: Any) -> None:
    for first, second in ((1, 0), (0, 1)):
        pool = pool_of("page_first")
        one = controller(pool, interface_v1=first)
        backed_up(one, pool, 10 + first, [0, 1, 2])
        one.detach_storage_backend()
        again = controller(pool, interface_v1=second)
        assert prefetched(again, pool, 10 + first, 3, [5, 6, 7]) == 3
        assert Drive(None, pool).slot(6) == chunk((10 + first) * 100 + 1, Drive(None, pool).size)
        again.detach_storage_backend()


def test_the_controllers_statistics_are_those_of_the_door(controller: Any) -> None:
    pool = pool_of()
    one = controller(pool)
    backed_up(one, pool, 3, [0, 1])
    assert prefetched(one, pool, 3, 2, [4, 5]) == 2
    told = one.storage_backend.get_stats()
    assert (told.backup_pgs, told.prefetch_pgs) == ([2], [2])


@pytest.mark.parametrize("seeds", drawn(2, 20))
def test_under_the_engines_own_injectors_the_threads_live_and_no_byte_is_wrong(
    controller: Any, monkeypatch: pytest.MonkeyPatch, seeds: range
) -> None:
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY", "0.002")
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE", "0.3")
    arrived = 0
    for seed in seeds:
        pool = pool_of(random.Random(seed).choice(["layer_first", "page_first", "page_head"]))
        drive = Drive(None, pool)
        one = controller(pool, device="cpu?capacity=64MiB")
        # Releases before 0.5.23 have no injectors: the same goes on without.
        assert type(one.storage_backend).__name__ == "HiCacheStorageFailureInjector" or not pools.unified()
        for step in range(20):
            prompt = 1000 * seed + step % 4
            slots = random.Random(step).sample(range(PAGES), 3)
            hashes = hashes_of(tokens(prompt, 3))
            for i, slot in enumerate(slots):
                drive.fill(slot, chunk(prompt * 100 + i, drive.size))
            one.write_storage(drive.indices(slots), tokens(prompt, 3), hashes)
            one.ack_backup_queue.get(timeout=PATIENCE)
            drive.wipe()
            count = prefetched(one, pool, prompt, 3, slots)
            for i, slot in enumerate(slots[:count]):
                assert drive.slot(slot) == chunk(prompt * 100 + i, drive.size), f"seed {seed}"
            assert drive.untouched(*slots)
            drive.wipe()
            arrived += count
        with pytest.raises(queue.Empty):
            one.ack_prefetch_queue.get_nowait()
        one.detach_storage_backend()
    assert arrived > 10


# -- the oracle --------------------------------------------------------------------------------------------------------


def same(ours: Any, theirs: Any) -> bool:
    # Before 0.5.23 the file backend does not tell what can be restored.
    return (ours.kv_hit_pages, dict(ours.extra_pool_hit_pages)) == (
        theirs.kv_hit_pages, dict(theirs.extra_pool_hit_pages),
    ) and theirs.restorable_prefix_pages in (None, ours.restorable_prefix_pages)  # fmt: skip


@pytest.mark.parametrize("seeds", drawn(5, 60))
def test_drawn_calls_are_answered_as_by_the_file_backend(open_door: Open, tmp_path: Path, seeds: range) -> None:
    """Flat pages, hits of one pool and of several, and batches by pools; each in its own host memory."""
    from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer

    hits = 0
    for seed in seeds:
        rng = random.Random(seed)
        layout = rng.choice(["layer_first", "page_first", "page_first_direct", "page_head"])
        ours = open_door("cpu?capacity=64MiB", pool=pool_of(layout))
        file = pools.file_backend(tmp_path / str(seed))
        host = {"ours": (ours.pool, Pieces()), "theirs": (pool_of(layout), Pieces())}
        doors = {"ours": ours.door, "theirs": file}
        for who, door in doors.items():
            door.register_mem_pool_host(host[who][0])
            for pool, kind in zip(host[who], (PoolName.KV, PoolName.MAMBA), strict=True):
                door.register_mem_host_pool_v2(pool, kind)
        kv, states = (
            {w: Drive(doors[w], p[0]) for w, p in host.items()},
            {w: Drive(doors[w], p[1]) for w, p in host.items()},
        )
        for _ in range(30):
            keys = [name(rng.randrange(10)) for _ in range(rng.randint(1, 5))]
            numbers = [int(key, 16) for key in keys]
            slots = rng.sample(range(PAGES), len(keys))
            what = rng.choice(["set", "get", "exists", "exists_v2", "set_v2", "get_v2"])
            answers = {}
            for who, door in doors.items():
                page = kv[who].pool
                if what in ("set", "set_v2"):
                    for number, slot in zip(numbers, slots, strict=True):
                        kv[who].fill(slot, chunk(number, kv[who].size))
                        states[who].fill(slot, chunk(number, 22))
                if what == "set":
                    answers[who] = door.batch_set(keys, [page.get_data_page(slot * PAGE) for slot in slots])
                elif what == "get":
                    found = door.batch_get(keys, [page.get_dummy_flat_data_page() for _ in keys])
                    answers[who] = [f if f is None else f.view(torch.uint8).numpy().tobytes() for f in found]
                elif what == "exists":
                    answers[who] = door.batch_exists(keys)
                elif what == "exists_v2":
                    policy = (
                        PoolHitPolicy.TRAILING_PAGES if rng.random() < 2 and slots[0] % 2 else PoolHitPolicy.ALL_PAGES
                    )
                    beside = PoolTransfer(name=PoolName.MAMBA, keys=keys[: slots[0] % 4], hit_policy=policy)
                    answers[who] = door.batch_exists_v2(keys, [beside])
                else:
                    move = [
                        PoolTransfer(name=PoolName.KV, keys=keys, host_indices=kv[who].indices(slots)),
                        PoolTransfer(name=PoolName.MAMBA, keys=keys[1:], host_indices=states[who].indices(slots[1:])),
                    ]
                    answers[who] = (door.batch_set_v2 if what == "set_v2" else door.batch_get_v2)(move)
            if what == "exists_v2":
                assert same(answers["ours"], answers["theirs"]), f"seed {seed}: {answers}"
                hits += answers["ours"].kv_hit_pages
            else:
                assert answers["ours"] == answers["theirs"], f"seed {seed}, {what} of {numbers}"
            for slot in range(PAGES):
                assert kv["ours"].slot(slot) == kv["theirs"].slot(slot), f"seed {seed}, {what}"
                assert states["ours"].slot(slot) == states["theirs"].slot(slot), f"seed {seed}, {what}"
        ours.door.close()
    assert hits > 10
