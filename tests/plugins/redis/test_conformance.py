"""The kit over real servers: one, a Cluster, and tiers above them; no waivers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from lms_conformance import DeviceHarness, Harness, Report, harness_for, run_properties
from lms_conformance.check import explain
from lms_conformance.chunks import Chunk, key
from lms_conformance.prove import prove

from lms_tiers.errors import ConfigError
from tests.depth import DEPTH, asked, nightly
from tests.plugins.redis.engine import RedisCluster, RedisServer, needs_server

pytestmark = [needs_server, pytest.mark.leaks_allowed]

#: Each place of the kit is a prefix of its own; a busy machine is no hung node.
AT = "redis:{at}?prefix={{tmp}}/&timeout=60s"
TIERS = [
    pytest.param("cpu?capacity=64MiB", marks=nightly),
    "cpu?capacity=64MiB > lmdb:{tmp}/kv?capacity=256MiB",
]

#: What three tiers change together, and who else sees it; what a shared tier is under one in memory, `lm` is asked.
OF_TIERS = ["OVR", "RMV", "BAT", "LIF", "CON", "SHR"]


#: What every run asks.
FIRST = ["KEY-01", "PUT-01", "GET", "OVR-01", "RMV-01", "BAT-01", "SHR-01"]

#: What needs many keys, drawn programs or processes of its own waits for the night.
OF_ONE = [
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


def conforms(subject: str | Harness, profile: str, only: Sequence[str] = ()) -> Report:
    """Nothing red, nothing vacuous, and nothing that would only warn."""
    harness = harness_for(subject) if isinstance(subject, str) else subject
    report = run_properties(harness, profile=profile, only=only, strict=True)
    assert report.ok, explain(report)
    return report


@pytest.mark.parametrize("only", asked(FIRST, OF_ONE))
def test_one_server_keeps_the_contract(only: list[str]) -> None:
    conforms("redis", "quick", only)


@pytest.mark.deep
@nightly
def test_one_server_keeps_the_contract_in_depth_and_known_bugs_are_caught_in_it() -> None:
    report, told = conforms("redis", "ci"), list[str]()
    assert prove(harness_for("redis"), report, told.append), "\n".join(told)


#: What depends on where a key's slot is, or on how many keys a call has.
OF_SLOTS = ["KEY", "OVR", "RMV", "LST", "CNT", "BAT", "OPT", "CON", "SHR", "LIF-04", "LIF-09"]


@pytest.mark.deep
@pytest.mark.parametrize("effort", [("quick", OF_SLOTS), pytest.param(("ci", ()), marks=nightly)], ids=["slots", "all"])
def test_a_cluster_keeps_the_contract_and_is_empty_afterwards(
    cluster: RedisCluster, effort: tuple[str, Sequence[str]]
) -> None:
    conforms(AT.format(at=cluster.location), *effort)
    assert [node.ask("DBSIZE") for node in cluster.primaries()] == [0, 0, 0]


@pytest.mark.deep
@pytest.mark.parametrize("above", TIERS)
def test_tiers_above_one_server_keep_the_contract(above: str) -> None:
    conforms(
        f"store?stall=60s > {above} > redis:{{server}}?prefix={{tmp}}/&timeout=60s&deadline=60s",
        "quick",
        OF_TIERS if DEPTH == 1 else (),
    )


@pytest.mark.deep
def test_a_place_with_chunks_in_it_is_refused_and_what_a_run_leaves_is_removed(engine: RedisServer) -> None:
    before = engine.ask("DBSIZE")
    conforms(AT.format(at=f"127.0.0.1:{engine.port}"), "quick", ["OVR-07", "LIF-04", "LIF-09", "CON-05"])
    assert engine.ask("DBSIZE") == before
    used = DeviceHarness(AT.format(at=f"127.0.0.1:{engine.port}").replace("prefix={tmp}/", "prefix=used/{tmp}/../"))
    used.device = used.device.replace("{tmp}/../", "")  # one prefix for all places
    with used.open(Path("/"), None) as backend:
        backend.put(Chunk(3, 10).message(key("precious")), Chunk(3, 10).data())
    with pytest.raises(ConfigError, match=r"not empty: it holds 1 keys, 'precious'"):
        run_properties(used, profile="quick", only=["OVR-07"])
    with used.open(Path("/"), None) as backend:
        assert backend.contains(key("precious"))
        backend.remove(key("precious"))
