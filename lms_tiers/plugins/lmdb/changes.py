"""What the writer thread applies: put, remove, note uses, keep a tier's state. Each keeps the counters true.

Every function here runs in the writer thread, inside one write transaction, and checks before it changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lms_tiers.errors import CapacityError, FormatError
from lms_tiers.plugins.lmdb.layout import STAMP, Counters, Manifest, part_key, part_keys, seal
from lms_tiers.plugins.lmdb.mapped import own_pages
from lms_tiers.plugins.lmdb.parts import Groups, slices
from lms_tiers.plugins.lmdb.tables import Tables

_log = logging.getLogger(__name__)

_STATE: Final = b"state"


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a change works on: LMDB's write transaction, the tables, and the counters as they will be."""

    txn: Any
    tables: Tables
    counters: Counters


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chunk ready to be written; its record gets the sequence number when its turn comes.

    Attributes
    ----------
    hashed : bytes
        Key of its record.
    manifest : Manifest
    stream : memoryview
        What the parts are cut from.
    parts : sequence of memoryview
    record : bytearray
        The manifest, packed and not yet sealed.
    scratch : bytearray or None
        What `stream` borrows of the pool.
    """

    hashed: bytes
    manifest: Manifest
    stream: memoryview
    parts: Sequence[memoryview]
    record: bytearray
    scratch: bytearray | None


def put(tx: Transaction, chunk: Prepared, seed: int, usable: int) -> None:
    """Write a chunk, replacing an older one whole."""
    counters, manifest = tx.counters, chunk.manifest
    # The old chunk's pages are not free before the next commit, so both count.
    if counters.stored + manifest.stored > usable:
        raise CapacityError(f"lmdb store {tx.tables.path}", manifest.stored, max(0, usable - counters.stored))
    _forget(tx, chunk.hashed, seed)
    counters.clock += 1
    sequence = counters.clock
    pages = put_parts(tx.txn, tx.tables, sequence, chunk.parts)
    seal(chunk.record, sequence, time.time_ns() // 1_000_000, pages, seed)
    tx.txn.put(chunk.hashed, chunk.record, db=tx.tables.chunks)
    counters.chunks += 1
    counters.stored += manifest.stored


def put_parts(txn: Any, tables: Tables, sequence: int, parts: Sequence[memoryview]) -> list[int]:
    """Write the parts of a put; the first page of each, as a manifest notes it."""
    table, note = tables.parts, tables.mapped.note
    pages = [0] * len(parts)
    for number, (name, part) in enumerate(zip(part_keys(sequence, len(parts)), parts, strict=True)):
        txn.put(name, part, db=table)
        # One part alone is found by one look-up: to note its page would cost as much.
        if len(parts) > 1:
            # LMDB has chosen the pages already: a value with pages of its own is not moved any more.
            pages[number] = note(txn.get(name, db=table), len(name))
    return pages


def remove(tx: Transaction, hashed: bytes, key: bytes, seed: int) -> None:
    """Delete a chunk; an absent one is no error, and one of another key with the same hash stays."""
    record = tx.txn.get(hashed, db=tx.tables.chunks)
    if record is None:
        return
    try:
        if Manifest.unpack(record, seed).key != key:
            return
    except FormatError:
        pass  # damaged: whoever it was, it serves nobody
    _forget(tx, hashed, seed)


def remove_all(tx: Transaction, keys: Sequence[tuple[bytes, bytes]], seed: int) -> None:
    """Delete chunks, given as (key hash, key)."""
    for hashed, key in keys:
        remove(tx, hashed, key, seed)


def drop_damaged(tx: Transaction, hashed: bytes, sequence: int | None, seed: int) -> None:
    """Delete a chunk found damaged, unless another put has replaced it since."""
    record = tx.txn.get(hashed, db=tx.tables.chunks)
    if record is None:
        return
    try:
        found = Manifest.unpack(record, seed).sequence
    except FormatError:
        found = None
    if found == sequence:
        _forget(tx, hashed, seed)


def _forget(tx: Transaction, hashed: bytes, seed: int) -> None:
    txn, tables = tx.txn, tx.tables
    record = txn.get(hashed, db=tables.chunks)
    if record is None:
        return
    try:
        manifest = Manifest.unpack(record, seed)
    except FormatError:
        manifest = None  # its parts cannot be named: the next opening finds and frees them
    txn.delete(hashed, db=tables.chunks)
    txn.delete(hashed, db=tables.recency)
    tx.counters.chunks -= 1
    if manifest is not None:
        tx.counters.stored -= manifest.stored
        for number in range(manifest.parts):
            delete_part(txn, tables, part_key(manifest.sequence, number))


def delete_part(txn: Any, tables: Tables, key: bytes) -> None:
    """Delete one part, unless its pages' header is damaged: LMDB would free as many pages as that says."""
    value = txn.get(key, db=tables.parts)
    if value is None:
        return
    pages = own_pages(len(value), len(key), tables.mapped.page)
    if pages and not tables.mapped.first_page(value, len(key)):
        _log.error("lmdb store %s: pages of a part are damaged; run `lms-tiers check`", tables.path)
        return
    del value
    txn.delete(key, db=tables.parts)


def note_uses(tx: Transaction, hashes: Mapping[bytes, None]) -> None:
    """Stamp chunks as used, in the order given; absent ones are passed over."""
    txn, tables, counters = tx.txn, tx.tables, tx.counters
    first = counters.clock + 1
    counters.clock += len(hashes)
    # In key order, so that each tree page is copied once.
    for hashed, stamp in sorted((hashed, first + i) for i, hashed in enumerate(hashes)):
        if txn.get(hashed, db=tables.chunks) is not None:
            txn.put(hashed, STAMP.pack(stamp), db=tables.recency)


def save_state(tx: Transaction, state: bytes, groups: Groups) -> None:
    """Replace a tier's state."""
    txn, meta = tx.txn, tx.tables.meta
    number = 0
    while txn.delete(_state_key(number), db=meta):
        number += 1
    for number, part in enumerate(slices(memoryview(state), groups)):
        txn.put(_state_key(number), part, db=meta)


def load_state(txn: object, meta: object) -> bytes:
    """The state as saved; empty without one."""
    parts: list[bytes] = []
    while (part := txn.get(_state_key(len(parts)), db=meta)) is not None:  # type: ignore[attr-defined]  # lmdb has no types
        parts.append(bytes(part))
    return b"".join(parts)


def _state_key(number: int) -> bytes:
    return _STATE + number.to_bytes(4, "big")
