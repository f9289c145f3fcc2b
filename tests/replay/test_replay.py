"""The replay engine: what it counts, against a model, and what it says of backends that are at fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from lms_tiers.errors import CapacityError, ConfigError
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj, MemoryFormat, OpaqueKey
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.replay import replay as engine
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.generate import TraceShape, generate_trace
from lms_tiers.replay.keys import BlockKeys, KeyKind, key_types
from lms_tiers.replay.replay import Replay, ReplayResult, Timing
from lms_tiers.replay.trace import Request

SIZE = 2048


class NoMeter:
    def sample(self) -> tuple[int, ...]:
        return (0,)


@pytest.fixture(scope="module")
def blocks() -> BlockBytes:
    return BlockBytes(SIZE)


@pytest.fixture(scope="module")
def trace() -> list[Request]:
    return generate_trace(TraceShape(requests=60, seed=3))


def run(
    backend: LMSLocalBackend, trace: Sequence[Request], blocks: BlockBytes, kind: KeyKind = "native", **options: Any
) -> ReplayResult:
    return Replay(backend, blocks, BlockKeys(SIZE, key_types(kind)), NoMeter(), **options).run(trace)


def chain(*ids: int | str, tokens: int | None = None, at: float = 0) -> Request:
    return Request(at, 512 * len(ids) if tokens is None else tokens, 1, ids)


def infinite_hits(trace: Sequence[Request]) -> int:
    seen: set[int | str] = set()
    hits = 0
    for request in trace:
        hits += next((i for i, b in enumerate(request.hash_ids) if b not in seen), len(request.hash_ids))
        seen.update(request.hash_ids)
    return hits


def test_a_backend_that_keeps_everything_hits_what_an_infinite_cache_hits(
    trace: list[Request], blocks: BlockBytes
) -> None:
    backend = LMSLocalBackend()
    result = run(backend, trace, blocks)
    assert result.requests == 60
    assert result.blocks == sum(len(r.hash_ids) for r in trace)
    assert result.prefix_hits == result.verified == infinite_hits(trace) > 0
    assert result.put.blocks == result.blocks - result.prefix_hits
    assert (result.wrong, result.vanished, result.refused) == (0, 0, 0)
    assert len(backend.list_keys()) == len({b for r in trace for b in r.hash_ids})


def test_keys_that_look_like_those_of_lmcache_give_the_same_result(
    trace: list[Request], blocks: BlockBytes, lmcache: None
) -> None:
    mine, theirs = LMSLocalBackend(), LMSLocalBackend()
    a, b = run(mine, trace, blocks), run(theirs, trace, blocks, "lmcache")
    assert (a.blocks, a.prefix_hits, a.verified, a.wrong) == (b.blocks, b.prefix_hits, b.verified, b.wrong)
    assert b.wrong == 0
    assert mine.list_keys() == theirs.list_keys()
    # What one put, the other reads.
    assert run(mine, trace[:5], blocks, "lmcache").prefix_hits == sum(len(r.hash_ids) for r in trace[:5])


def test_keys_of_lmcache_without_lmcache_are_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lmcache", None)
    with pytest.raises(ConfigError, match="need the package lmcache"):
        key_types("lmcache")


def test_prefix_hits_end_at_the_first_block_not_cached(blocks: BlockBytes) -> None:
    backend = LMSLocalBackend()
    run(backend, [chain(1, 2, 3, 4)], blocks)
    backend.remove(BlockKeys(SIZE, key_types("native")).key(3))
    result = run(backend, [chain(1, 2, 3, 4)], blocks)
    assert (result.prefix_hits, result.put.blocks) == (2, 2)


def test_hits_are_counted_before_the_request_puts_anything(blocks: BlockBytes) -> None:
    result = run(LMSLocalBackend(), [chain(1, 2), chain(1, 2)], blocks)
    assert [s.prefix_hits for s in result.samples] == [0, 2]
    assert [s.blocks for s in result.samples] == [2, 4]


def test_a_partial_last_block_is_put_unless_told_otherwise(blocks: BlockBytes) -> None:
    trace = [chain(1, 2, tokens=600), chain(1, 2, 3, tokens=3 * 512)]
    assert run(LMSLocalBackend(), trace, blocks).put.blocks == 3
    result = run(LMSLocalBackend(), trace, blocks, keep_partial=False)
    assert (result.prefix_hits, result.put.blocks) == (1, 3)


def test_ids_that_are_texts_are_other_blocks_than_numbers(blocks: BlockBytes) -> None:
    backend = LMSLocalBackend()
    result = run(backend, [chain(1, "1", "a"), chain(1, "1", "a")], blocks)
    assert (result.prefix_hits, result.wrong) == (3, 0)
    assert len(backend.list_keys()) == 3


def test_blocks_of_another_size_left_in_a_store_are_other_chunks(blocks: BlockBytes) -> None:
    backend = LMSLocalBackend()
    run(backend, [chain(1, 2)], blocks)
    other = Replay(backend, BlockBytes(4096), BlockKeys(4096, key_types("native")), NoMeter()).run([chain(1, 2)])
    assert (other.prefix_hits, other.wrong) == (0, 0)


def test_a_request_larger_than_a_window_is_moved_in_several_calls(
    blocks: BlockBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_WINDOW", 3 * SIZE)
    calls: list[int] = []

    class Counting(LMSLocalBackend):
        def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
            calls.append(len(keys))
            return super().get_many(keys)

    result = run(Counting(), [chain(*range(8)), chain(*range(8))], blocks)
    assert (result.prefix_hits, result.verified, result.put.blocks, calls) == (8, 8, 8, [3, 3, 2])


class Lying(LMSLocalBackend):
    """Answers one key otherwise."""

    def __init__(self, key: CacheEngineKey) -> None:
        super().__init__()
        self._liar = key

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        obj = super().get(key)
        return self.lie(obj) if obj is not None and key == self._liar else obj

    def lie(self, obj: LMSMemoryObj) -> LMSMemoryObj | None:
        raise NotImplementedError


def lying(how: str) -> type[Lying]:
    class Backend(Lying):
        def lie(self, obj: LMSMemoryObj) -> LMSMemoryObj | None:
            flipped = bytearray(obj.data)
            flipped[-1] ^= 0x80
            return {
                "one bit": dataclasses.replace(obj, data=flipped),
                "short": dataclasses.replace(obj, data=obj.data[:-8]),
                "length": dataclasses.replace(obj, length=obj.length - 8),
                "format": dataclasses.replace(obj, fmt=MemoryFormat.KV_2TD),
                "dtype": dataclasses.replace(obj, dtype=None),
                "shape": dataclasses.replace(obj, shape=obj.shape[:3]),
                "gone": None,
            }[how]

    return Backend


KEY = BlockKeys(SIZE, key_types("native")).key(2)


@pytest.mark.parametrize("how", ["one bit", "short", "length", "format", "dtype", "shape"])
def test_one_wrong_byte_or_field_is_a_wrong_block_and_named(how: str, blocks: BlockBytes) -> None:
    result = run(lying(how)(KEY), [chain(1, 2, 3), chain(1, 2, 3)], blocks)
    assert (result.verified, result.wrong, result.wrong_keys) == (3, 1, [KEY.to_string()])


def test_a_block_answered_for_another_is_wrong(blocks: BlockBytes) -> None:
    class Swapping(LMSLocalBackend):
        def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
            return super().get_many(keys[::-1])

    assert run(Swapping(), [chain(1, 2), chain(1, 2)], blocks).wrong == 2


def test_a_block_that_leaves_between_look_up_and_get_is_a_miss_and_not_wrong(blocks: BlockBytes) -> None:
    result = run(lying("gone")(KEY), [chain(1, 2, 3), chain(1, 2, 3)], blocks)
    assert (result.prefix_hits, result.vanished, result.wrong) == (1, 1, 0)
    # Only the one that was missing is put again.
    assert (result.verified, result.put.blocks) == (2, 4)


def test_puts_for_which_there_is_no_room_are_counted_one_by_one(blocks: BlockBytes) -> None:
    class Full(LMSLocalBackend):
        def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
            if len(self._chunks) >= 3:
                raise CapacityError("full", SIZE, 0)
            super().put(client_meta, kv_chunk_bytes)

    result = run(Full(), [chain(1, 2, 3, 4, 5), chain(1, 2, 3, 4, 5)], blocks)
    assert (result.refused, result.prefix_hits, result.wrong) == (4, 3, 0)


def test_a_store_that_takes_requests_is_told_each_and_its_partial_block(blocks: BlockBytes) -> None:
    told: list[tuple[int, tuple[str, ...]]] = []

    class Store(LMSLocalBackend):
        @contextmanager
        def request(self, request_id: int, partial_keys: Sequence[CacheEngineKey] = ()) -> Iterator[None]:
            told.append((request_id, tuple(key.to_string() for key in partial_keys)))
            yield

    run(Store(), [chain(1, 2), chain(1, 3, tokens=700)], blocks)
    tail = BlockKeys(SIZE, key_types("native")).key(3).to_string()
    assert told == [(0, ()), (1, (tail,))]


def test_a_blocks_latency_is_its_share_of_the_call() -> None:
    timing = Timing()
    timing.add(0.4, 4)
    timing.add(1.0, 1)
    assert timing.percentile_ms(50) == pytest.approx(100)
    assert timing.percentile_ms(99) == pytest.approx(1000)
    assert timing.mb_s(7_000_000) == pytest.approx(25)


def test_without_a_call_there_is_no_rate_and_no_latency() -> None:
    assert Timing().percentile_ms(50) is None
    assert Timing().mb_s(1) is None


def test_an_opaque_look_alike_of_a_key_is_the_same_chunk(blocks: BlockBytes) -> None:
    backend = LMSLocalBackend()
    run(backend, [chain(2)], blocks)
    assert backend.contains(OpaqueKey(KEY.to_string()))
