"""The head that a chunk has in an engine of somebody else: what it is, whose, and checksums of all of it.

A fixed record, the packed metadata, the key's text; then the body. Whatever else an engine answers is no chunk.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from xxhash import xxh3_64_intdigest

from lms_tiers.errors import FormatError
from lms_tiers.messages import ChunkMeta

#: Magic, bytes of metadata, bytes of the key, checksum of the body, checksum of all the head before and after this one.
_RECORD: Final = struct.Struct("<4sHIQQ")
_MAGIC: Final = b"LMR1"
_CHECKED: Final = _RECORD.size - 8

#: Bytes of the fixed record.
RECORD_BYTES: Final = _RECORD.size


class Head(NamedTuple):
    """A head that is whole: metadata, checksum of the body, key, and the bytes it takes."""

    meta: ChunkMeta
    checksum: int
    key: bytes
    size: int

    def fits(self, body: Any) -> bool:
        """Whether this is the body it was made for."""
        return len(body) == self.meta.length and xxh3_64_intdigest(body) == self.checksum


def pack_head(key: bytes, meta: ChunkMeta, body: Any) -> bytes:
    """The head of a chunk; `body` is contiguous bytes."""
    packed = meta.pack()
    record = _RECORD.pack(_MAGIC, len(packed), len(key), xxh3_64_intdigest(body), 0)[:_CHECKED]
    rest = packed + key
    return record + struct.pack("<Q", xxh3_64_intdigest(record + rest)) + rest


def bytes_after(record: bytes) -> int:
    """How many bytes of a head follow its fixed record, if it is one."""
    _, packed, named, _, _ = _RECORD.unpack(record)
    return int(packed + named)


def read_head(data: bytes) -> Head | None:
    """The head that `data` begins with; None where it does not begin with a whole one."""
    if len(data) < _RECORD.size:
        return None
    magic, packed, named, body, checked = _RECORD.unpack_from(data)
    rest = data[_RECORD.size : _RECORD.size + packed + named]
    if magic != _MAGIC or len(rest) < packed + named or xxh3_64_intdigest(data[:_CHECKED] + rest) != checked:
        return None
    try:
        meta, size = ChunkMeta.unpack(rest)
    except FormatError:
        return None
    return Head(meta, body, rest[packed:], _RECORD.size + packed + named) if size == packed else None


def head_of(key: bytes, data: bytes) -> Head | None:
    """The head that `data` begins with, if it is one of `key`."""
    head = read_head(data)
    return head if head is not None and head.key == key else None
