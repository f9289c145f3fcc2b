"""Whose pages they are: runs, ranks and shared tiers. What the kit asks of every backend is in test_kit.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lms_conformance.adapters.hicache.drive import name

from lms_tiers.errors import ConfigError
from tests.doors.sglang.conftest import LMDB, Open, Pieces, chunk, pool_of, storage, transfer

MEMORY = "cpu?capacity=64MiB"

PATIENCE = 60

#: What only this door tells apart, and topologies at a place that ranks share.
OTHERS: dict[str, dict[str, Any]] = {
    "another revision": {"options": {"revision": "b"}},
    "another kind of 8-bit floats": {"options": {"kv_cache_dtype": "fp8_e5m2"}},
    "another adapter": {"options": {"namespace": {"lora": "b"}}},
    "another tensor size": {"tp_size": 2},
    "another tensor rank": {"tp_size": 2, "tp_rank": 1},
    "another pipeline rank": {"pp_size": 2, "pp_rank": 1},
    "another context rank": {"attn_cp_size": 2, "attn_cp_rank": 1},
}


@pytest.mark.parametrize("other", OTHERS)
def test_pages_of_another_run_are_a_miss(open_door: Open, other: str, served: Callable[..., Any]) -> None:
    device = f"lm:127.0.0.1:{served().port}"
    ours = open_door(device)
    assert ours.save([1, 2]) == [True, True]
    theirs = open_door(device, **OTHERS[other])
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
