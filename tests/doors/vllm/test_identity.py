"""Whose chunks they are: runs, replicas, shared servers. What the kit asks of every tier is in test_kit.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lms_tiers.errors import ConfigError
from tests.doors.vllm.conftest import Open, chunk

LMDB = "lmdb:{}?capacity=256MiB"


def test_chunks_of_another_revision_are_a_miss(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv")
    first = open_tier(device)
    first.store_rows([1])
    first.close()
    second = open_tier(device, options={"revision": "b2"})
    assert second.looks([1]) == ["MISS"]
    second.close()
    assert open_tier(device).looks([1]) == ["HIT"]


def test_runs_of_other_parallel_sizes_share_chunks_where_both_sides_say_so(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv")
    for size, expected in ((1, "MISS"), (2, "HIT")):
        drive = open_tier(
            device, tp_size=size, world_size=size, is_parallelism_agnostic=True, options={"portable": True}
        )
        assert drive.looks([1]) == [expected]
        drive.store_rows([1])
        drive.close()
    drive = open_tier(device, tp_size=2, world_size=2, options={"portable": True})  # vLLM does not say it
    assert drive.looks([1]) == ["MISS"]


def test_each_replica_has_a_place_of_its_own(open_tier: Open, tmp_path: Path) -> None:
    device = LMDB.format(tmp_path / "kv-{rank}")
    replicas = [open_tier(device, data_parallel_index=i, data_parallel_size=2) for i in range(2)]
    replicas[0].store_rows([1])
    assert replicas[1].looks([1]) == ["MISS"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kv-0", "kv-1"]


def test_replicas_that_would_share_a_directory_are_told_what_to_do(open_tier: Open, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\{rank\}.*lm:HOST:PORT"):
        open_tier(LMDB.format(tmp_path / "kv"), data_parallel_index=0, data_parallel_size=2)


def test_ranks_share_a_server(open_tier: Open) -> None:
    from lms_tiers import LMSLocalBackend
    from lms_tiers.server.server import Server
    from lms_tiers.server.settings import make_settings

    settings = {"host": "127.0.0.1", "port": 0, "threads": 4, "max_chunk": "1MiB", "receive_budget": "16MiB"}
    with Server(LMSLocalBackend(), make_settings(None, settings)) as server:
        replicas = [
            open_tier(f"lm:127.0.0.1:{server.port}", data_parallel_index=i, data_parallel_size=2) for i in range(2)
        ]
        replicas[0].store_rows([1])
        assert replicas[1].looks([1]) == ["HIT"]
        assert replicas[1].load_rows([1], [3]).success
        assert replicas[1].slot(3) == chunk(1)
        for replica in replicas:
            replica.close()
