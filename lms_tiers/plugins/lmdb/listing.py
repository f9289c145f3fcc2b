"""Listing the file: keys as a stream, and every chunk in the order of use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lms_tiers.errors import FormatError
from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey
from lms_tiers.plugins.lmdb.layout import STAMP, Manifest
from lms_tiers.plugins.lmdb.tables import Tables


def keys(txn: Any, tables: Tables, seed: int) -> Iterator[CacheEngineKey]:
    """Every key whose manifest can be trusted."""
    for record in txn.cursor(tables.chunks).iternext(keys=False):
        try:
            yield CacheEngineKey.from_string(Manifest.unpack(record, seed).key.decode())
        except FormatError:
            continue


def chunks_by_use(txn: Any, tables: Tables, seed: int) -> list[ChunkInfo]:
    """Every chunk whose manifest can be trusted, least recently put or used first."""
    uses = {bytes(hashed): STAMP.unpack(stamp)[0] for hashed, stamp in txn.cursor(tables.recency)}
    found: list[tuple[int, ChunkInfo]] = []
    for hashed, record in txn.cursor(tables.chunks):
        try:
            manifest = Manifest.unpack(record, seed)
        except FormatError:
            continue
        last = max(manifest.sequence, uses.get(bytes(hashed), 0))
        key = CacheEngineKey.from_string(manifest.key.decode())
        found.append((last, ChunkInfo(key, manifest.meta, manifest.stored)))
    found.sort(key=lambda entry: entry[0])
    return [info for _, info in found]
