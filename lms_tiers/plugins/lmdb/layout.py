"""Records as they lie on disk and in memory: a chunk's manifest, and the head of a file. See docs/format.md.

Nothing here opens a file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

import xxhash

from lms_tiers.errors import FormatError
from lms_tiers.messages import NAMESPACE_BYTES, ChunkMeta, MemoryFormat

MAGIC: Final = b"lms_tiers/lmdb"
VERSION: Final = 3
EXPECTED: Final = f"format {MAGIC.decode()} version {VERSION}"

#: Extents begin and end at multiples of this, whatever the machine's pages are.
PAGE: Final = 4096
#: Longest key text in UTF-8.
MAX_KEY_BYTES: Final = 1024
MAX_DIMENSIONS: Final = 64

#: A run of pages of `data`: the first page, and how many.
Extent: TypeAlias = tuple[int, int]

#: Of an extent's count of pages, where it is packed with its first page.
COUNT_BITS: Final = 24
COUNT: Final = (1 << COUNT_BITS) - 1
#: Longest chunk: one extent's count of pages.
LONGEST: Final = (COUNT - 1) * PAGE

_WRAP: Final = (1 << 64) - 1
#: sequence, created (ms), checksum of the stored bytes, bytes a block encodes, blocks, extents, key bytes, layout bytes
_MANIFEST: Final = struct.Struct("<QQQIIIHH")
_NLAYOUT: Final = slice(_MANIFEST.size - 2, _MANIFEST.size)
#: bytes of the record, mark, xxh3-64 of everything before, seeded by the store's seed
TAIL: Final = struct.Struct("<IIQ")
_MARK: Final = 0x334D4C4B
_MARK_BYTES: Final = struct.pack("<I", _MARK)
#: Of a record beside key, metadata, layout, blocks and extents.
_FIXED: Final = _MANIFEST.size + TAIL.size
_LONGEST_META: Final = ChunkMeta(0, MemoryFormat.UNDEFINED, None, (0,) * MAX_DIMENSIONS, "0" * 2 * NAMESPACE_BYTES)
#: The longest record of a chunk that is stored raw in one extent, with room for the name of a layout.
LONGEST_RECORD: Final = _FIXED + MAX_KEY_BYTES + _LONGEST_META.packed_bytes + 64 + 8
HASH_BYTES: Final = 16
STAMP: Final = struct.Struct("<Q")
#: magic, version, seed, number
_HEAD: Final = struct.Struct("<14sHQQ")
_SUM: Final = struct.Struct("<Q")


class Damaged(Exception):
    """A chunk or a record that cannot be trusted."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def sealed(body: bytes, seed: int = 0) -> bytes:
    """`body` and its xxh3-64."""
    return body + _SUM.pack(xxhash.xxh3_64_intdigest(body, seed & _WRAP))


def unsealed(data: bytes | memoryview, seed: int = 0) -> bytes | memoryview:
    """What `sealed` was given.

    Raises
    ------
    Damaged
    """
    body = data[:-8]
    if len(data) < 8 or xxhash.xxh3_64_intdigest(body, seed & _WRAP) != _SUM.unpack_from(data, len(data) - 8)[0]:
        raise Damaged("a record fails its checksum")
    return body


def pack_head(seed: int, number: int) -> bytes:
    """The beginning of `data`, with the store's capacity, or of the journal, with a position: whose file this is."""
    return sealed(_HEAD.pack(MAGIC, VERSION, seed, number))


HEAD_BYTES: Final = _HEAD.size + _SUM.size


def unpack_head(data: bytes, where: str) -> tuple[int, int] | None:
    """Seed and number; None where the head is damaged or not ours.

    Raises
    ------
    FormatError
        Of another version.
    """
    try:
        magic, version, seed, number = _HEAD.unpack(unsealed(data[:HEAD_BYTES]))
    except (Damaged, struct.error):
        return None
    if magic != MAGIC:
        return None
    if version != VERSION:
        raise FormatError(where, f"version {version}", EXPECTED)
    return seed, number


def key_hash(text: str, seed: int) -> bytes:
    """The index's name for a key: 128 bits, seeded per store. The text itself is compared."""
    return xxhash.xxh3_128_digest(text.encode(), seed)


def record_bytes(key: int, meta: ChunkMeta, layout: str, blocks: int, extents: int) -> int:
    """How long the record of a chunk will be."""
    return _FIXED + key + meta.packed_bytes + len(layout) + 4 * blocks + 8 * extents


def pack_extents(extents: Sequence[Extent]) -> bytes:
    """Eight bytes each."""
    return _longs(len(extents)).pack(*[page << COUNT_BITS | count for page, count in extents])


def unpack_extents(data: bytes | memoryview, at: int, count: int) -> list[Extent]:
    """What `pack_extents` packed `count` of at `at`."""
    return [(place >> COUNT_BITS, place & COUNT) for place in _longs(count).unpack_from(data, at)]


@lru_cache(maxsize=256)
def words(count: int) -> struct.Struct:
    """So many u32."""
    return struct.Struct(f"<{count}I")


