"""The door as SGLang's threads use it: over its own host pools in `make doors`, over doubles otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lms_conformance.adapters.hicache.drive import name

from tests.doors.sglang.conftest import LAYOUTS, LMDB, Drive, Open, Pieces, chunk, pool_of, storage, transfer

MEMORY = "cpu?capacity=64MiB"


@pytest.mark.parametrize("latent", [False, True])
def test_pages_of_a_layout_without_flat_copies_come_back_too(open_door: Open, latent: bool) -> None:
    drive = open_door(LMDB, pool=pool_of(LAYOUTS[-1] if "page_unified" in LAYOUTS else "page_first", latent=latent))
    assert drive.save([1, 2, 3, 4]) == [True] * 4
    assert drive.load([4, 9, 1], [15, 8, 0]) == [True, False, True]
    assert (drive.slot(15), drive.slot(0)) == (chunk(4, drive.size), chunk(1, drive.size))
    assert drive.untouched(0, 15)


def test_batches_of_many_pages_go_through_in_windows(open_door: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import lms_tiers.doors.sglang.pool as module

    drive = open_door(LMDB, pool=pool_of("layer_first"))
    monkeypatch.setattr(module, "_COPIES", 3 * drive.size)
    keys = list(range(16))
    assert all(drive.save(keys))
    assert all(drive.load(keys, keys[::-1]))
    assert [drive.slot(15 - key) for key in keys] == [chunk(key, drive.size) for key in keys]


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
