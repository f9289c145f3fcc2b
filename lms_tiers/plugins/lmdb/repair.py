"""Clearing away what belongs to no chunk: damaged manifests, parts nobody claims; and counting anew."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from lms_tiers.errors import FormatError
from lms_tiers.plugins.lmdb.changes import delete_part
from lms_tiers.plugins.lmdb.layout import COUNTERS_KEY, PART_KEY, Counters, Manifest, part_key
from lms_tiers.plugins.lmdb.tables import Tables

_log = logging.getLogger(__name__)

#: Parts deleted in one commit.
_BATCH: Final = 1024


@dataclass(slots=True)
class Found:
    """What does not belong."""

    damaged: list[bytes]
    orphans: list[bytes]
    chunks: int = 0
    stored: int = 0
    clock: int = 0


def look(tables: Tables, seed: int) -> Found:
    """Read every manifest, and every part's key."""
    found = Found([], [])
    claimed: set[bytes] = set()
    with tables.env.begin(buffers=True) as txn:
        for hashed, record in txn.cursor(tables.chunks):
            try:
                manifest = Manifest.unpack(record, seed)
            except FormatError:
                found.damaged.append(bytes(hashed))
                continue
            found.chunks += 1
            found.stored += manifest.stored
            found.clock = max(found.clock, manifest.sequence)
            claimed.add(part_key(manifest.sequence, 0)[:8])
        for key in txn.cursor(tables.parts).iternext(values=False):
            if bytes(key[:8]) not in claimed:
                found.orphans.append(bytes(key))
    return found


def clear_away(tables: Tables, counters: Counters, seed: int) -> Counters:
    """Delete what does not belong; the true counters, already stored."""
    found = look(tables, seed)
    counters = Counters(max(counters.clock, found.clock), found.chunks, found.stored)
    if found.damaged or found.orphans:
        _log.warning(
            "lmdb store %s: clearing away %d damaged manifests and %d parts of no chunk",
            tables.path, len(found.damaged), len(found.orphans),
        )  # fmt: skip
    for begin in range(0, max(len(found.damaged), len(found.orphans), 1), _BATCH):
        with tables.env.begin(write=True, buffers=True) as txn:
            for hashed in found.damaged[begin : begin + _BATCH]:
                txn.delete(hashed, db=tables.chunks)
                txn.delete(hashed, db=tables.recency)
            for key in found.orphans[begin : begin + _BATCH]:
                if len(key) == PART_KEY.size:
                    delete_part(txn, tables, key)
            counters.transaction = txn.id()
            txn.put(COUNTERS_KEY, counters.pack(), db=tables.meta)
    return counters