@lru_cache(maxsize=256)
def _longs(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


@lru_cache(maxsize=4096)
def _packed_meta(meta: ChunkMeta) -> bytes:
    return meta.pack()


@lru_cache(maxsize=4096)
def _unpacked_meta(data: bytes) -> ChunkMeta:
    return ChunkMeta.unpack(data)[0]


@dataclass(slots=True)
class Chunk:
    """All that is known of a chunk beside its bytes. Its record is its manifest.

    Attributes
    ----------
    layout : str
        Of the codec; empty where the bytes are stored as they are.
    block_bytes : int
        Bytes of the chunk that each block encodes; 0 where raw.
    sequence : int
        Of the put; no two share one, and later puts have larger ones.
    checksum : int
        xxh3-64 of the stored bytes.
    blocks : sequence of int
        Encoded length of each block.
    extents : list of Extent
        Where the stored bytes lie, in order; the record ends with the last of them.
    created : int
        Milliseconds since the epoch.
    """

    text: str
    meta: ChunkMeta
    layout: str = ""
    block_bytes: int = 0
    sequence: int = 0
    checksum: int = 0
    blocks: tuple[int, ...] = ()
    extents: list[Extent] = field(default_factory=list)
    created: int = 0

    @property
    def stream(self) -> int:
        """Stored bytes."""
        return sum(self.blocks) if self.layout else self.meta.length

    @property
    def pages(self) -> int:
        """Pages of all extents."""
        return self.extents[0][1] if len(self.extents) == 1 else sum([count for _, count in self.extents])

    @property
    def last_page(self) -> int:
        """The page that the record ends with."""
        return sum(self.extents[-1]) - 1

    @property
    def nrecord(self) -> int:
        """Bytes of the record; with one extent, where it has none yet."""
        nkey = len(self.text) if self.text.isascii() else len(self.text.encode())
        return record_bytes(nkey, self.meta, self.layout, len(self.blocks), len(self.extents) or 1)

    def pack(self, seed: int) -> bytes:
        """The record."""
        blocks, extents, key = self.blocks, self.extents, self.text.encode()
        body = b"".join((
            _MANIFEST.pack(self.sequence, self.created, self.checksum, self.block_bytes, len(blocks), len(extents),
                           len(key), len(self.layout)),
            _packed_meta(self.meta),
            key,
            self.layout.encode(),
            words(len(blocks)).pack(*blocks) if blocks else b"",
            pack_extents(extents),
        ))  # fmt: skip
        return sealed(body + TAIL.pack(len(body) + TAIL.size, _MARK, 0)[:8], seed)

    @staticmethod
    def unpack(record: bytes, seed: int | None) -> Chunk:
        """Read a whole record; without a `seed` it is one that was verified before.

        Raises
        ------
        Damaged
        """
        try:
            if seed is not None:
                nbytes, mark, _ = TAIL.unpack_from(record, len(record) - TAIL.size)
                if nbytes != len(record) or mark != _MARK:
                    raise Damaged("no manifest ends here")
                unsealed(record, seed)
            sequence, created, data, block_bytes, nblocks, nextents, nkey, nlayout = _MANIFEST.unpack_from(record)
            meta, used = ChunkMeta.unpack(memoryview(record)[_MANIFEST.size :])
            at = _MANIFEST.size + used
            text = record[at : at + nkey].decode()
            at += nkey
            layout = record[at : at + nlayout].decode() if nlayout else ""
            at += nlayout
            blocks = words(nblocks).unpack_from(record, at) if nblocks else ()
            extents = unpack_extents(record, at + 4 * nblocks, nextents)
        except (struct.error, IndexError, UnicodeDecodeError, FormatError) as error:
            raise Damaged(f"a manifest that is none ({error})") from None
        chunk = Chunk(text, meta, layout, block_bytes, sequence, data, blocks, extents, created)
        if seed is not None:
            stream = chunk.stream
            if not extents or stream + len(record) > chunk.pages * PAGE or max(stream, meta.length) > LONGEST:
                raise Damaged("a manifest whose lengths disagree")
        return chunk


def plain(record: bytes) -> tuple[ChunkMeta, int, int] | None:
    """What a read needs of a record that was verified before: metadata, checksum, and where in `data` its bytes begin.

    None where the chunk is not the usual one, stored as it is and in one extent.
    """
    _, _, checksum, _, _, nextents, nkey, nlayout = _MANIFEST.unpack_from(record)
    if nlayout or nextents != 1:
        return None
    end = len(record) - TAIL.size - 8
    place = int.from_bytes(record[end : end + 8], "little")
    return _unpacked_meta(record[_MANIFEST.size : end - nkey]), checksum, (place >> COUNT_BITS) * PAGE


def vouched(record: bytes, text: str, seed: int) -> bool:
    """Whether a record is whole and of the chunk under `text`. Its lengths are not compared with each other."""
    try:
        nbytes, mark, _ = TAIL.unpack_from(record, len(record) - TAIL.size)
        if nbytes != len(record) or mark != _MARK:
            return False
        unsealed(record, seed)
        _, _, _, _, nblocks, nextents, nkey, nlayout = _MANIFEST.unpack_from(record)
    except (struct.error, Damaged):
        return False
    end = len(record) - TAIL.size - 8 * nextents - 4 * nblocks - nlayout
    return record[end - nkey : end] == text.encode()


def is_raw(record: bytes) -> bool:
    """Whether the chunk of a record that was verified before is stored as it is."""
    return record[_NLAYOUT] == b"\0\0"


def record_pages(record: bytes) -> int:
    """Pages of all extents of a record that was verified before."""
    count = _MANIFEST.unpack_from(record)[5]
    return sum([pages for _, pages in unpack_extents(record, len(record) - TAIL.size - 8 * count, count)])


def sequence_of(record: bytes) -> int:
    """The sequence number of a record."""
    return int.from_bytes(record[:8], "little")


def at_page_end(data: memoryview, end: int) -> int:
    """Bytes of the record that ends before `end` in `data`, if one does; 0 otherwise. Its checksum is not verified."""
    if data[end - 12 : end - 8] != _MARK_BYTES:
        return 0
    return int.from_bytes(data[end - 16 : end - 12], "little")
