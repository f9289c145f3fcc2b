"""Warm restarts over LMDB: keys, sizes, order and the policy's memory come back; stale copies do not."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import CreateStorageBackend
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore

SIZE = 20_000


@pytest.fixture
def device(tmp_path: Path) -> str:
    return f"cpu?capacity=200KiB > lmdb:{tmp_path}/kv?capacity=8MiB"


def reopened(device: str) -> Generator[Any, None, None]:
    while True:
        with CreateStorageBackend(device) as store:
            yield store


def test_what_was_flushed_is_there_again_after_a_restart(bench: Any, device: str) -> None:
    stores = reopened(device)
    store = next(stores)
    for i in range(60):
        bench.put(store, i, i, SIZE)
    store.flush(60)
    store = next(stores)
    assert [bench.get(store, i) for i in range(60)] == list(range(60))
    stats = store.stats()
    assert stats.tiers[1].keys == 60
    assert stats.tiers[1].peak_bytes <= 8 << 20
    stores.close()


def test_close_alone_brings_everything_down(bench: Any, device: str) -> None:
    stores = reopened(device)
    store = next(stores)
    for i in range(5):
        bench.put(store, i, i, SIZE)
    store = next(stores)
    assert [bench.get(store, i) for i in range(5)] == list(range(5))
    stores.close()


def test_removed_and_overwritten_chunks_stay_so_after_a_restart(bench: Any, device: str) -> None:
    stores = reopened(device)
    store = next(stores)
    for i in range(40):
        bench.put(store, i, i, SIZE)
    store.flush(60)
    for i in range(10):
        store.remove(bench.key(i))
    for i in range(10, 20):
        bench.put(store, i, 1000 + i, SIZE)
    store = next(stores)
    assert [bench.get(store, i) for i in range(10)] == [None] * 10
    assert [bench.get(store, i) for i in range(10, 20)] == list(range(1010, 1020))
    stores.close()


def test_recency_survives_a_restart(bench: Any, tmp_path: Path) -> None:
    stores = reopened(f"lmdb:{tmp_path}/kv?capacity=2MiB")
    store = next(stores)
    for i in range(50):
        bench.put(store, i, i, SIZE)
    for i in range(10):
        assert bench.get(store, i) == i
    store = next(stores)
    i = 1000
    while all(store.contains(bench.key(k)) for k in range(10, 50)):
        bench.put(store, i, i, SIZE)
        i += 1
    assert all(store.contains(bench.key(k)) for k in range(10)), "the ones hit last before the restart leave last"
    stores.close()


def test_a_tier_that_shrank_between_runs_starts_within_its_capacity(bench: Any) -> None:
    backend = bench.weighed()
    for i in range(30):
        backend.put(bench.meta(i, 100), bench.data(i))
    store = bench.store(1000, backends=[backend])
    assert backend.weight <= 1000
    assert [bench.get(store, i) for i in range(20, 30)] == list(range(20, 30))
    assert store.stats().tiers[0].bytes_used == backend.weight


def persistent(bench: Any) -> Any:
    """Weighed memory that outlives its store."""
    backend = bench.weighed()
    kept: list[bytes | None] = [None]
    cls = type(backend)
    backend.__class__ = type(
        "Persistent", (cls,),
        {
            "capabilities": replace(cls.capabilities, persistent=True),
            "save_state": lambda self, state: kept.__setitem__(0, state),
            "load_state": lambda self: kept[0],
            "close": lambda self: None,
        },
    )  # fmt: skip
    return backend


def test_two_persistent_tiers_keep_their_clean_copies_after_a_clean_close(bench: Any) -> None:
    backends = [persistent(bench), persistent(bench)]
    store = bench.store(1000, 10_000, backends=backends)
    for i in range(20):
        bench.put(store, i, i)
    store.close()
    store = bench.store(1000, 10_000, backends=backends)
    assert [tier.keys for tier in store.stats().tiers] == [len(backends[0].list_keys()), 20]
    written = store.stats().tiers[1].bytes_written
    assert written == 0
    assert [bench.get(store, i) for i in range(20)] == list(range(20))


def test_without_a_clean_close_the_upper_copy_is_the_newer_one(bench: Any) -> None:
    backends = [persistent(bench), persistent(bench)]
    store = bench.store(1000, 10_000, backends=backends)
    bench.put(store, 1, 1)
    store.flush(60)
    store.close()
    # A run that crashed: the newer chunk had not come down yet.
    crashed = bench.store(1000, 10_000, backends=backends)
    backends[0].put(bench.meta(1, 100), bench.data(2))
    store = bench.store(1000, 10_000, backends=backends)
    assert bench.get(store, 1) == 2
    store.drain(60)
    store.remove(bench.key(1))
    store.drain(60)
    assert not backends[1].contains(bench.key(1))
    assert crashed is not store


def test_a_backend_that_cannot_list_what_it_holds_is_refused_at_the_start(bench: Any) -> None:
    faulty = FaultyBackend(bench.weighed())
    faulty.inject("scan", Fault.FAIL, error=RuntimeError)
    with pytest.raises(StorageUnavailableError, match="cannot list"):
        TieredStore([TierConfig("t", faulty, 1000, Lru(1000, time.monotonic))])


def test_a_state_nobody_understands_is_ignored(bench: Any) -> None:
    backend = persistent(bench)
    for state in (b"", b"junk", b"LMSTIER1", b"LMSTIER1" + bytes(16) + b"junk"):
        backend.save_state(state)
        store = bench.store(1000, backends=[backend])
        bench.put(store, 1, 1)
        assert bench.get(store, 1) == 1
        store.close()


def test_flush_keeps_the_hottest_where_the_lower_tier_is_smaller(bench: Any) -> None:
    backends = [bench.weighed(), persistent(bench)]
    store = bench.store(2000, 1000, backends=backends)
    for i in range(20):
        bench.put(store, i, i)
    store.flush(60)
    assert all(backends[1].contains(bench.key(i)) for i in range(12, 20))
    assert backends[1].heaviest <= 1000


def test_flush_refuses_to_promise_what_a_dead_disk_cannot_keep(bench: Any) -> None:
    faulty = FaultyBackend(persistent(bench))
    store = bench.store(1000, 10_000, backends=[bench.weighed(), faulty], back_pressure=0.05)
    bench.put(store, 1, 1)
    faulty.inject("*", Fault.FAIL, error=OSError)
    with pytest.raises(StorageUnavailableError):
        store.flush(60)
    assert bench.get(store, 1) == 1
