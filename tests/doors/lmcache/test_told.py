"""What LMCache is told: what is stored, used and deleted, and how much there is, at every moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import (
    ChunkMeta,
    ClientMetaMessage,
    CreateStorageBackend,
    LMSLocalBackend,
    MemoryFormat,
    OpaqueKey,
)
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from tests.depth import drawn
from tests.doors.lmcache.engine import Listener, Loops, key
from tests.doors.lmcache.test_adapter import until

Open = Callable[..., Any]
Faulty = Callable[..., tuple[Any, FaultyBackend]]
SIZE = 2 * 2 * 16 * 32 * 2


def held(adapter: Any) -> dict[int, int]:
    """What the store itself says is there: number of the chunk, and its length."""
    found = {}
    for chunk in adapter._place.store.scan():
        name = adapter._names.parsed(chunk.key.to_string())
        if name is not None:
            found[int.from_bytes(name.chunk_hash, "big")] = chunk.meta.length
    return found


def told(listener: Listener) -> dict[int, int]:
    return {int.from_bytes(one.chunk_hash, "big"): size for one, size in listener.sizes.items()}


def test_a_store_is_told_of_before_its_result_and_a_use_at_its_load(adapter: Open) -> None:
    loops, listener = Loops(adapter()), Listener()
    loops.adapter.register_listener(listener)
    loops.put(range(5))
    assert told(listener) == dict.fromkeys(range(5), SIZE)
    assert loops.adapter.get_usage().total_bytes_used == 5 * SIZE
    loops.get([2, 99, 4])
    assert listener.accessed == [key(2), key(4)]
    loops.put(range(5))  # again: nothing is new
    assert loops.adapter.get_usage().total_bytes_used == 5 * SIZE
    assert not listener.wrong


def test_usage_is_told_for_each_salt(adapter: Open) -> None:
    loops = Loops(adapter())
    loops.put(range(3))
    loops.put(range(10, 14), salt="tenant")
    assert dict(loops.adapter.get_usage().bytes_by_cache_salt) == {"": 3 * SIZE, "tenant": 4 * SIZE}
    loops.adapter.delete([key(10, salt="tenant"), key(11), key(0)])
    assert dict(loops.adapter.get_usage().bytes_by_cache_salt) == {"": 2 * SIZE, "tenant": 3 * SIZE}
    assert loops.adapter.get_usage().total_capacity_bytes == 0, "the store bounds itself"


def test_what_is_deleted_is_told_and_gone(adapter: Open) -> None:
    loops, listener = Loops(adapter()), Listener()
    loops.adapter.register_listener(listener)
    loops.put(range(4))
    loops.lookup([key(1)])
    loops.adapter.delete([key(1), key(3), key(77)])
    assert told(listener) == {0: SIZE, 2: SIZE}
    assert loops.lookup([key(i) for i in range(4)]) == [True, False, True, False]
    assert not listener.wrong


def test_what_the_store_evicts_is_told(adapter: Open) -> None:
    loops, listener = Loops(adapter(f"cpu?capacity={10 * SIZE}B")), Listener()
    loops.adapter.register_listener(listener)
    loops.put(range(50))
    until(lambda: told(listener) == held(loops.adapter))
    assert 0 < len(listener.sizes) <= 10
    assert loops.adapter.get_usage().total_bytes_used == len(listener.sizes) * SIZE
    assert sorted(int(text, 16) for text, _ in loops.listed()) == sorted(told(listener))
    assert not listener.wrong


def test_a_failed_store_is_invisible(faulty: Faulty) -> None:
    adapter, backend = faulty()
    loops, listener = Loops(adapter), Listener()
    adapter.register_listener(listener)
    for operation in ("put", "put_many", "put_from", "view"):
        backend.inject(operation, Fault.FAIL)
    result = loops.put(range(5))
    assert not result.is_successful()
    assert result.bytes_transferred() == 0
    assert loops.lookup([key(i) for i in range(5)]) == [False] * 5
    assert loops.get(range(5)) == [None] * 5
    assert not listener.sizes
    assert not listener.wrong
    assert adapter.get_usage().total_bytes_used == 0
    assert adapter.report_status()["failed_stores"] == 1
    backend.heal()
    assert loops.put(range(5)).is_successful()
    assert loops.get(range(5)) == [True] * 5


class Picky(LMSLocalBackend):
    """Takes no chunk whose key ends in 2."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        if client_meta.key.to_string().endswith("2"):
            raise StorageUnavailableError("picky", "does not take this one")
        super().put(client_meta, kv_chunk_bytes)

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        for client_meta, data in items:
            self.put(client_meta, data)


