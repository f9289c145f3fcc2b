"""A Cluster: slots that move, primaries that hang and die. Keys elsewhere are served, bytes are right, it heals."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend
from lms_tiers.client.address import Address
from lms_tiers.plugins.redis.chunk import PIECE
from lms_tiers.resp.nodes import slot_of
from tests.plugins.redis.engine import RedisCluster, RedisServer, needs_server, until
from tests.plugins.sick import body_of, bounded, item, keys, puts, used_all_the_time

pytestmark = [needs_server, pytest.mark.deep]

MANY = {f"k{i}": bytes([i]) * (1000 + i) for i in range(60)}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisCluster]:
    """A Cluster of a test's own, whose nodes may die."""
    with ExitStack() as stack:
        yield RedisCluster(tmp_path / "cluster", stack)


def opened(cluster: RedisCluster, **options: Any) -> Any:
    given = {"prefix": "c:", "timeout": "60s", **options}
    text = "&".join(f"{name}={value}" for name, value in given.items())
    return CreateStorageBackend(f"redis:{cluster.location}?{text}")


def owner(cluster: RedisCluster, key: str) -> RedisServer:
    """The primary that has a key, as the Cluster says."""
    ranges = cluster.nodes[0].ask("CLUSTER", "SLOTS")
    slot = cluster.nodes[0].ask("CLUSTER", "KEYSLOT", "c:" + key)
    port = next(primary[1] for first, last, primary, *_ in ranges if first <= slot <= last)
    return next(node for node in cluster.nodes if node.port == port)


def test_slots_are_those_of_the_cluster(cluster: RedisCluster) -> None:
    for key in ("k", "{a}b", "b{a}", "{}b", "a{}b{c}", "{a", "a}b{", "{{a}}", "ü{é}"):
        assert slot_of(key.encode()) == cluster.nodes[0].ask("CLUSTER", "KEYSLOT", key), key


def test_the_nodes_with_slots_are_told_without_a_look_at_each_slot(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Address] = []
    with opened(cluster) as backend:
        plain = Address.__hash__

        def noted(address: Address) -> int:
            hashed.append(address)
            return plain(address)

        monkeypatch.setattr(Address, "__hash__", noted)
        assert len(backend.nodes.primaries()) == 3
    assert len(hashed) < 100


def test_chunks_lie_on_all_primaries_and_one_batch_asks_each_once(cluster: RedisCluster) -> None:
    with opened(cluster) as backend:
        backend.put_many([item(key, body) for key, body in MANY.items()])
        assert all(int(node.ask("DBSIZE")) > 5 for node in cluster.primaries())
        found = backend.get_many(keys(*MANY))
        assert [bytes(obj.data) for obj in found] == list(MANY.values())
        assert backend.contains_prefix(keys(*MANY, "x", "k1")) == len(MANY)
        assert {key.to_string() for key in backend.list_keys()} == set(MANY)
        assert {info.key.to_string(): info.meta.length for info in backend.scan()} == {
            k: len(v) for k, v in MANY.items()
        }
        assert backend.stats().detail["nodes"] == 3
        assert backend.stats().detail["connects"] == 3
        backend.remove_many(keys(*MANY))
        assert backend.list_keys() == []


def test_a_slot_that_moves_is_followed(own: RedisCluster) -> None:
    with opened(own) as backend, opened(own) as other:
        backend.put_many([item(key, MANY[key]) for key in MANY])
        source = owner(own, "k1")
        target = next(node for node in own.primaries() if node is not source)
        slot = str(slot_of(b"c:k1"))
        ids = {node: node.ask("CLUSTER", "MYID") for node in (source, target)}
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        assert body_of(backend, "k1") == MANY["k1"]  # it is still there
        source.ask("MIGRATE", "127.0.0.1", str(target.port), "c:k1", "0", "60000")
        assert body_of(backend, "k1") == MANY["k1"]  # ASK
        backend.put(*item("k1", b"moving"))  # ASK
        assert body_of(other, "k1") == b"moving"
        backend.put(*item("k1", b"x" * (PIECE + 1)))  # a transaction is asked there as well
        assert body_of(other, "k1") == b"x" * (PIECE + 1)
        assert source.ask("EXISTS", "c:k1") != 1
        for node in (target, *own.primaries()):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        assert body_of(backend, "k1") == b"x" * (PIECE + 1)  # MOVED
        backend.put(*item("k1", b"there"))
        assert body_of(other, "k1") == b"there"
        assert backend.stats().detail["redirects"] >= 4
        assert backend.stats().corrupt == 0


def test_a_hung_primary_costs_its_own_keys_and_one_time_out(own: RedisCluster) -> None:
    with opened(own, timeout="1s") as backend:
        backend.put_many([item(key, body) for key, body in MANY.items()])
        sick = owner(own, "k1")
        there = [owner(own, key) is sick for key in MANY]
        with sick.stalled(), bounded():
            found = backend.get_many(keys(*MANY))
        assert [obj is None for obj in found] == there
        assert backend.stats().failures == sum(there)
        assert all(bytes(obj.data) == body for obj, body in zip(found, MANY.values(), strict=True) if obj is not None)
        until(lambda: all(backend.contains_many(keys(*MANY))))


def test_a_replica_takes_over_and_no_byte_is_wrong(own: RedisCluster) -> None:
    bodies = {f"k{i}": os.urandom(50_000 + i) for i in range(24)} | {"big": os.urandom(PIECE + 5)}
    with opened(own, timeout="2s") as backend, opened(own, timeout="2s") as watcher:
        with used_all_the_time(backend, bodies, 2):
            until(lambda: all(watcher.contains_many(keys(*bodies))))
            dead = owner(own, "k1")
            dead.kill()
            began = time.monotonic()
            until(lambda: puts(watcher, "k1", bodies["k1"]))  # who took over has its slots
            print(f"healed in {time.monotonic() - began:.1f} s")
            dead.start()  # as a replica, empty, of who took over
            until(lambda: dead.told("master_link_status", "INFO", "replication") == "up")
            until(lambda: all(watcher.contains_many(keys(*bodies))))
        assert [bytes(obj.data) for obj in watcher.get_many(keys(*bodies))] == list(bodies.values())
        assert backend.stats().corrupt == watcher.stats().corrupt == 0
        assert watcher.stats().detail["slot_looks"] > 1
