"""What a chunk is on disk: its manifest, the parts it is cut into, and the rest that lies in the manifest."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers.errors import FormatError
from lms_tiers.messages import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb.layout import LONGEST, MAX_KEY_BYTES, Manifest, key_hash, part_key, part_keys, seal
from lms_tiers.plugins.lmdb.parts import FINER_PAGES, PART_PAGES, TAIL_MOST, cut
from lms_tiers.plugins.lmdb.preparing import MAX_DIMENSIONS

KIB, MIB = 1 << 10, 1 << 20
SEED = 12345


def a_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "key": b"the key", "meta": ChunkMeta(1000, MemoryFormat.BINARY, "bfloat16", (2, 250)), "sequence": 0,
        "stored": 8192, "created": 0, "layout": "", "block_bytes": 0, "blocks": (), "groups": ((2, 400), (1, 100)),
        "pages": (9, 8, 0), "checksum": 2**64 - 1, "tail": b"t" * 100,
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"groups": (), "pages": (), "tail": b"x" * 1000},
        {"groups": ((1, 1000),), "pages": (2**32 - 1,), "tail": b""},
        {"layout": "planes/3", "block_bytes": 4096, "blocks": (300, 20), "groups": ((3, 100),), "tail": b"y" * 20},
        {"meta": ChunkMeta(0, MemoryFormat.UNDEFINED, None, ()), "groups": (), "pages": (), "tail": b""},
    ],
)
def test_a_manifest_reads_back_as_it_was_packed_and_sealed(changes: dict[str, Any]) -> None:
    manifest = a_manifest(**changes)
    record: Any = manifest.pack()
    assert len(record) == manifest.nbytes
    seal(record, 77, 1234567, manifest.pages, SEED)
    read = Manifest.unpack(record, SEED)
    assert read == a_manifest(**{**changes, "sequence": 77, "created": 1234567})
    assert Manifest.peek(record, SEED) == (read.key, read.layout, read.meta.pack(), read.stored)
    # A commit that failed is tried again under another number.
    seal(record, 78, 1234568, [0] * len(manifest.pages), SEED)
    assert Manifest.unpack(record, SEED).sequence == 78
    assert not any(Manifest.unpack(record, SEED).pages)


def test_every_flipped_bit_of_a_manifest_and_every_cut_is_found() -> None:
    record: Any = a_manifest().pack()
    seal(record, 1, 2, (9, 8, 0), SEED)
    for at in range(len(record)):
        for bit in range(8):
            record[at] ^= 1 << bit
            for read in (Manifest.unpack, Manifest.peek):
                with pytest.raises(FormatError):
                    read(bytes(record), SEED)
            record[at] ^= 1 << bit
        with pytest.raises(FormatError):
            Manifest.unpack(bytes(record[:at]), SEED)
    with pytest.raises(FormatError):
        Manifest.unpack(record, SEED + 1)


@pytest.mark.parametrize("changes", [{"tail": b"t" * 99}, {"groups": ((3, 299),)}, {"tail": b""}])
def test_a_manifest_whose_lengths_disagree_is_refused(changes: dict[str, Any]) -> None:
    record: Any = a_manifest(**changes).pack()
    seal(record, 1, 2, (9, 8, 0), SEED)
    with pytest.raises(FormatError, match="disagree"):
        Manifest.unpack(record, SEED)


def test_part_keys_are_the_keys_of_the_parts() -> None:
    assert part_keys(99, 3) == [part_key(99, number) for number in range(3)]
    assert part_keys(2**64 - 1, 0) == []


def test_cuts_cover_a_value_and_leave_over_no_more_than_a_tail() -> None:
    draw = random.Random(7)
    for length in [0, 1, TAIL_MOST, TAIL_MOST + 1, *(draw.randrange(40 * MIB) for _ in range(500))]:
        for pages in (PART_PAGES, *FINER_PAGES):
            whole = cut(length, 4096, pages)
            assert sum(count * size for count, size in whole) == length
            groups = cut(length, 4096, pages, tail=TAIL_MOST)
            left = length - sum(count * size for count, size in groups)
            assert 0 <= left <= TAIL_MOST
            assert groups == (whole[:-1] if left else whole)


@pytest.mark.parametrize(
    ("length", "parts"),
    [(0, 0), (1, 0), (TAIL_MOST, 0), (TAIL_MOST + 1, 1), (256 * KIB, 1), (MIB, 4), (2 * MIB, 8), (2 * MIB + 1000, 9)],
)
def test_the_rest_of_a_chunk_lies_in_its_manifest(
    opening: Callable[..., Any], message: Any, content: Any, length: int, parts: int
) -> None:
    data = content(3, length)
    key = OpaqueKey("k")
    with opening() as backend:
        backend.put(message("k", length), data)
        with backend._tables.reading() as txn:
            assert txn.stat(backend._tables.parts)["entries"] == parts
        assert backend.get(key).data == data
        target = bytearray(b"?" * (length + 10))
        assert backend.get_into(key, target).length == length
        assert target == data + b"?" * 10
        with backend.view(key) as view:
            assert bytearray().join(view.buffers) == data
        halves = [bytearray(length // 2), bytearray(length - length // 2)]
        assert backend.get_scattered(key, halves).length == length
        assert halves[0] + halves[1] == data
        backend.remove(key)
        with backend._tables.reading() as txn:
            assert txn.stat(backend._tables.parts)["entries"] == 0


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
def test_no_chunk_is_charged_more_than_its_length_reserves_however_it_is_cut(
    opening: Callable[..., Any], message: Any, content: Any, codec: str
) -> None:
    draw = random.Random(11)
    with opening(codec=codec) as backend:
        preparing = backend._preparing
        for _ in range(400):
            length = draw.choice([draw.randrange(6000), draw.randrange(300_000), draw.randrange(3 * MIB)])
            meta = message("k" * draw.randint(1, MAX_KEY_BYTES), length)
            dimensions = draw.randrange(MAX_DIMENSIONS)
            meta.shape = (length, *(1,) * dimensions)
            data = content(length, length)
            if draw.random() < 0.5:
                data[: length // 2] = bytes(length // 2)  # half of it compresses
            most = backend.reserve_bytes(length)
            chunk = preparing.prepare(meta, data)
            for pages in FINER_PAGES:
                assert chunk.manifest.stored <= most
                chunk = preparing.finer(chunk, pages)
            assert chunk.manifest.stored <= most
            preparing.give_back(chunk.scratch)


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": ChunkMeta(2**32 - 1, MemoryFormat.BINARY, None, ()), "groups": ((1, 2**32 - 1),), "pages": (0,)},
        {"meta": ChunkMeta(LONGEST + 1, MemoryFormat.BINARY, None, ()), "groups": ((1, LONGEST + 1),), "pages": (0,)},
        {
            "meta": ChunkMeta(2**50, MemoryFormat.BINARY, None, ()), "layout": "zstd/1", "block_bytes": 4096,
            "blocks": (100,), "groups": ((1, 100),), "pages": (0,),
        },
        {"layout": "zstd/1", "block_bytes": 4096, "blocks": (2**31,) * 8, "groups": ((8, 2**31),), "pages": (0,) * 8},
    ],
)  # fmt: skip
def test_a_manifest_longer_than_any_put_is_damage_before_memory_is_taken(changes: dict[str, Any]) -> None:
    manifest = a_manifest(tail=b"", **changes)
    record: Any = manifest.pack()
    seal(record, 1, 2, manifest.pages, SEED)
    with pytest.raises(FormatError, match="more bytes than any put"):
        Manifest.unpack(record, SEED)


def test_a_chunk_said_to_be_longer_than_any_put_is_a_miss_and_leaves(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening(codec="zstd:1") as backend:
        backend.put(message("k", 100_000), bytearray(100_000))
        tables, hashed = backend._tables, key_hash(b"k", backend._seed)
        with tables.env.begin(write=True, buffers=True) as txn:
            found = Manifest.unpack(txn.get(hashed, db=tables.chunks), backend._seed)
            bomb = found._replace(meta=ChunkMeta(2**50, found.meta.fmt, None, ()))
            record = bomb.pack()
            seal(record, bomb.sequence, bomb.created, bomb.pages, backend._seed)
            txn.put(hashed, record, db=tables.chunks)
        assert backend.get(OpaqueKey("k")) is None
        assert backend.stats().corrupt == 1
        assert not backend.contains(OpaqueKey("k"))
