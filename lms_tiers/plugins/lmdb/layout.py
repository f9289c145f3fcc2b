"""Records as they lie on disk, packed and unpacked: the manifest of a chunk, the head of `data`. See docs/format.md.

Also the short form of a manifest that a running store keeps in memory. Nothing here opens a file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

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

_COUNT_BITS: Final = 24
_COUNT: Final = (1 << _COUNT_BITS) - 1
#: Longest chunk: one extent's count of pages.
LONGEST: Final = (_COUNT - 1) * PAGE

#: sequence, created (ms), checksum of the stored bytes, bytes a block encodes, blocks, extents, key bytes, layout bytes
_HEAD: Final = struct.Struct("<QQQIIIHH")
#: bytes of the record, mark, xxh3-64 of everything before, seeded by the store's seed
TAIL: Final = struct.Struct("<IIQ")
MARK: Final = 0x334D4C4B
_MARK_BYTES: Final = struct.pack("<I", MARK)
#: Of a record beside key, metadata, layout, blocks and extents.
_FIXED: Final = _HEAD.size + TAIL.size
_LONGEST_META: Final = ChunkMeta(0, MemoryFormat.UNDEFINED, None, (0,) * MAX_DIMENSIONS, "0" * 2 * NAMESPACE_BYTES)
#: The longest record of a chunk that is stored raw in one extent, with room for the name of a layout.
LONGEST_RECORD: Final = _FIXED + MAX_KEY_BYTES + _LONGEST_META.packed_bytes + 64 + 8

HASH_BYTES: Final = 16
STAMP: Final = struct.Struct("<Q")
_FILE_HEAD: Final = struct.Struct("<14sHQ")
_SUM: Final = struct.Struct("<Q")


class Damaged(Exception):
    """A chunk or a record that cannot be trusted."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Manifest(NamedTuple):
    """All that is known of a chunk beside its bytes.

    Attributes
    ----------
    key : bytes
        UTF-8 text.
    meta : ChunkMeta
    sequence : int
        Of the put; no two share one, and later puts have larger ones.
    created : int
        Milliseconds since the epoch.
    checksum : int
        xxh3-64 of the stored bytes.
    layout : str
        Of the codec; empty where the bytes are stored as they are.
    block_bytes : int
        Bytes of the chunk that each block encodes; 0 where raw.
    blocks : tuple of int
        Encoded length of each block.
    extents : tuple of Extent
        Where the stored bytes lie, in order; this record ends with the last of them.
    """

    key: bytes
    meta: ChunkMeta
    sequence: int
    created: int
    checksum: int
    layout: str
    block_bytes: int
    blocks: tuple[int, ...]
    extents: tuple[Extent, ...]

    @property
    def stream(self) -> int:
        """Stored bytes."""
        return sum(self.blocks) if self.layout else self.meta.length

    @property
    def pages(self) -> int:
        """Pages of all extents."""
        return self.extents[0][1] if len(self.extents) == 1 else sum([count for _, count in self.extents])

    def pack(self, seed: int) -> bytes:
        """The record."""
        layout, blocks, extents = self.layout.encode(), self.blocks, self.extents
        body = b"".join((
            _HEAD.pack(self.sequence, self.created, self.checksum, self.block_bytes, len(blocks), len(extents),
                       len(self.key), len(layout)),
            _packed_meta(self.meta),
            self.key,
            layout,
            _words(len(blocks)).pack(*blocks) if blocks else b"",
            pack_extents(extents),
        ))  # fmt: skip
        body += TAIL.pack(len(body) + TAIL.size, MARK, 0)[:8]
        return body + _SUM.pack(xxhash.xxh3_64_intdigest(body, seed))

    @staticmethod
    def unpack(record: bytes, seed: int) -> Manifest:
        """Read a whole record.

        Raises
        ------
        Damaged
        """
        try:
            nbytes, mark, checksum = TAIL.unpack_from(record, len(record) - TAIL.size)
            if nbytes != len(record) or mark != MARK or xxhash.xxh3_64_intdigest(record[:-8], seed) != checksum:
                raise Damaged("a manifest fails its checksum")
            sequence, created, data, block_bytes, nblocks, nextents, nkey, nlayout = _HEAD.unpack_from(record)
            meta, used = ChunkMeta.unpack(memoryview(record)[_HEAD.size :])
            at = _HEAD.size + used
            key = record[at : at + nkey]
            at += nkey
            layout = record[at : at + nlayout].decode() if nlayout else ""
            at += nlayout
            blocks = _words(nblocks).unpack_from(record, at) if nblocks else ()
            extents = unpack_extents(record, at + 4 * nblocks, nextents)
        except (struct.error, IndexError, UnicodeDecodeError, FormatError) as error:
            raise Damaged(f"a manifest that is none ({error})") from None
        manifest = Manifest(key, meta, sequence, created, data, layout, block_bytes, blocks, extents)
        if (
            not extents
            or manifest.stream + len(record) > manifest.pages * PAGE
            or max(manifest.stream, meta.length) > LONGEST
        ):
            raise Damaged("a manifest whose lengths disagree")
        return manifest


