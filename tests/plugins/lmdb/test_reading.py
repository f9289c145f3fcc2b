"""Batches of reads: neighbours together, into the callers' buffers, which are not touched where they do not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lms_tiers.errors import CapacityError, InvalidBufferError
from lms_tiers.messages import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import reading, ring

KIB = 1 << 10
KEY = OpaqueKey("k")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offset of each `preadv`."""
    offsets: list[int] = []
    preadv = os.preadv

    def noting(fd: int, buffers: Any, offset: int) -> int:
        offsets.append(offset)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", noting)
    return offsets


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
def test_neighbours_are_read_by_one_call_each_into_its_own_buffer(
    opening: Callable[..., Any], message: Any, content: Any, reads: list[int], codec: str
) -> None:
    with opening(codec=codec) as backend:
        sizes = [n * 7 * KIB + n for n in range(16)]
        backend.put_many([(message(n, size), content(n, size)) for n, size in enumerate(sizes)])
        reads.clear()
        buffers = [[bytearray(size // 2), bytearray(size - size // 2 + 3)] for size in sizes]
        found = backend.get_many_into([(OpaqueKey(str(n)), buffers[n]) for n in range(15, -1, -1)])
        assert len(reads) == 1
        assert [meta.length for meta in found] == sizes[::-1]
        for n, size in enumerate(sizes):
            assert bytes(buffers[n][0] + buffers[n][1])[:size] == content(n, size)
        reads.clear()
        assert [obj.data for obj in backend.get_many([OpaqueKey(str(n)) for n in range(16)])] == [
            content(n, size) for n, size in enumerate(sizes)
        ]
        assert len(reads) == 1


def test_what_was_read_is_checked_before_more_is_read(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_TOGETHER", 40 * KIB)
    sizes = [16 * KIB, 16 * KIB, 60 * KIB, 16 * KIB, 30 * KIB]
    done: list[str] = []
    with opening() as backend:
        backend.put_many([(message(n, size), content(n, size)) for n, size in enumerate(sizes)])
        readv, checksum_of = backend._store.data.readv, reading.checksum_of

        def read(*given: Any) -> Any:
            done.append("read")
            return readv(*given)

        def check(pieces: Any) -> int:
            done.append("check")
            return checksum_of(pieces)

        monkeypatch.setattr(backend._store.data, "readv", read)
        monkeypatch.setattr(reading, "checksum_of", check)
        found = backend.get_many([OpaqueKey(str(n)) for n in range(5)])
        assert [obj.data for obj in found] == [content(n, size) for n, size in enumerate(sizes)]
    assert done == ["read", "check", "check", "read", "check", "read", "check", "read", "check"]


def test_a_buffer_that_a_chunk_does_not_fit_is_as_it_was(
    opening: Callable[..., Any], message: Any, content: Any, reads: list[int]
) -> None:
    with opening() as backend:
        for n in range(3):
            backend.put(message(n, 10 * KIB), content(n, 10 * KIB))
        short, right = bytearray(b"x" * (10 * KIB - 1)), bytearray(10 * KIB)
        reads.clear()
        with pytest.raises(InvalidBufferError):
            backend.get_into(OpaqueKey("0"), short)
        with pytest.raises(InvalidBufferError):
            backend.get_scattered(OpaqueKey("0"), [short[:100], short[:100]])
        assert reads == []
        found = backend.get_many_into([(OpaqueKey("1"), [short]), (OpaqueKey("2"), [right]), (OpaqueKey("9"), [right])])
        assert [meta is not None for meta in found] == [False, True, False]
        assert short == b"x" * (10 * KIB - 1)
        assert right == content(2, 10 * KIB)


def test_a_damaged_chunk_among_neighbours_is_one_miss(opening: Callable[..., Any], message: Any, content: Any) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 10 * KIB), content(n, 10 * KIB)) for n in range(5)])
        page = backend._reader.located("2").extents[0][0]
        os.pwrite(backend._store.data.fd, b"?", page * 4096 + 5000)
        found = backend.get_many([OpaqueKey(str(n)) for n in range(5)])
        assert [obj and bytes(obj.data) for obj in found] == [
            None if n == 2 else bytes(content(n, 10 * KIB)) for n in range(5)
        ]
        assert backend.stats().corrupt == 1
        assert not backend.contains(OpaqueKey("2"))