def test_one_object_that_cannot_be_stored_costs_no_other(faulty: Faulty) -> None:
    loops, listener = Loops(faulty(inner=Picky())[0]), Listener()
    loops.adapter.register_listener(listener)
    assert not loops.put(range(5)).is_successful()
    assert loops.lookup([key(i) for i in range(5)]) == [True, True, False, True, True]
    assert loops.get(range(5)) == [True, True, None, True, True]
    assert told(listener) == dict.fromkeys([0, 1, 3, 4], SIZE)


def test_a_listener_that_comes_late_is_told_of_all_that_is_there(adapter: Open) -> None:
    loops = Loops(adapter())
    loops.put(range(30))
    loops.adapter.delete([key(5)])
    late = Listener()
    loops.adapter.register_listener(late)
    assert told(late) == held(loops.adapter)
    loops.put([5, 40])
    assert told(late) == held(loops.adapter)
    assert not late.wrong


@pytest.mark.parametrize("lower", ["", " > lmdb:{place}?capacity=64MiB&codec=raw"])
def test_after_a_restart_it_is_as_before(adapter: Open, tmp_path: Path, lower: str) -> None:
    device = "cpu?capacity=64MiB" + lower if lower else "lmdb:{place}?capacity=64MiB&codec=raw"
    device = device.format(place=tmp_path / "kv")
    first = Loops(adapter(device))
    first.put(range(20))
    first.put(range(20, 25), salt="s")
    first.adapter.delete([key(3)])
    usage = first.adapter.get_usage()
    first.adapter.close()
    again, listener = Loops(adapter(device)), Listener()
    again.adapter.register_listener(listener)
    assert again.adapter.get_usage() == usage
    assert told(listener) == held(again.adapter)
    assert len(listener.sizes) == 24
    assert again.lookup([key(i) for i in range(20)]) == [i != 3 for i in range(20)]
    assert again.get([0, 19]) == [True, True]


def test_chunks_of_others_in_the_same_store_are_none_of_lmcaches(adapter: Open, tmp_path: Path) -> None:
    device = f"lmdb:{tmp_path}?capacity=64MiB&codec=raw"
    meta = ChunkMeta(4, MemoryFormat.BINARY, "uint8", (4,))
    with CreateStorageBackend(device) as store:
        for text in ("plain", "0" * 32 + ":llama/8b@0x01000100@0@1f", "0" * 32 + ":x"):
            store.put(meta.message(OpaqueKey(text)), bytearray(4))
    loops, listener = Loops(adapter(device)), Listener()
    loops.adapter.register_listener(listener)
    assert not listener.sizes
    assert list(loops.listed()) == []
    loops.put([1])
    assert told(listener) == {1: SIZE}


@pytest.mark.parametrize("seeds", drawn(3, 40))
def test_drawn_calls_are_told_as_they_happened(seeds: range, faulty: Faulty) -> None:
    for seed in seeds:
        adapter, backend = faulty(capacity=12 * SIZE)
        drawn_calls(random.Random(seed), adapter, backend)
        adapter.close()


def drawn_calls(random_: random.Random, adapter: Any, backend: FaultyBackend) -> None:
    loops, listener = Loops(adapter), Listener()
    adapter.register_listener(listener)
    for _ in range(30):
        backend.heal()
        if random_.random() < 0.5:
            backend.inject("*", Fault.FAIL, probability=0.3)
        numbers = random_.sample(range(30), random_.randint(1, 8))
        match random_.randrange(4):
            case 0:
                adapter.delete([key(i) for i in numbers])
            case 1:
                loops.lookup([key(i) for i in numbers])
                adapter.submit_unlock([key(i) for i in numbers])
            case 2:
                assert False not in loops.get(numbers)
            case 3:
                loops.put(numbers)
        if random_.random() < 0.1:
            late = Listener()
            adapter.register_listener(late)
    backend.heal()
    until(lambda: told(listener) == held(adapter))
    assert adapter.get_usage().total_bytes_used == sum(listener.sizes.values())
    assert not listener.wrong
