"""The records of the file: names of tables, keys, and the manifest of a chunk. See docs/format.md.

Packing and unpacking only; nothing here opens a file or knows a transaction.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from typing import Final, NamedTuple

import xxhash

from lms_tiers.errors import FormatError
from lms_tiers.messages import ChunkMeta
from lms_tiers.plugins.lmdb.parts import RUN_HEADER

#: What the record `FORMAT_KEY` holds, and the only version this code reads and writes.
MAGIC: Final = b"lms_tiers/lmdb"
VERSION: Final = 2

CHUNKS: Final = b"chunks"  # key hash -> manifest
PARTS: Final = b"parts"  # part key -> stored bytes
RECENCY: Final = b"recency"  # key hash -> stamp of the last use, where later than the put
META: Final = b"meta"  # format record, counters, a tier's state

FORMAT_KEY: Final = b"format"
COUNTERS_KEY: Final = b"counters"

HASH_BYTES: Final = 16
PART_KEY: Final = struct.Struct(">QH")
STAMP: Final = struct.Struct("<Q")
_FORMAT: Final = struct.Struct("<14sHQ")  # magic, version, seed
_COUNTERS: Final = struct.Struct("<QQQQ")  # clock, chunks, stored bytes, transaction
#: version, flags, key bytes, layout bytes, groups of parts, blocks, block bytes, sequence, stored bytes, created (ms)
_HEAD: Final = struct.Struct("<BBHHHIIQQQ")
#: Where a manifest has its sequence number, with the stored bytes behind it.
CHARGES_AT: Final = 16
_SEQUENCE: Final = struct.Struct("<Q")
_CREATED_AT: Final = 32
_SUM: Final = struct.Struct("<Q")
_PAGE: Final = struct.Struct("<I")
#: Of chunk metadata: bytes without dimensions, and where it has their number.
_META_BYTES: Final = 12
_DIMENSIONS_AT: Final = 3

#: Longest key text in UTF-8: a manifest stays far below a page for every usual chunk.
MAX_KEY_BYTES: Final = 1024
MAX_PARTS: Final = 65535
#: Bytes of a page of the file, which LMDB chooses by the machine: a file of other pages is refused.
PAGE: Final = 4096
#: Longest chunk: where a file is worn, each of its parts has a single page.
LONGEST: Final = MAX_PARTS * (PAGE - RUN_HEADER)

# Spreads part keys over the tree: pages emptied by evictions are filled again by later puts, wherever those land.
SPREAD: Final = 0x9E3779B97F4A7C15
_WRAP: Final = 2**64 - 1


def key_hash(key: bytes, seed: int) -> bytes:
    """The key of a chunk's records: 128 bits over the key's text, seeded per file. The text itself is compared."""
    return xxhash.xxh3_128_digest(key, seed)


def part_key(sequence: int, number: int) -> bytes:
    """The key of part `number` of the put number `sequence`; no two puts share one."""
    return PART_KEY.pack(sequence * SPREAD & _WRAP, number)


def part_keys(sequence: int, count: int) -> list[bytes]:
    """The keys of the first `count` parts of a put."""
    spread = sequence * SPREAD & _WRAP
    return [PART_KEY.pack(spread, number) for number in range(count)]


def pack_format(seed: int) -> bytes:
    """The record that says whose file this is."""
    body = _FORMAT.pack(MAGIC, VERSION, seed)
    return body + _SUM.pack(xxhash.xxh3_64_intdigest(body))


def unpack_format(data: bytes | memoryview, where: str) -> int:
    """The file's hash seed.

    Raises
    ------
    FormatError
        Another version, or no record of ours.
    """
    expected = f"format {MAGIC.decode()} version {VERSION}"
    try:
        magic, version, seed = _FORMAT.unpack_from(data)
        (checksum,) = _SUM.unpack_from(data, _FORMAT.size)
    except struct.error:
        raise FormatError(where, "a format record of another shape", expected) from None
    if magic != MAGIC or checksum != xxhash.xxh3_64_intdigest(data[: _FORMAT.size]):
        raise FormatError(where, "a damaged or foreign format record", expected)
    if version != VERSION:
        raise FormatError(where, f"version {version}", expected)
    return int(seed)


@dataclass(slots=True)
class Counters:
    """What the file counts, kept in the same transaction as what it counts.

    Attributes
    ----------
    clock : int
        The last sequence number or stamp given out.
    chunks : int
        Chunks held.
    stored : int
        Sum of their stored bytes.
    transaction : int
        LMDB's number of the commit that wrote this: a meta page of another commit is found out.
    """

    clock: int = 0
    chunks: int = 0
    stored: int = 0
    transaction: int = 0

    def pack(self) -> bytes:
        """As stored."""
        body = _COUNTERS.pack(self.clock, self.chunks, self.stored, self.transaction)
        return body + _SUM.pack(xxhash.xxh3_64_intdigest(body))

    @staticmethod
    def unpack(data: bytes | memoryview) -> Counters:
        """Read what `pack` wrote.

        Raises
        ------
        FormatError
            Damaged.
        """
        try:
            (checksum,) = _SUM.unpack_from(data, _COUNTERS.size)
            if checksum == xxhash.xxh3_64_intdigest(data[: _COUNTERS.size]):
                return Counters(*_COUNTERS.unpack_from(data))
        except struct.error:
            pass  # a short record is a damaged one
        raise FormatError("counters", "damaged bytes", f"version {VERSION}")


class Manifest(NamedTuple):
    """Everything of a chunk but the bytes in its parts. A tuple, for each read makes one.

    Attributes
    ----------
    key : bytes
        The key's text in UTF-8, in full.
    meta : ChunkMeta
    sequence : int
        Number of the put: it names the parts, and orders puts.
    stored : int
        Physical bytes the chunk is charged with.
    created : int
        Milliseconds since the epoch.
    layout : str
        Block format of the codec; empty where the bytes are stored as they are.
    block_bytes : int
        Bytes of the chunk that each block encodes; 0 where raw.
    blocks : tuple of int
        Encoded length of each block; the blocks lie one after another over parts and tail.
    groups : tuple of (int, int)
        Runs of parts of one size: how many, and how many bytes each.
    pages : tuple of int
        The first page of each part in the file, a hint; 0 where it is not known or the part lies in a tree page.
    checksum : int
        xxh3-64 of the stored bytes: parts and tail.
    tail : bytes
        The stored bytes that follow the last part.
    """

    key: bytes
    meta: ChunkMeta
    sequence: int
    stored: int
    created: int
    layout: str
    block_bytes: int
    blocks: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]
    pages: tuple[int, ...]
    checksum: int
    tail: bytes

    @staticmethod
    def raw(key: bytes, meta: ChunkMeta, groups: tuple[tuple[int, int], ...]) -> Manifest:
        """The manifest of a chunk stored as it is; sequence, charge, time, pages, checksum and tail come later."""
        return Manifest(key, meta, 0, 0, 0, "", 0, (), groups, (), 0, b"")

    @property
    def parts(self) -> int:
        """How many parts the chunk has."""
        return sum(count for count, _ in self.groups)

    @property
    def stream(self) -> int:
        """How many bytes are stored, in parts and tail."""
        return sum(self.blocks) if self.layout else self.meta.length

    @property
    def nbytes(self) -> int:
        """Length of `pack`, the tail included that the groups leave over."""
        tail = self.stream - sum(count * size for count, size in self.groups)
        lists = 8 * len(self.groups) + 4 * len(self.blocks) + _PAGE.size * self.parts + _SUM.size
        meta = len(self.meta.pack())
        return _HEAD.size + meta + len(self.key) + len(self.layout.encode()) + lists + tail + _SUM.size

    def pack(self) -> bytearray:
        """As stored, once `seal` has numbered it and noted the pages."""
        layout = self.layout.encode()
        return bytearray().join((
            _HEAD.pack(
                VERSION, 0, len(self.key), len(layout), len(self.groups), len(self.blocks), self.block_bytes,
                self.sequence, self.stored, self.created,
            ),
            self.meta.pack(),
            self.key,
            layout,
            struct.pack(f"<{2 * len(self.groups)}I", *(n for group in self.groups for n in group)),
            struct.pack(f"<{len(self.blocks)}I", *self.blocks),
            _SUM.pack(self.checksum),
            self.tail,
            bytes(_PAGE.size * self.parts + _SUM.size),
        ))  # fmt: skip

    @staticmethod
    def peek(data: bytes | memoryview, seed: int) -> tuple[bytes, str, bytes, int]:
        """Key, layout, packed metadata and charge only, for listing: a third of the work of `unpack`.

        Raises
        ------
        FormatError
            Damaged, or of another version.
        """
        end = len(data) - _SUM.size
        try:
            version, _, nkey, nlayout, _, _, _, _, stored, _ = _HEAD.unpack_from(data)
            if version != VERSION or _SUM.unpack_from(data, end)[0] != xxhash.xxh3_64_intdigest(data[:end], seed):
                raise FormatError("chunk manifest", "damaged bytes", f"version {VERSION}")
            at = _HEAD.size + _META_BYTES + 8 * data[_HEAD.size + _DIMENSIONS_AT]
            layout = bytes(data[at + nkey : at + nkey + nlayout]).decode()
            return bytes(data[at : at + nkey]), layout, bytes(data[_HEAD.size : at]), stored
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise FormatError("chunk manifest", f"damaged bytes ({error})", f"version {VERSION}") from None

    @staticmethod
    def unpack(data: bytes | memoryview, seed: int) -> Manifest:
        """Read what `pack` wrote and `seal` numbered.

        Raises
        ------
        FormatError
            Damaged, or of another version.
        """
        end = len(data) - _SUM.size
        view = memoryview(data)
        try:
            (checksum,) = _SUM.unpack_from(data, end)
            if checksum != xxhash.xxh3_64_intdigest(view[:end], seed):
                raise FormatError("chunk manifest", "damaged bytes", f"version {VERSION}")
            version, _, nkey, nlayout, ngroups, nblocks, block_bytes, sequence, stored, created = _HEAD.unpack_from(
                data
            )
            if version != VERSION:
                raise FormatError("chunk manifest", f"version {version}", f"version {VERSION}")
            meta, size = ChunkMeta.unpack(view[_HEAD.size : end])
            at = _HEAD.size + size
            key = bytes(view[at : at + nkey])
            at += nkey
            layout = bytes(view[at : at + nlayout]).decode() if nlayout else ""
            at += nlayout
            flat = _words(2 * ngroups + nblocks).unpack_from(data, at)
            at += 4 * len(flat)
            blocks = flat[2 * ngroups :]
            counts, sizes = flat[: 2 * ngroups : 2], flat[1 : 2 * ngroups : 2]
            (checksum,) = _SUM.unpack_from(data, at)
            parts = sum(counts)
            noted = end - _PAGE.size * parts
            tail = bytes(view[at + _SUM.size : noted])
            pages = _words(parts).unpack_from(data, noted)
        except (struct.error, UnicodeDecodeError) as error:
            raise FormatError("chunk manifest", f"damaged bytes ({error})", f"version {VERSION}") from None
        groups = tuple(zip(counts, sizes, strict=True))
        manifest = Manifest(
            key, meta, sequence, stored, created, layout, block_bytes, blocks, groups, pages, checksum, tail
        )
        stream = manifest.stream
        # Before anybody takes memory for them.
        if stream > LONGEST or meta.length > LONGEST:
            raise FormatError("chunk manifest", "more bytes than any put", f"version {VERSION}")
        if sum(map(mul, counts, sizes)) + len(tail) != stream:
            raise FormatError("chunk manifest", "lengths that disagree", f"version {VERSION}")
        return manifest


@lru_cache(maxsize=256)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


def seal(record: bytearray, sequence: int, created: int, pages: Sequence[int], seed: int) -> None:
    """Number a packed manifest, say when it was put and on which pages, and close it with its checksum."""
    _SEQUENCE.pack_into(record, CHARGES_AT, sequence)
    _SEQUENCE.pack_into(record, _CREATED_AT, created)
    end = len(record) - _SUM.size
    _words(len(pages)).pack_into(record, end - _PAGE.size * len(pages), *pages)
    _SUM.pack_into(record, end, xxhash.xxh3_64_intdigest(memoryview(record)[:end], seed))
