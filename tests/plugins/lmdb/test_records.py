"""What a chunk is on disk and in memory: its manifest, and how many pages it takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import xxhash

from lms_tiers.errors import InvalidChunkError
from lms_tiers.messages import ChunkMeta, ClientCommand, ClientMetaMessage, MemoryFormat, OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint, entries, recovery, space
from lms_tiers.plugins.lmdb.layout import (
    HASH_BYTES,
    MAX_DIMENSIONS,
    MAX_KEY_BYTES,
    PAGE,
    Chunk,
    Damaged,
    is_raw,
    plain,
    record_bytes,
    vouched,
)
from lms_tiers.plugins.lmdb.reading import checksum_of

SEED = 12345


META = ChunkMeta(1000, MemoryFormat.BINARY, "bfloat16", (2, 250))


def a_chunk(**changes: Any) -> Chunk:
    fields: dict[str, Any] = {
        "text": "the key", "meta": META, "sequence": 77, "created": 1234567, "checksum": 2**64 - 1, "extents": [(1, 1)],
    }  # fmt: skip
    return Chunk(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"extents": [(5, 1), (2**39, 2), (9, 2**24 - 1)]},
        {"layout": "planes/3", "block_bytes": 4096, "blocks": (300, 20), "text": "ključ"},
        {"meta": ChunkMeta(0, MemoryFormat.UNDEFINED, None, ())},
    ],
)
def test_a_manifest_reads_back_as_it_was_packed_also_at_a_glance(changes: dict[str, Any]) -> None:
    chunk = a_chunk(**changes)
    record = chunk.pack(SEED)
    assert len(record) == chunk.nrecord
    assert Chunk.unpack(record, SEED) == chunk
    assert Chunk.unpack(record, None) == chunk
    usual = not chunk.layout and len(chunk.extents) == 1
    assert plain(record) == ((chunk.meta, chunk.checksum, chunk.extents[0][0] * PAGE) if usual else None)


def test_every_flipped_bit_of_a_manifest_and_every_cut_is_found() -> None:
    record = bytearray(a_chunk().pack(SEED))
    for at in range(len(record)):
        for bit in range(8):
            record[at] ^= 1 << bit
            with pytest.raises(Damaged):
                Chunk.unpack(bytes(record), SEED)
            record[at] ^= 1 << bit
    for end in range(len(record)):
        with pytest.raises(Damaged):
            Chunk.unpack(bytes(record[:end]), SEED)
    with pytest.raises(Damaged):
        Chunk.unpack(bytes(record), SEED + 1)


@pytest.mark.parametrize("changes", [{"extents": []}, {"layout": "x/1", "block_bytes": 9, "blocks": (5000,)}])
def test_a_manifest_whose_lengths_disagree_is_damage_before_anybody_takes_memory_for_it(changes: Any) -> None:
    with pytest.raises(Damaged):
        Chunk.unpack(a_chunk(**changes).pack(SEED), SEED)


def test_no_chunk_is_charged_more_than_was_reserved_for_its_length() -> None:
    draw = random.Random(3)
    for _ in range(3000):
        length = draw.choice([draw.randrange(9000), draw.randrange(1 << 20), draw.randrange(64 << 20)])
        key, dims = draw.randrange(1, MAX_KEY_BYTES + 1), draw.randrange(MAX_DIMENSIONS + 1)
        meta = ChunkMeta(length, MemoryFormat.BINARY, None, (0,) * dims)
        pages = space.pages_for(length, record_bytes(key, meta, "", 0, 1))
        for extents in (1, draw.randrange(1, pages + 1)):
            nrecord = record_bytes(key, meta, "", 0, extents)
            charge = space.charge(space.pages_for(length, nrecord), nrecord)
            assert charge <= space.reserve(length), (length, key, dims, extents)


def test_of_two_keys_with_one_hash_none_is_answered_the_others_chunk(
    opening: Callable[..., Any], message: Callable[..., Any], content: Callable[..., Any], monkeypatch: Any
) -> None:
    for module in (checkpoint, entries, recovery):
        monkeypatch.setattr(module, "key_hash", lambda text, seed: b"one for all".ljust(HASH_BYTES))
    backend = opening()
    backend.put(message("one", 5000), content(1, 5000))
    backend.close()
    backend = opening()  # memory has nothing: the index is asked
    assert backend.get(OpaqueKey("other")) is None
    assert not backend.contains(OpaqueKey("other"))
    assert bytes(backend.get(OpaqueKey("one")).data) == content(1, 5000)
    backend.put(message("other", 6000), content(2, 6000))
    backend.close()
    backend = opening()
    for name, data in (("one", content(1, 5000)), ("other", content(2, 6000))):
        found = backend.get(OpaqueKey(name))
        assert found is None or bytes(found.data) == data
    assert backend.stats().corrupt == 0


@pytest.mark.parametrize("length", [0, 1, 3000, PAGE - 200, PAGE, 5 * PAGE - 1, 5 * PAGE, 300_001])
def test_chunks_of_any_length_under_any_key_read_back(
    opening: Callable[..., Any], message: Any, content: Any, length: int
) -> None:
    keys = ["k", "é" * 40, "k" * MAX_KEY_BYTES]
    with opening() as backend:
        for number, key in enumerate(keys):
            backend.put(message(key, length), content(number, length))
        for number, key in enumerate(keys):
            assert backend.get(OpaqueKey(key)).data == content(number, length)
    with opening() as backend:
        for number, key in enumerate(keys):
            assert backend.get(OpaqueKey(key)).data == content(number, length)


def test_more_dimensions_than_a_manifest_takes_are_refused(opening: Callable[..., Any]) -> None:
    shape = (1,) * (MAX_DIMENSIONS + 1)
    meta = ClientMetaMessage(ClientCommand.PUT, OpaqueKey("k"), 1, MemoryFormat.BINARY, None, shape)  # type: ignore[arg-type]
    with opening() as backend, pytest.raises(InvalidChunkError):
        backend.put(meta, bytearray(1))


@pytest.mark.parametrize("sizes", [(0,), (65536,), (65537,), (524288,), (524289,), (70000, 1, 600000), (1, 65536)])
def test_a_checksum_is_that_of_all_bytes_however_they_are_taken(sizes: tuple[int, ...]) -> None:
    pieces = [memoryview(random.Random(size).randbytes(size)) for size in sizes]
    assert checksum_of(pieces) == xxhash.xxh3_64_intdigest(b"".join(pieces))


def test_a_record_that_is_only_asked_about_has_to_be_whole_and_of_that_key() -> None:
    chunk = Chunk("key", ChunkMeta(9, MemoryFormat.BINARY, None, (9,)), sequence=3, checksum=7, extents=[(5, 1)])
    record = chunk.pack(11)
    assert vouched(record, "key", 11)
    assert is_raw(record)
    assert not vouched(record, "kez", 11)
    assert not vouched(record, "ey", 11)
    assert not vouched(record, "key", 12)
    assert not any(vouched(record[:n], "key", 11) for n in range(len(record)))
    flipped = (record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :] for at in range(len(record)))
    assert not any(vouched(one, "key", 11) for one in flipped)
    encoded = Chunk("key", chunk.meta, "l", 4, 3, 7, (2, 3), [(5, 1), (9, 1)]).pack(11)
    assert vouched(encoded, "key", 11)
    assert not is_raw(encoded)