def test_a_chunk_of_several_extents_reads_and_moves_like_any_other(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening(capacity=2 << 20) as backend, opening("other") as other:
        with pytest.raises(CapacityError):
            backend.put_many([(message(n, 3 * KIB), content(n, 3 * KIB)) for n in range(1000)])
        backend.remove_many(backend.list_keys()[::2])
        size = 100 * KIB
        names = (f"big {n}" for n in range(100))
        for name in names:
            backend.put(message(name, size), content(500, size))
            if len(backend._reader.located(name).extents) > 10:
                break
        key = OpaqueKey(name)
        assert backend.get(key).data == content(500, size)
        assert other.put_from([message(name, size)], backend) == [True]
        assert other.get(key).data == content(500, size)
        pieces = [bytearray(3333) for _ in range(40)]
        backend.get_scattered(key, pieces)
        assert b"".join(pieces)[:size] == content(500, size)
    with opening(capacity=2 << 20) as backend:
        assert backend.get(key).data == content(500, size)


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
def test_a_chunk_is_read_into_more_buffers_than_one_system_call_takes(
    opening: Callable[..., Any], message: Any, content: Any, codec: str
) -> None:
    with opening(codec=codec) as backend:
        backend.put(message("k", 9000), content(1, 9000))
        for read in ("get_scattered", "get_many_into"):
            pieces = [bytearray(3) for _ in range(3000)]
            if read == "get_scattered":
                assert backend.get_scattered(KEY, pieces) is not None
            else:
                assert backend.get_many_into([(KEY, pieces)])[0] is not None
            assert b"".join(pieces) == content(1, 9000)


def test_a_chunk_without_bytes_is_read_into_any_buffer(opening: Callable[..., Any], message: Any) -> None:
    with opening() as backend:
        backend.put(message("k", 0), bytearray())
        for buffer in (bytearray(), np.empty((0, 3), np.float32), bytearray(8)):
            assert backend.get_into(KEY, buffer).length == 0


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
def test_a_store_past_the_page_cache_holds_what_it_was_given(
    opening: Callable[..., Any], message: Any, content: Any, sync: str
) -> None:
    sizes = [0, 1, 4096, 5000, 300_001]
    with opening(direct=True, sync=sync) as backend:
        backend.put_many([(message(n, size), content(n, size)) for n, size in enumerate(sizes)])
        assert [obj.data for obj in backend.get_many([OpaqueKey(str(n)) for n in range(5)])] == [
            content(n, size) for n, size in enumerate(sizes)
        ]
        backend.remove(OpaqueKey("3"))
        backend.put(message("new", 5000), content(9, 5000))
        assert backend.get(OpaqueKey("new")).data == content(9, 5000)
    with opening(direct=True) as backend:
        assert backend.get(OpaqueKey("4")).data == content(4, 300_001)


def test_batches_are_read_into_memory_that_is_used_again_once_nobody_sees_it(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def fresh(nbytes: int) -> bytearray:
        made.append(nbytes)
        return bytearray(nbytes)

    monkeypatch.setattr(ring, "receive_buffer", fresh)
    size = 100 * KIB
    keys = [OpaqueKey(str(n)) for n in range(8)]
    with opening() as backend:
        backend.put_many([(message(n, size), content(n, size)) for n in range(8)])
        held: list[Any] = []
        for turn in range(6):
            found = backend.get_many(keys)  # while the last batch is still held
            assert [obj.data for obj in found] == [content(n, size) for n in range(8)]
            if turn == 2:
                held = [memoryview(found[3].data), found[5].data]
            if turn == 3:
                reused = len(made)
        assert len(made) < 48
        assert held == [content(3, size), content(5, size)], "what somebody holds is not written to"
        assert len(made) - reused < 16
    assert held == [content(3, size), content(5, size)]


def test_a_ring_remembers_no_more_than_its_limit_of_any_lengths() -> None:
    kept = ring.Ring(1 << 20)
    for turn in range(50):
        for nbytes in (40_000, 300_000, 500_000 + turn, 2 << 20):
            assert len(kept.lend(ChunkMeta(nbytes, MemoryFormat.BINARY, None, (nbytes,)))[0]) == nbytes
            assert kept._nbytes == sum(n * len(of) for n, of in kept._handed.items()) <= 1 << 20


def test_a_long_batch_holds_given_up_pages_back_a_part_at_a_time(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_READ_TOGETHER", 2)
    inside: list[frozenset[int]] = []
    with opening() as backend:
        for n in range(6):
            backend.put(message(n, 5000), content(n, 5000))
        readv = backend._store.data.readv

        def noting(*args: Any) -> Any:
            inside.append(frozenset(backend._store.calls.inside))
            return readv(*args)

        monkeypatch.setattr(backend._store.data, "readv", noting)
        assert [one.data for one in backend.get_many([OpaqueKey(str(n)) for n in range(6)])] == [
            content(n, 5000) for n in range(6)
        ]
        assert len(set(inside)) == 3
