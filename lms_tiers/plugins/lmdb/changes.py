"""What the writer thread applies: put, remove, note uses, keep a tier's state. Each keeps the counters true.

Every function here runs in the writer thread, inside one write transaction, and checks before it changes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from lms_tiers.errors import CapacityError, FormatError
from lms_tiers.plugins.lmdb.layout import STAMP, Manifest, part_key
from lms_tiers.plugins.lmdb.parts import Groups, slices
from lms_tiers.plugins.lmdb.writing import Transaction

_STATE: Final = b"state"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chunk ready to be written; its manifest gets the sequence number when its turn comes.

    Attributes
    ----------
    hashed : bytes
        Key of its record.
    manifest : Manifest
    stream : memoryview
        What the parts are cut from.
    parts : sequence of memoryview
    scratch : bytearray or None
        What `stream` borrows of the pool.
    """

    hashed: bytes
    manifest: Manifest
    stream: memoryview
    parts: Sequence[memoryview]
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
    txn, table = tx.txn, tx.tables.parts
    for number, part in enumerate(chunk.parts):
        txn.put(part_key(sequence, number), part, db=table)
    manifest = replace(manifest, sequence=sequence, created=time.time_ns() // 1_000_000)
    txn.put(chunk.hashed, manifest.pack(seed), db=tx.tables.chunks)
    counters.chunks += 1
    counters.stored += manifest.stored


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
    record = txn.pop(hashed, db=tables.chunks)
    if record is None:
        return
    txn.delete(hashed, db=tables.recency)
    tx.counters.chunks -= 1
    try:
        manifest = Manifest.unpack(record, seed)
    except FormatError:
        return  # its parts cannot be named: `lms-tiers check --repair` finds and frees them
    tx.counters.stored -= manifest.stored
    for number in range(len(manifest.checksums)):
        txn.delete(part_key(manifest.sequence, number), db=tables.parts)


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
