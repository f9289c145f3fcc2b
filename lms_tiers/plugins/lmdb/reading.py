"""The way out: find a chunk's manifest, check every part, and put the bytes where they are wanted.

Checksums of manifest and parts are verified on every read and the key is compared in full; whatever does not fit is
`Damaged`, which the backend answers as a miss. Runs inside a read transaction that the caller holds.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xxhash

from lms_tiers.errors import FormatError
from lms_tiers.plugins.lmdb.layout import Manifest, part_key
from lms_tiers.plugins.lmdb.parts import sizes
from lms_tiers.plugins.lmdb.tables import Tables


class Damaged(Exception):
    """A chunk that cannot be trusted; `sequence` is its put, None where even that is unknown."""

    def __init__(self, reason: str, sequence: int | None = None) -> None:
        self.reason = reason
        self.sequence = sequence
        super().__init__(reason)


def find(txn: Any, tables: Tables, key: bytes, hashed: bytes, seed: int) -> Manifest | None:
    """The manifest of `key`, or None where the file has none.

    Raises
    ------
    Damaged
    """
    record = txn.get(hashed, db=tables.chunks)
    if record is None:
        return None
    try:
        manifest = Manifest.unpack(record, seed)
    except FormatError as error:
        raise Damaged(str(error)) from None
    return manifest if manifest.key == key else None


def borrow(txn: Any, tables: Tables, manifest: Manifest) -> list[memoryview]:
    """The stored parts, checked, without a copy: valid while the transaction lives."""
    parts: list[memoryview] = []
    sequence = manifest.sequence
    table = tables.parts
    for number, (size, expected) in enumerate(zip(sizes(manifest.groups), manifest.checksums, strict=True)):
        part = txn.get(part_key(sequence, number), db=table)
        if part is None or len(part) != size or xxhash.xxh3_64_intdigest(part) != expected:
            raise Damaged(f"part {number} is damaged", sequence)
        parts.append(part)
    return parts


def copy(txn: Any, tables: Tables, manifest: Manifest, out: Any) -> None:
    """The stored parts, one after another, into `out`; each is checked where it arrived.

    The copy is checked, not the original: what is handed out is what was verified, and it is warm in the cache.
    """
    target: Final = memoryview(out)
    whole = np.frombuffer(target, np.uint8)
    sequence = manifest.sequence
    # Parts of a chunk are neighbours in the table: one descent of the tree, then steps.
    cursor = txn.cursor(tables.parts)
    at = 0
    for number, (size, expected) in enumerate(zip(sizes(manifest.groups), manifest.checksums, strict=True)):
        name = part_key(sequence, number)
        there = cursor.next() if number else cursor.set_key(name)
        part = cursor.value()
        if not there or cursor.key() != name or len(part) != size:
            raise Damaged(f"part {number} is missing", sequence)
        end = at + size
        # numpy copies without the GIL.
        np.copyto(whole[at:end], np.frombuffer(part, np.uint8))
        if xxhash.xxh3_64_intdigest(target[at:end]) != expected:
            raise Damaged(f"part {number} is damaged", sequence)
        at = end
