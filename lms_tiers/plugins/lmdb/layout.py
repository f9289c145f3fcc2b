"""The records of the file: names of tables, keys, and the manifest of a chunk. See docs/format.md.

Packing and unpacking only; nothing here opens a file or knows a transaction.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import xxhash

from lms_tiers.errors import FormatError
from lms_tiers.messages import ChunkMeta

#: What the record `FORMAT_KEY` holds, and the only version this code reads and writes.
MAGIC: Final = b"lms_tiers/lmdb"
VERSION: Final = 1

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
_SUM: Final = struct.Struct("<Q")
#: Of chunk metadata: bytes without dimensions, and where it has their number.
_META_BYTES: Final = 12
_DIMENSIONS_AT: Final = 3

#: Longest key text in UTF-8: a manifest stays far below a page for every usual chunk.
MAX_KEY_BYTES: Final = 1024
MAX_PARTS: Final = 65535

# Spreads part keys over the tree: pages emptied by evictions are filled again by later puts, wherever those land.
SPREAD: Final = 0x9E3779B97F4A7C15
_WRAP: Final = 2**64 - 1


def key_hash(key: bytes, seed: int) -> bytes:
    """The key of a chunk's records: 128 bits over the key's text, seeded per file. The text itself is compared."""
    return xxhash.xxh3_128_digest(key, seed)


def part_key(sequence: int, number: int) -> bytes:
    """The key of part `number` of the put number `sequence`; no two puts share one."""
    return PART_KEY.pack(sequence * SPREAD & _WRAP, number)


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
        raise FormatError("counters", "damaged bytes", "version 1")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything of a chunk but its bytes.

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
        Encoded length of each block; the blocks lie one after another over the parts.
    groups : tuple of (int, int)
        Runs of parts of one size: how many, and how many bytes each.
    checksums : tuple of int
        xxh3-64 of each part.
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
    checksums: tuple[int, ...]

    @staticmethod
    def raw(key: bytes, meta: ChunkMeta, groups: tuple[tuple[int, int], ...]) -> Manifest:
        """The manifest of a chunk stored as it is; sequence, charge, time and checksums come later."""
        count = sum(n for n, _ in groups)
        return Manifest(key, meta, 0, 0, 0, "", 0, (), groups, (0,) * count)

    @property
    def nbytes(self) -> int:
        """Length of `pack`."""
        lists = 8 * len(self.groups) + 4 * len(self.blocks) + 8 * len(self.checksums)
        meta = len(self.meta.pack())
        return _HEAD.size + meta + len(self.key) + len(self.layout.encode()) + lists + _SUM.size

    def pack(self, seed: int) -> bytes:
        """As stored, sealed by a checksum."""
        layout = self.layout.encode()
        body = b"".join((
            _HEAD.pack(
                VERSION, 0, len(self.key), len(layout), len(self.groups), len(self.blocks), self.block_bytes,
                self.sequence, self.stored, self.created,
            ),
            self.meta.pack(),
            self.key,
            layout,
            struct.pack(f"<{2 * len(self.groups)}I", *(n for group in self.groups for n in group)),
            struct.pack(f"<{len(self.blocks)}I", *self.blocks),
            struct.pack(f"<{len(self.checksums)}Q", *self.checksums),
        ))  # fmt: skip
        return body + _SUM.pack(xxhash.xxh3_64_intdigest(body, seed))

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
        """Read what `pack` wrote.

        Raises
        ------
        FormatError
            Damaged, or of another version.
        """
        end = len(data) - _SUM.size
        try:
            (checksum,) = _SUM.unpack_from(data, end)
            if checksum != xxhash.xxh3_64_intdigest(memoryview(data)[:end], seed):
                raise FormatError("chunk manifest", "damaged bytes", f"version {VERSION}")
            version, _, nkey, nlayout, ngroups, nblocks, block_bytes, sequence, stored, created = _HEAD.unpack_from(
                data
            )
            if version != VERSION:
                raise FormatError("chunk manifest", f"version {version}", f"version {VERSION}")
            meta, size = ChunkMeta.unpack(memoryview(data)[_HEAD.size : end])
            at = _HEAD.size + size
            key = bytes(data[at : at + nkey])
            at += nkey
            layout = bytes(data[at : at + nlayout]).decode()
            at += nlayout
            flat = struct.unpack_from(f"<{2 * ngroups}I", data, at)
            at += 8 * ngroups
            blocks = struct.unpack_from(f"<{nblocks}I", data, at)
            at += 4 * nblocks
            checksums = struct.unpack_from(f"<{(end - at) // 8}Q", data, at)
        except (struct.error, UnicodeDecodeError) as error:
            raise FormatError("chunk manifest", f"damaged bytes ({error})", f"version {VERSION}") from None
        groups = tuple(zip(flat[::2], flat[1::2], strict=True))
        held = sum(count * size for count, size in groups)
        if sum(count for count, _ in groups) != len(checksums) or held != (sum(blocks) if layout else meta.length):
            raise FormatError("chunk manifest", "lengths that disagree", f"version {VERSION}")
        return Manifest(key, meta, sequence, stored, created, layout, block_bytes, blocks, groups, checksums)