def record_bytes(key: int, meta: ChunkMeta, layout: str, blocks: int, extents: int) -> int:
    """How long the record of a chunk will be."""
    return _FIXED + key + meta.packed_bytes + len(layout) + 4 * blocks + 8 * extents


def pack_extents(extents: Sequence[Extent]) -> bytes:
    """Eight bytes each."""
    return _longs(len(extents)).pack(*[page << _COUNT_BITS | count for page, count in extents])


def unpack_extents(data: bytes | memoryview, at: int, count: int) -> tuple[Extent, ...]:
    """What `pack_extents` packed `count` of at `at`."""
    return tuple((place >> _COUNT_BITS, place & _COUNT) for place in _longs(count).unpack_from(data, at))


@lru_cache(maxsize=256)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


@lru_cache(maxsize=256)
def _longs(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


@lru_cache(maxsize=4096)
def _packed_meta(meta: ChunkMeta) -> bytes:
    return meta.pack()


def at_page_end(data: memoryview, end: int) -> int:
    """Bytes of the record that ends before `end` in `data`, if one does; 0 otherwise. Its checksum is not verified."""
    if data[end - 12 : end - 8] != _MARK_BYTES:
        return 0
    return int.from_bytes(data[end - 16 : end - 12], "little")


def key_hash(key: bytes, seed: int) -> bytes:
    """The key of a chunk's record in the index: 128 bits, seeded per store. The text itself is compared."""
    return xxhash.xxh3_128_digest(key, seed)


def pack_head(seed: int) -> bytes:
    """Page 0 of `data`, which says whose file this is."""
    body = _FILE_HEAD.pack(MAGIC, VERSION, seed)
    return (body + _SUM.pack(xxhash.xxh3_64_intdigest(body))).ljust(PAGE, b"\0")


def unpack_head(data: bytes, where: str) -> int | None:
    """The store's seed; None where the head is damaged or not ours.

    Raises
    ------
    FormatError
        Of another version.
    """
    if len(data) < _FILE_HEAD.size + 8:
        return None
    magic, version, seed = _FILE_HEAD.unpack_from(data)
    (checksum,) = _SUM.unpack_from(data, _FILE_HEAD.size)
    if magic != MAGIC or checksum != xxhash.xxh3_64_intdigest(data[: _FILE_HEAD.size]):
        return None
    if version != VERSION:
        raise FormatError(where, f"version {version}", EXPECTED)
    return int(seed)


# -- in memory -----------------------------------------------------------------------------------------------------

#: sequence, checksum, first extent, number of the form, bytes of the record, blocks, further extents
ENTRY: Final = struct.Struct("<QQQIIII")


class Form(NamedTuple):
    """What many chunks have in common."""

    meta: ChunkMeta
    layout: str
    block_bytes: int


class Forms:
    """Forms by number, so that a chunk's entry takes 80 bytes of memory."""

    def __init__(self) -> None:
        self.by_number: Final[list[Form]] = []
        self._numbers: Final[dict[Form, int]] = {}

    def number(self, form: Form) -> int:
        """The same for equal forms. Callers hold the store's lock."""
        found = self._numbers.get(form)
        if found is None:
            found = len(self.by_number)
            self.by_number.append(form)
            self._numbers[form] = found
        return found

    def entry(
        self, form: Form, sequence: int, checksum: int, nrecord: int, blocks: Sequence[int], extents: Sequence[Extent]
    ) -> bytes:
        """The short form of a manifest whose record has `nrecord` bytes. Callers hold the store's lock."""
        page, count = extents[0]
        more = len(extents) - 1
        entry = ENTRY.pack(
            sequence, checksum, page << _COUNT_BITS | count, self.number(form), nrecord, len(blocks), more
        )
        if more or blocks:
            entry += _words(len(blocks)).pack(*blocks) + pack_extents(extents[1:])
        return entry


def offset_of(place: int) -> int:
    """Where the extent begins that an entry holds as `place`."""
    return (place >> _COUNT_BITS) * PAGE


class Found(NamedTuple):
    """An entry, read."""

    sequence: int
    checksum: int
    form: Form
    nrecord: int
    blocks: tuple[int, ...]
    extents: tuple[Extent, ...]

    @property
    def stream(self) -> int:
        """Stored bytes."""
        return sum(self.blocks) if self.form.layout else self.form.meta.length

    @property
    def pages(self) -> int:
        """Pages of all extents."""
        return self.extents[0][1] if len(self.extents) == 1 else sum([count for _, count in self.extents])


def read_entry(entry: bytes, forms: Forms) -> Found:
    """What `Forms.entry` packed."""
    sequence, checksum, place, number, nrecord, nblocks, more = ENTRY.unpack_from(entry)
    first = (place >> _COUNT_BITS, place & _COUNT)
    blocks: tuple[int, ...] = ()
    extents: tuple[Extent, ...] = (first,)
    if nblocks or more:
        blocks = _words(nblocks).unpack_from(entry, ENTRY.size)
        extents = (first, *unpack_extents(entry, ENTRY.size + 4 * nblocks, more))
    return Found(sequence, checksum, forms.by_number[number], nrecord, blocks, extents)
