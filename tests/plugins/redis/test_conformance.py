"""The kit over real servers: one, a Cluster, and tiers above them; no waivers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from lms_conformance import run_properties
from lms_conformance.check import explain
from lms_conformance.devices import DeviceHarness
from lms_conformance.outcome import Status

from tests.plugins.redis.engine import RedisCluster, RedisServer, needs_server

pytestmark = [needs_server, pytest.mark.leaks_allowed]

#: Each place of the kit is a prefix of its own; a busy machine is no hung node.
BARE = "redis:{at}?prefix={{tmp}}/&timeout=60s"
TIERS = ["cpu?capacity=64MiB > ", "cpu?capacity=64MiB > lmdb:{{tmp}}/kv?capacity=256MiB > "]


#: What needs many keys, drawn programs or processes of its own waits for the deep run.
QUICK = [
    "KEY",
    "PUT",
    "GET",
    "OVR-01",
    "OVR-02",
    "OVR-03",
    "RMV-01",
    "RMV-02",
    "CNT",
    "BAT-01",
    "BAT-07",
    "ERR",
    "LIF",
    "SHR",
]


def conforms(device: str, profile: str, only: Sequence[str] = ()) -> None:
    report = run_properties(DeviceHarness(device), profile=profile, only=only)
    assert report.ok, explain(report)
    assert not [result.id for result in report.results if result.status is Status.WARNED]


def test_one_server_keeps_the_contract(engine: RedisServer) -> None:
    conforms(BARE.format(at=f"127.0.0.1:{engine.port}"), "quick", QUICK)


@pytest.mark.deep
def test_one_server_keeps_the_contract_in_depth(engine: RedisServer) -> None:
    conforms(BARE.format(at=f"127.0.0.1:{engine.port}"), "ci")


@pytest.mark.deep
def test_a_cluster_keeps_the_contract(cluster: RedisCluster) -> None:
    conforms(BARE.format(at=cluster.location), "ci")


@pytest.mark.deep
@pytest.mark.parametrize("above", TIERS)
def test_tiers_above_one_server_keep_the_contract(engine: RedisServer, above: str) -> None:
    place = BARE.format(at=f"127.0.0.1:{engine.port}")
    conforms(above.format() + f"{place}&deadline=60s", "quick")
