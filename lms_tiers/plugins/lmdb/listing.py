"""Listing a store, however large: keys as a stream, and every chunk in the order of use.

What the index does not have yet is copied first; the index itself is read a batch at a time. What changes meanwhile may
or may not be listed; no key is listed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias, TypeVar

import lmdb
import numpy as np
import numpy.typing as npt

from lms_tiers.errors import from_anywhere
from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey, OpaqueKey
from lms_tiers.plugins.lmdb.directory import unavailable
from lms_tiers.plugins.lmdb.layout import HASH_BYTES, Chunk, Damaged, key_hash
from lms_tiers.plugins.lmdb.mending import mend
from lms_tiers.plugins.lmdb.space import charge
from lms_tiers.plugins.lmdb.store import Store

_T = TypeVar("_T")
#: Whether chunks of a layout can be read.
Reads: TypeAlias = Callable[[str], bool]

#: Chunks listed between two looks at the index.
BATCH: int = 256
_SEQUENCE: Final = slice(0, 8)


class _Newer(NamedTuple):
    """What stands before the index: manifests by key hash, None for what is gone; and later uses."""

    records: dict[bytes, bytes | None]
    stamps: dict[bytes, int]


def _newer(store: Store) -> _Newer:
    with store.lock:
        records, stamps, seed = {**store.committing, **store.dirty}, dict(store.uses), store.seed
    return _Newer(
        {key_hash(text, seed): record for text, record in records.items()},
        {key_hash(text, seed): stamp for text, stamp in stamps.items()},
    )


def _records(store: Store, ahead: _Newer) -> Iterator[list[tuple[bytes, int, bytes]]]:
    """Key hash, stamp and manifest of every chunk, a batch at a time."""
    yield [(name, 0, record) for name, record in ahead.records.items() if record is not None]
    for found in store.index.items(BATCH) if store.index.opened else ():
        yield [item for item in found if item[0] not in ahead.records]


def _trusted(store: Store, record: bytes, reads: Reads) -> Chunk | None:
    try:
        chunk = Chunk.unpack(record, store.seed)
    except Damaged:
        return None
    return chunk if reads(chunk.form.layout) else None


def keys(store: Store, reads: Reads) -> Iterator[list[CacheEngineKey]]:
    """Every key whose manifest can be trusted and whose layout can be read, a batch at a time."""
    for found in _records(store, _newer(store)):
        chunks = [chunk for _, _, record in found if (chunk := _trusted(store, record, reads)) is not None]
        yield [CacheEngineKey.from_string(chunk.text) for chunk in chunks]


def chunks_by_use(store: Store, reads: Reads) -> Iterator[list[ChunkInfo]]:
    """Every chunk that can be trusted and read, least recently put or used first, a batch at a time.

    24 bytes of each are held for that.
    """
    ahead = _newer(store)
    names, stamps = bytearray(), bytearray()
    for found in _records(store, ahead):
        names += b"".join([name for name, _, _ in found])
        for name, stamp, record in found:
            sequence = int.from_bytes(record[_SEQUENCE], "little")
            stamps += max(stamp, sequence, ahead.stamps.get(name, 0)).to_bytes(8, "little")
        yield []
    order = np.argsort(np.frombuffer(stamps, "<u8"), kind="stable")
    listed: npt.NDArray[np.uint8] = np.frombuffer(names, np.uint8).reshape(-1, HASH_BYTES)
    for begin in range(0, len(order), BATCH):
        some = [row.tobytes() for row in listed[order[begin : begin + BATCH]]]
        asked = [name for name in some if name not in ahead.records]
        there = store.index.find(asked) if asked else {}
        infos: list[ChunkInfo] = []
        for name in some:
            newest = ahead.records[name] if name in ahead.records else there.get(name, (0, None))[1]
            chunk = None if newest is None else _trusted(store, newest, reads)
            if newest is None or chunk is None:
                continue  # removed meanwhile, or not to be read
            if store.dirty.get(chunk.text, b"") is None or store.committing.get(chunk.text, b"") is None:
                continue
            # Opaque: parsing the texts of a million keys takes seconds, and whoever scans compares texts.
            infos.append(ChunkInfo(OpaqueKey(chunk.text), chunk.form.meta, charge(chunk.pages, len(newest))))
        yield infos


def streamed(store: Store, batches: Iterator[list[_T]]) -> Iterator[_T]:
    """Batches of a listing, each a call of its own: `close` waits for one, not for whoever holds the listing."""
    while True:
        since = next(store.calls)
        try:
            batch = _next(store, batches)
        except BaseException as error:
            if from_anywhere(error):
                mend(store, since)
            raise
        if batch is None:
            return
        yield from batch


def _next(store: Store, batches: Iterator[list[_T]]) -> list[_T] | None:
    with store.epochs.calling():
        store.check()
        try:
            return next(batches, None)
        except lmdb.Error as error:
            raise unavailable(store.where, error, "read failed") from error
