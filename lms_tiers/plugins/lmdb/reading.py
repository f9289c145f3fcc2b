"""The way out: find a chunk's manifest, put the stored bytes where they are wanted, and check them there.

The checksums of manifest and bytes are verified on every read and the key is compared in full; whatever does not fit is
`Damaged`, which the backend answers as a miss. Runs inside a read transaction that the caller holds.
"""

from __future__ import annotations

from typing import Any, Final

import xxhash

from lms_tiers.errors import FormatError
from lms_tiers.plugins.lmdb.layout import Manifest, part_key
from lms_tiers.plugins.lmdb.parts import gather, sizes
from lms_tiers.plugins.lmdb.tables import Tables

#: Up to so many bytes are copied with the interpreter's lock held: that takes no longer than to get it back.
_JOINED_MOST: Final = 1 << 20


#: Manifests remembered.
_RECENT_MOST: Final = 256


class Damaged(Exception):
    """A chunk that cannot be trusted; `sequence` is its put, None where even that is unknown."""

    def __init__(self, reason: str, sequence: int | None = None) -> None:
        self.reason = reason
        self.sequence = sequence
        super().__init__(reason)


class Recent:
    """Manifests read lately: they hold as long as nothing is committed, and save their readers a look-up.

    An entry is good for transactions of the very commit that it was read in: whatever changes the file makes another.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, Manifest]] = {}

    def find(self, txn: Any, tables: Tables, key: bytes, hashed: bytes, seed: int) -> Manifest | None:
        """As the function `find`."""
        commit = txn.id()
        entry = self._known.get(hashed)
        if entry is not None and entry[0] == commit and entry[1].key == key:
            return entry[1]
        manifest = find(txn, tables, key, hashed, seed)
        if manifest is not None:
            if len(self._known) >= _RECENT_MOST:
                self._known.clear()
            self._known[hashed] = commit, manifest
        return manifest


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


def stored(txn: Any, tables: Tables, manifest: Manifest, first: int = 0) -> list[memoryview]:
    """The parts from `first` on as they lie in the file, unchecked but for their lengths.

    They are valid while the transaction lives.

    Raises
    ------
    Damaged
    """
    parts: list[memoryview] = []
    get, table = txn.get, tables.parts
    # A step of a cursor and a look at its value let the interpreter's lock go twice, a get once.
    for number, size in enumerate(sizes(manifest.groups)):
        if number < first:
            continue
        part = get(part_key(manifest.sequence, number), db=table)
        if part is None or len(part) != size:
            raise Damaged(f"part {number} is missing", manifest.sequence)
        parts.append(part)
    return parts


def borrow(txn: Any, tables: Tables, manifest: Manifest) -> list[memoryview]:
    """The parts as `stored`, checked together with the tail.

    Raises
    ------
    Damaged
    """
    parts = stored(txn, tables, manifest)
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    digest.update(manifest.tail)
    _trust(digest.intdigest(), manifest)
    return parts


def copy(txn: Any, tables: Tables, manifest: Manifest, out: memoryview) -> None:
    """The stored bytes into `out`, checked where they arrived.

    The copy is checked, not the original: what is handed out is what was verified, and it is warm in the cache.

    Raises
    ------
    Damaged
        `out` may hold anything.
    """
    mapped = tables.mapped
    noted, at = mapped.copy(manifest.pages, manifest.groups, out)
    if noted < len(manifest.pages):
        parts = stored(txn, tables, manifest, noted)
        gather(parts, manifest.tail, out[at:])
    elif manifest.tail:
        out[at:] = manifest.tail
    if xxhash.xxh3_64_intdigest(out) == manifest.checksum:
        return
    if noted:
        # Either they are damaged, or another tool has moved them: LMDB knows best where they are.
        gather(stored(txn, tables, manifest), manifest.tail, out)
        if xxhash.xxh3_64_intdigest(out) == manifest.checksum:
            mapped.distrust()
            return
    raise Damaged("stored bytes are damaged", manifest.sequence)


def fetch(txn: Any, tables: Tables, manifest: Manifest) -> bytearray:
    """The stored bytes in memory of their own, checked where they arrived.

    Raises
    ------
    Damaged
    """
    if manifest.stream > _JOINED_MOST:
        data = bytearray(manifest.stream)
        copy(txn, tables, manifest, memoryview(data))
        return data
    # Joining fills memory as it takes it; `bytearray(n)` would write zeros to all of it first.
    data = bytearray().join((*stored(txn, tables, manifest), manifest.tail))
    _trust(xxhash.xxh3_64_intdigest(data), manifest)
    return data


def _trust(checksum: int, manifest: Manifest) -> None:
    if checksum != manifest.checksum:
        raise Damaged("stored bytes are damaged", manifest.sequence)
