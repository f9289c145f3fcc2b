"""Four hosts with memory and disk of their own over one Cluster hit what they hit on paper."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend
from lms_tiers.replay.generate import TraceShape, generate_trace
from tests.plugins.redis.engine import RedisCluster, needs_server
from tests.replay.test_fleet_live import BLOCK, HOSTS, live, paper

pytestmark = [needs_server, pytest.mark.deep]


def test_four_hosts_over_a_cluster_hit_what_they_hit_on_paper(cluster: RedisCluster, tmp_path: Path) -> None:
    requests = list(generate_trace(TraceShape(requests=600, seed=3)))
    memory, disk = 300, "4MiB"
    with ExitStack() as stack:
        stores: list[Any] = []
        for i in range(HOSTS):
            device = (
                f"cpu?capacity={memory * BLOCK}B&policy=lru"
                f" > lmdb:{tmp_path}/{i}?capacity={disk}&codec=raw&sync=none&policy=lru"
                f" > redis:{cluster.location}?prefix=live:&deadline=60s&timeout=60s"
            )
            stores.append(stack.enter_context(CreateStorageBackend(device)))
        found = live(stores, requests)
        on_disk = max(store.stats().tiers[1].keys for store in stores)
    expected = paper(requests, [memory, on_disk], 1 << 30)  # it holds all of them
    assert found[0] == pytest.approx(expected[0], rel=0.01)
    assert found[1:] == pytest.approx(expected[1:], abs=0.02 * expected[0])
    assert min(found) > 50
