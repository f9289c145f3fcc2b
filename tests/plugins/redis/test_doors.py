"""Replicas of an engine that share a Redis by its door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.doors.vllm import conftest as vllm
from tests.doors.vllm import double
from tests.plugins.redis.engine import RedisServer, needs_server

pytestmark = needs_server

open_tier = vllm.open_tier


@pytest.fixture(scope="module", autouse=True)
def classes() -> Iterator[None]:
    with double.installed():
        yield


@pytest.mark.parametrize("above", ["", "cpu?capacity=1MiB > "], ids=["alone", "below memory"])
def test_replicas_of_vllm_share_it_and_another_dtype_is_a_miss(
    open_tier: vllm.Open, engine: RedisServer, above: str
) -> None:
    device = f"{above}redis:127.0.0.1:{engine.port}?prefix=vllm{len(above)}/"
    replicas = [open_tier(device, data_parallel_index=i, data_parallel_size=2) for i in range(2)]
    assert replicas[0].store_rows([1, 2]).success
    if above:
        replicas[0].store.flush(vllm.PATIENCE)
    assert replicas[1].looks([1, 3, 2]) == ["HIT", "MISS", "HIT"]
    assert replicas[1].load_rows([2, 1], [3, 4]).success
    assert [replicas[1].slot(slot) for slot in (3, 4)] == [vllm.chunk(2), vllm.chunk(1)]
    other = open_tier(device, dtype="float16", data_parallel_index=0, data_parallel_size=2)
    assert other.looks([1]) == ["MISS"]
