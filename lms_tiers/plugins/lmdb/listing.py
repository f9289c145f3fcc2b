"""Listing a store, however large: keys as a stream, and every chunk in the order of use.

What the index does not have yet is copied first; the index itself is read a batch at a time. What changes meanwhile may
or may not be listed; no key is listed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey, OpaqueKey
from lms_tiers.plugins.lmdb.index import hashed
from lms_tiers.plugins.lmdb.layout import HASH_BYTES, Damaged, Manifest
from lms_tiers.plugins.lmdb.space import charge
from lms_tiers.plugins.lmdb.store import Store

#: Whether chunks of a layout can be read.
Reads: TypeAlias = Callable[[str], bool]

#: Chunks listed between two looks at the index.
BATCH: int = 256
_SEQUENCE: Final = slice(0, 8)


class Newer(NamedTuple):
    """What stands before the index: manifests by key hash, None for what is gone; and later uses."""

    records: dict[bytes, bytes | None]
    stamps: dict[bytes, int]


def newer(store: Store) -> Newer:
    """A copy of what the index does not have."""
    with store.changed:
        records = {**store.committing, **store.dirty}
        stamps = dict(store.uses)
    seed = store.seed
    return Newer(
        {hashed(text, seed): record for text, record in records.items()},
        {hashed(text, seed): stamp for text, stamp in stamps.items()},
    )


def _manifests(store: Store, ahead: Newer) -> Iterator[list[tuple[bytes, int, bytes]]]:
    """Key hash, stamp and record of every chunk, a batch at a time."""
    yield [(name, 0, record) for name, record in ahead.records.items() if record is not None]
    for found in store.index.items(BATCH):
        yield [item for item in found if item[0] not in ahead.records]


def keys(store: Store, reads: Reads) -> Iterator[CacheEngineKey]:
    """Every key whose manifest can be trusted and whose layout can be read."""
    for found in _manifests(store, newer(store)):
        for _, _, record in found:
            try:
                manifest = Manifest.unpack(record, store.seed)
            except Damaged:
                continue
            if reads(manifest.layout):
                yield CacheEngineKey.from_string(manifest.key.decode())


def chunks_by_use(store: Store, reads: Reads) -> Iterator[ChunkInfo]:
    """Every chunk that can be trusted and read, least recently put or used first; 24 bytes each are held for that."""
    ahead = newer(store)
    names, stamps = bytearray(), bytearray()
    for found in _manifests(store, ahead):
        for name, stamp, record in found:
            names += name
            stamps += max(stamp, int.from_bytes(record[_SEQUENCE], "little"), ahead.stamps.get(name, 0)).to_bytes(
                8, "little"
            )
    order = np.argsort(np.frombuffer(stamps, "<u8"), kind="stable")
    listed: npt.NDArray[np.uint8] = np.frombuffer(names, np.uint8).reshape(-1, HASH_BYTES)
    for begin in range(0, len(order), BATCH):
        for row in listed[order[begin : begin + BATCH]]:
            info = _info(store, ahead, row.tobytes(), reads)
            if info is not None:
                yield info


def _info(store: Store, ahead: Newer, name: bytes, reads: Reads) -> ChunkInfo | None:
    record = ahead.records.get(name)
    if record is None:
        found = store.index.find(name)
        if found is None:
            return None  # removed meanwhile
        record = found[1]
    try:
        manifest = Manifest.unpack(record, store.seed)
    except Damaged:
        return None
    if not reads(manifest.layout):
        return None
    text = manifest.key.decode()
    if store.dirty.get(text, b"") is None or store.committing.get(text, b"") is None:
        return None
    # Opaque: parsing the texts of a million keys takes seconds, and whoever scans compares texts.
    return ChunkInfo(OpaqueKey(text), manifest.meta, charge(manifest.pages, len(record)))
