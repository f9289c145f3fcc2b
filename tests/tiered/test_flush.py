"""A flush that returns has brought everything down; one that could not says so."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from lms_tiers.errors import StorageFullError, StorageUnavailableError
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage
from tests.tiered.conftest import Weighed


class Kept(Weighed):
    """Survives its store, as far as that is told."""

    capabilities = replace(Weighed.capabilities, persistent=True)


def test_flush_tries_a_write_that_failed_again(bench: Any) -> None:
    class Once(Kept):
        failed = False

        def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
            if not self.failed:
                self.failed = True
                raise OSError("once")
            super().put(client_meta, kv_chunk_bytes)

    store = bench.store(1000, 100_000, backends=[Weighed(), Once()])
    bench.put(store, 3, 3)
    store.flush(60)
    assert store.tiers_of(bench.key(3)) == ("t0", "t1")


def test_flush_says_so_where_a_chunk_could_not_be_written(bench: Any) -> None:
    class Never(Kept):
        def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
            if client_meta.key.chunk_hash == 3:
                raise OSError("never")
            super().put(client_meta, kv_chunk_bytes)

    store = bench.store(1000, 100_000, backends=[Weighed(), Never()])
    bench.put(store, 3, 3)
    bench.put(store, 4, 4)
    for _ in range(2):
        with pytest.raises(StorageUnavailableError, match="1 chunks could not be brought down"):
            store.flush(60)
    assert store.tiers_of(bench.key(4)) == ("t0", "t1")
    assert bench.get(store, 3) == 3


def test_flush_says_so_where_the_tier_above_is_switched_off(bench: Any) -> None:
    class Sick(Weighed):
        def get(self, key: CacheEngineKey) -> Any:
            raise OSError("no")

    store = bench.store(1000, 100_000, backends=[Sick(), Kept()], breaker_threshold=1, breaker_cooldown=60.0)
    bench.put(store, 1, 1)
    assert bench.get(store, 1) is None
    with pytest.raises(StorageUnavailableError):
        store.flush(60)


def test_flush_says_so_where_the_medium_is_too_full_to_delete(bench: Any) -> None:
    class Full(Kept):
        full = False

        def remove_many(self, keys: Any) -> None:
            if self.full:
                raise StorageFullError("disk", "full")
            super().remove_many(keys)

    lower = Full()
    store = bench.store(1000, 100_000, backends=[Weighed(), lower])
    bench.put(store, 1, 1)
    store.flush(60)
    lower.full = True
    store.remove(bench.key(1))
    try:
        with pytest.raises(StorageFullError):
            store.flush(60)
    finally:
        lower.full = False
    store.drain(60)
    assert lower.weight == 0


def test_flush_returns_when_the_backend_has_been_told_what_was_used(bench: Any) -> None:
    gate, inside = threading.Event(), threading.Event()

    class Telling(Kept):
        def touch(self, keys: Any) -> None:
            inside.set()
            assert gate.wait(60)
            super().touch(keys)

    lower = Telling()
    store = bench.store(1000, 100_000, backends=[Weighed(), lower])
    bench.put(store, 1, 1)
    store.flush(60)
    assert bench.get(store, 1) == 1
    told: list[list[str]] = []

    def flush() -> None:
        store.flush(60)
        told.append(list(lower.touches))

    thread = threading.Thread(target=flush)
    thread.start()
    assert inside.wait(60)
    looks = bench.counted(store._movers[1], "poke")
    bench.until(lambda: len(looks) > 1 or told)  # it has looked, and waits again
    assert not told
    gate.set()
    thread.join(60)
    assert told == [[bench.key(1).to_string()]]
