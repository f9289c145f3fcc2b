"""Listing the file, however large: keys as a stream, and every chunk in the order of use.

Both read in short transactions, a batch each: a long one would hold back every page freed meanwhile. What changes
between two batches may or may not be listed; no key is listed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from lms_tiers.errors import FormatError
from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey, ChunkMeta, OpaqueKey
from lms_tiers.plugins.lmdb.layout import CHARGES_AT, HASH_BYTES, STAMP, Manifest
from lms_tiers.plugins.lmdb.reading import Damaged
from lms_tiers.plugins.lmdb.tables import Tables

#: Records listed in one transaction: half a millisecond.
_BATCH: Final = 1024

T = TypeVar("T")
Items: TypeAlias = list[tuple[bytes, bytes]]

#: Whether chunks of a layout can be read.
Reads: TypeAlias = Callable[[str], bool]


class Brief(NamedTuple):
    """What a listing tells of a chunk."""

    layout: str
    meta: ChunkMeta
    stored: int


def one(tables: Tables, key: bytes, hashed: bytes, seed: int) -> Brief | None:
    """The chunk of one key; in one short transaction, and without what only a reader of its bytes needs.

    Raises
    ------
    Damaged
    """
    record = tables.value(tables.chunks, hashed)
    if record is None:
        return None
    try:
        found, layout, meta, stored = Manifest.peek(record, seed)
        return Brief(layout, ChunkMeta.unpack(meta)[0], stored) if found == key else None
    except FormatError as error:
        raise Damaged(str(error)) from None


def keys(tables: Tables, seed: int, reads: Reads) -> Iterator[CacheEngineKey]:
    """Every key whose manifest can be trusted and whose layout can be read."""
    for found in _batches(tables, tables.chunks, lambda items: [_key(value, seed, reads) for _, value in items]):
        yield from (CacheEngineKey.from_string(key.decode()) for key in found if key is not None)


def _key(record: bytes, seed: int, reads: Reads) -> bytes | None:
    try:
        key, layout, _, _ = Manifest.peek(record, seed)
    except FormatError:
        return None
    return key if reads(layout) else None


def _batches(tables: Tables, table: object, take: Callable[[Items], T]) -> Iterator[T]:
    """What `take` makes of the records, (key, value) in key order, with a transaction for each batch."""
    after: bytes | None = None
    while True:
        with tables.reading(copies=True) as txn:
            cursor = txn.cursor(table)
            if not (cursor.first() if after is None else cursor.set_range(after)):
                return
            if after is not None and cursor.key() == after and not cursor.next():
                return
            items: Items = list(islice(cursor.iternext(), _BATCH))
        after = items[-1][0] if len(items) == _BATCH else None
        yield take(items)
        if after is None:
            return


def chunks_by_use(tables: Tables, seed: int, reads: Reads) -> Iterator[ChunkInfo]:
    """Every chunk that can be trusted and read, least recently put or used first; 24 bytes each are held for that."""
    for some in _by_use(tables):
        found: list[ChunkInfo] = []
        with tables.reading(copies=True) as txn:
            for hashed in some:
                record = txn.get(hashed, db=tables.chunks)
                if record is None:
                    continue  # removed meanwhile
                try:
                    key, layout, meta, stored = Manifest.peek(record, seed)
                    if reads(layout):
                        # Opaque: parsing the texts of a million keys takes seconds, and whoever scans compares texts.
                        found.append(ChunkInfo(OpaqueKey(key.decode()), ChunkMeta.unpack(meta)[0], stored))
                except FormatError:
                    continue
        yield from found


def _by_use(tables: Tables) -> Iterator[list[bytes]]:
    """Key hashes, a batch at a time, least recently put or used first."""
    names, last = _pairs(tables, tables.chunks, CHARGES_AT)
    used, stamps = _pairs(tables, tables.recency, 0)
    if len(used) and len(names):
        # Both are in key order. A chunk removed between the two reads has a stamp without a name. Half of a hash
        # tells them apart: of two that share it one might be thought used later, which harms nothing.
        heads, used_heads = _heads(names), _heads(used)
        at = np.minimum(np.searchsorted(heads, used_heads), len(names) - 1)
        same = heads[at] == used_heads
        np.maximum.at(last, at[same], stamps[same])
    order = np.argsort(last, kind="stable")
    del last, used, stamps
    step = max(1, _BATCH // 4)  # reading a manifest takes four times as long: whoever else wants to run waits as long
    for begin in range(0, len(order), step):
        yield [name.tobytes() for name in names[order[begin : begin + step]]]


def _heads(names: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(names[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def _pairs(tables: Tables, table: object, at: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Key hash, and the number at `at` in the value, of each record."""
    end = at + STAMP.size

    def take(items: Items) -> tuple[bytes, bytes]:
        whole = [item for item in items if len(item[0]) == HASH_BYTES and len(item[1]) >= end]
        return b"".join([name for name, _ in whole]), b"".join([record[at:end] for _, record in whole])

    names, numbers = bytearray(), bytearray()
    for some, their in _batches(tables, table, take):
        names += some
        numbers += their
    return np.frombuffer(names, np.uint8).reshape(-1, HASH_BYTES), np.frombuffer(numbers, "<u8").astype(np.uint64)
