"""Chunks into buffers of the caller's and out of them, by batches: what one by one would do, and nothing beside."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.shared import SharedEngine

from lms_tiers import LMSLocalBackend, RequestContext
from lms_tiers.errors import BackendClosedError, InvalidBufferError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from tests.depth import drawn
from tests.tiered.shapes import MEMORY, SHAPES, Room, lmdb_at
from tests.tiered.sharing import Held, trips
from tests.tiered.straight import Straight
from tests.tiered.test_parts import Records, places


def meta_of(bench: Any, i: int, size: int) -> ChunkMeta:
    return ChunkMeta.of(bench.meta(i, size), size)


def one_by_one(
    store: LMSBackendInterface, requests: Sequence[tuple[CacheEngineKey, Sequence[Any]]],
    expected: Sequence[ChunkMeta | None],
) -> list[ChunkMeta | None]:  # fmt: skip
    """The way of the contract: each chunk borrowed, and copied."""
    found = []
    for (key, buffers), meta in zip(requests, expected, strict=True):
        try:
            found.append(LMSBackendInterface.get_scattered(store, key, buffers, expected=meta))
        except InvalidBufferError:
            found.append(None)
    return found


def draw_room(rng: random.Random, size: int) -> tuple[int, ...]:
    """Sizes of buffers for a chunk: exact, too large, too small, in pieces."""
    total = max(0, size + rng.choice([0, 0, 0, 0, 9, -9]))
    if rng.random() < 0.5 or total < 3:
        return (total,)
    cut = sorted(rng.sample(range(total), rng.choice([1, 2])))
    return tuple(b - a for a, b in zip([0, *cut], [*cut, total], strict=True))


def program(bench: Any, store: Any, seed: int) -> None:
    rng = random.Random(seed)
    held: dict[int, tuple[int, int]] = {}  # value and size by key, where no tier had to let it go
    for step in range(12):
        what = rng.choice(["put", "put_from", "remove", "read", "read"])
        numbers = [rng.randrange(12) for _ in range(rng.randint(1, 9))]
        if what == "put":
            items = [(bench.meta(i, 40 + i), bench.data(step * 100 + i, 40 + i)) for i in numbers]
            store.put_many(items)
            held.update({i: (step * 100 + i, 40 + i) for i in numbers})
        elif what == "put_from":
            source = LMSLocalBackend()
            lent = {i: rng.choice([60 + i, 60 + i, 61 + i]) for i in numbers if rng.random() < 0.8}
            for i, size in lent.items():
                bench.put(source, i, step * 100 + i, size)
            answer = store.put_from([bench.meta(i, 60 + i) for i in numbers], source)
            assert answer == [lent.get(i) == 60 + i for i in numbers]
            held.update({i: (step * 100 + i, 60 + i) for i in numbers if lent.get(i) == 60 + i})
        elif what == "remove":
            store.remove_many([bench.key(i) for i in numbers[:2]])
            for i in numbers[:2]:
                held.pop(i, None)
        else:
            sizes = [draw_room(rng, held.get(i, (0, 50))[1]) for i in numbers]
            expected = [
                rng.choice([None, meta_of(bench, i, held.get(i, (0, 50))[1]), meta_of(bench, i, 7)]) for i in numbers
            ]
            ours, theirs = [Room(*s) for s in sizes], [Room(*s) for s in sizes]
            spoiled: set[int] = set()
            requests = [(bench.key(i), room.buffers) for i, room in zip(numbers, ours, strict=True)]
            found = store.get_many_into(iter(requests), expected=expected, spoiled=spoiled)
            assert found == one_by_one(
                store, [(bench.key(i), room.buffers) for i, room in zip(numbers, theirs, strict=True)], expected
            )
            assert not spoiled
            for i, meta, room, other in zip(numbers, found, ours, theirs, strict=True):
                assert room.intact
                assert room.whole == other.whole
                if meta is not None:
                    assert (meta, room.data[: meta.length]) == (
                        meta_of(bench, i, held[i][1]), bench.data(*held[i])
                    )  # fmt: skip
                else:
                    assert room.untouched


@pytest.mark.parametrize("seeds", drawn(10, 150))
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_answer_and_write_what_one_by_one_would(bench: Any, tmp_path: Path, shape: str, seeds: range) -> None:
    for seed in seeds:
        store = SHAPES[shape](bench, tmp_path / str(seed))
        try:
            program(bench, store, seed)
        except BaseException as error:
            error.add_note(f"{shape}, seed {seed}")
            raise
        bench.done(store)


def test_a_run_is_read_by_one_call_of_the_backend(bench: Any) -> None:
    backend = Straight()
    store = bench.store(MEMORY, backends=[backend])
    store.put_many([(bench.meta(i, 100), bench.data(i)) for i in range(9)])
    rooms = [Room(60, 40) for _ in range(10)]
    found = store.get_many_into([(bench.key(i), room.buffers) for i, room in enumerate(rooms)])
    assert [meta is not None for meta in found] == [True] * 9 + [False]
    assert [room.data for room in rooms[:9]] == [bench.data(i) for i in range(9)]
    assert backend.asked == [9]
    assert (store.stats().tiers[0].hits, store.stats().tiers[0].bytes_read) == (9, 900)


def test_what_is_not_expected_is_not_even_asked_for(bench: Any) -> None:
    backend = Straight()
    store = bench.store(MEMORY, backends=[backend])
    bench.put(store, 1, 1)
    right = meta_of(bench, 1, 100)
    wrongs = [
        replace(right, dtype="float16"), replace(right, shape=(50, 2)), replace(right, length=99), replace(right, shape=()),
    ]  # fmt: skip
    for wrong in wrongs:
        room = Room(120)
        assert store.get_many_into([(bench.key(1), room.buffers)], expected=[wrong]) == [None]
        assert store.get_scattered(bench.key(1), room.buffers, expected=wrong) is None
        assert room.untouched
    assert not backend.asked
    assert store.get_scattered(bench.key(1), Room(120).buffers, expected=right) == right


def test_buffers_that_cannot_take_the_chunk_are_an_error_alone_and_no_answer_in_a_batch(bench: Any) -> None:
    store = bench.store(MEMORY, backends=[Straight()])
    bench.put(store, 1, 1)
    short, fixed = Room(30, 30), [b"read only" * 20]
    for buffers in (short.buffers, fixed, ["no buffer"]):
        with pytest.raises(InvalidBufferError):
            store.get_scattered(bench.key(1), buffers)
        assert store.get_many_into([(bench.key(1), buffers)]) == [None]
    assert short.untouched
    assert store.get_scattered(bench.key(2), short.buffers) is None


def test_a_damaged_chunk_is_no_answer_and_its_slot_is_said_to_be_spoiled(bench: Any) -> None:
    backend = Straight()
    store = bench.store(MEMORY, backends=[backend])
    for i in range(4):
        bench.put(store, i, i)
    backend.damaged = {bench.key(1).to_string(), bench.key(2).to_string()}
    rooms, spoiled = [Room(100) for _ in range(6)], set[int]()
    found = store.get_many_into([(bench.key(i), room.buffers) for i, room in enumerate(rooms)], spoiled=spoiled)
    assert [meta is not None for meta in found] == [True, False, False, True, False, False]
    assert all(room.intact for room in rooms)
    assert {i for i, room in enumerate(rooms) if found[i] is None and any(room.data)} <= spoiled
    assert spoiled == {1, 2}
    assert not store.contains(bench.key(1))


def test_a_chunk_damaged_on_disk_is_no_answer(bench: Any, tmp_path: Path) -> None:
    store = bench.store(64 << 20, backends=[lmdb_at(tmp_path / "kv")])
    store.put_many([(bench.meta(i, 9000), bench.data(i, 9000)) for i in range(3)])
    data = bytes(bench.data(1, 9000))
    (file,) = [path for path in (tmp_path / "kv").iterdir() if data in path.read_bytes()]
    at = file.read_bytes().index(data)
    with file.open("r+b") as medium:
        medium.seek(at + 4500)
        medium.write(b"\xff")
    rooms, spoiled = [Room(5000, 4000) for _ in range(3)], set[int]()
    found = store.get_many_into([(bench.key(i), room.buffers) for i, room in enumerate(rooms)], spoiled=spoiled)
    assert [meta is not None for meta in found] == [True, False, True]
    assert spoiled == {1}
    assert all(room.intact for room in rooms)
    assert [rooms[i].data for i in (0, 2)] == [bench.data(i, 9000) for i in (0, 2)]


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.NOTHING, Fault.WRONG_LENGTH])
def test_a_tier_that_only_lends_its_bytes_spoils_nothing_when_it_fails(bench: Any, fault: Fault) -> None:
    faulty = FaultyBackend(bench.weighed())
    store = bench.store(MEMORY, backends=[faulty], breaker_threshold=99)
    for i in range(4):
        bench.put(store, i, i)
    faulty.inject("get_many", fault)
    faulty.inject("get", fault, times=2)
    rooms, spoiled = [Room(100) for _ in range(4)], set[int]()
    found = store.get_many_into([(bench.key(i), room.buffers) for i, room in enumerate(rooms)], spoiled=spoiled)
    assert [meta is not None for meta in found] == [False, False, True, True]
    assert [room.untouched for room in rooms] == [True, True, False, False]
    assert not spoiled


def overwrite(bench: Any, store: Any, size: int, key: CacheEngineKey) -> None:
    bench.put(store, key.to_string(), 2, size)


@pytest.mark.parametrize("when", ["before", "middle"])
@pytest.mark.parametrize("size", [60, 100, 130])
@pytest.mark.parametrize("expects", [True, False])
def test_a_chunk_overwritten_while_it_is_read_is_read_anew_or_not_the_expected_one(
    bench: Any, when: str, size: int, expects: bool
) -> None:
    backend = Straight()
    store = bench.store(MEMORY, backends=[backend])
    bench.put(store, 1, 1)
    setattr(backend, when, partial(overwrite, bench, store, size))
    room, spoiled = Room(150), set[int]()
    expected = [meta_of(bench, 1, 100)] if expects else None
    found = store.get_many_into([(bench.key(1), room.buffers)], expected=expected, spoiled=spoiled)
    if expects and size != 100:
        assert (found, spoiled) == ([None], {0})
        assert not any(room.data[100:]), "no more is written than what was looked at"
    else:
        assert (found, room.data[:size]) == ([meta_of(bench, 1, size)], bench.data(2, size))
        assert not spoiled
    assert room.intact


def test_a_late_backend_does_not_write_into_a_buffer_its_caller_has_got_back(bench: Any) -> None:
    below = Straight()
    go, inside = threading.Event(), threading.Event()
    read = below.get

    def late(key: CacheEngineKey) -> Any:
        inside.set()
        go.wait(60)
        return read(key)

    store = bench.store(150, MEMORY, backends=[bench.weighed(), below], read_deadline=0.01)
    for i in range(4):
        bench.put(store, i, i)
    store.drain(30)
    below.get = late  # type: ignore[method-assign]
    room, spoiled = Room(100), set[int]()
    assert store.get_many_into([(bench.key(0), room.buffers)], spoiled=spoiled) == [None]
    assert inside.wait(60)
    go.set()
    bench.until(lambda: not store._h.tiers[1].calls)
    assert room.untouched
    assert not spoiled
    assert not below.asked


def test_chunks_that_are_about_to_rise_do(bench: Any) -> None:
    below = Straight()
    store = bench.store(250, MEMORY, backends=[bench.weighed(), below])
    for i in range(6):
        bench.put(store, i, i)
    store.flush(30)
    rooms = [Room(100) for _ in range(2)]
    for turn in range(2):
        assert all(store.get_many_into([(bench.key(i), rooms[i].buffers) for i in range(2)])), turn
        store.drain(30)
    assert "t0" in store.tiers_of(bench.key(0))
    still = RequestContext("scan", promote=False)
    before = store.tiers_of(bench.key(2))
    for _ in range(3):
        assert all(store.get_many_into([(bench.key(2), rooms[0].buffers)], context=still))
    store.drain(30)
    assert store.tiers_of(bench.key(2)) == before == ("t1",)
    assert len(below.asked) == 1 + 3, "first hits and scans are written by the tier itself"


def test_the_shared_tier_is_asked_once_for_all_that_the_others_lack(
    bench: Any, host: Any, engine: SharedEngine
) -> None:
    a, b = host(), host()
    a.put_many([(bench.meta(i, 100), bench.data(i)) for i in range(6)])
    a.flush(60)
    bench.put(b, 0, 77)
    b.flush(60)
    rooms = [Room(30, 70) for _ in range(8)]
    expected = [None, None, None, meta_of(bench, 3, 99), *[None] * 4]
    found, asked = trips(
        engine,
        lambda: b.get_many_into([(bench.key(i), r.buffers) for i, r in enumerate(rooms)], expected=expected),
    )
    assert asked == 1
    assert [meta is not None for meta in found] == [True, True, True, False, True, True, False, False]
    assert [bench.data(77), *(bench.data(i) for i in (1, 2, 4, 5))] == [rooms[i].data for i in (0, 1, 2, 4, 5)]
    assert all(rooms[i].untouched for i in (3, 6, 7))
    b.drain(60)
    assert "ram" in b.tiers_of(bench.key(5)), "what was found rises"


def test_a_shared_tier_that_hangs_leaves_the_slot_alone(bench: Any, host: Any, engine: SharedEngine) -> None:
    a = host()
    bench.put(a, 1, 1)
    a.flush(60)
    held = Held()
    b = host(shared=held, deadline=0.01)
    room = Room(100)
    held.go.clear()
    assert b.get_many_into([(bench.key(1), room.buffers), (bench.key(2), [])]) == [None, None]
    held.go.set()
    assert room.untouched


def test_contexts_by_hand_place_the_chunks(bench: Any) -> None:
    policy = Records(10_000)
    store = bench.store(10_000, policies=[policy], backends=[Straight()])
    source = LMSLocalBackend()
    for i in (5, 6):
        bench.put(source, i, i)
    context = RequestContext("chatcmpl-7", chain=[bench.key(i) for i in range(1, 7)])
    assert store.put_from([bench.meta(i, 100) for i in (5, 6)], source, context=context) == [True, True]
    assert all(store.get_many_into([(bench.key(i), Room(100).buffers) for i in (5, 6)], context=context))
    store._h.tell()
    assert places(policy, bench) == [
        (5, 4, 4, None), (6, 5, 5, False), (5, 4, 4, None), (6, 5, 5, None),
    ]  # fmt: skip
    assert {c.request_id for _, c in policy.told} == {"chatcmpl-7"}


def test_a_closed_store_neither_fills_nor_takes(bench: Any) -> None:
    store = bench.store(MEMORY)
    bench.put(store, 1, 1)
    bench.done(store)
    calls: list[Callable[[], Any]] = [
        lambda: store.get_many_into([(bench.key(1), [bytearray(100)])]),
        lambda: store.get_scattered(bench.key(1), [bytearray(100)]),
        lambda: store.put_from([bench.meta(1, 100)], LMSLocalBackend()),
    ]
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()
