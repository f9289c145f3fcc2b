"""What is known of chunks: manifests in memory, what the index does not have yet, and behind them the index.

Readers take no lock: a manifest is found in a dictionary, or in the index where nothing newer stands before it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lms_tiers.changes import Awaited
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb.index import Index
from lms_tiers.plugins.lmdb.layout import STAMP, Chunk, Damaged, key_hash, vouched

#: The stamp of a chunk that nobody has used since it was put.
_NEVER: Final = STAMP.pack(0)


class Newer(NamedTuple):
    """What stands before the index: manifests by key hash, None for what is gone; and later uses."""

    records: dict[bytes, bytes | None]
    stamps: dict[bytes, int]


class Entries:
    """Chunks of one store. Whoever changes it holds `lock`, the only one.

    Attributes
    ----------
    lock : threading.Lock
        It is taken in one step, which no interrupt divides.
    changed : Awaited
        Woken when something changed that anybody may wait for.
    entries : dict
        Manifests by key, of all chunks or of some that the index has as well; verified.
    dirty, committing : dict
        What the index does not have: manifests, None for what was removed. The latter is on its way there.
    uses : dict
        Likewise, numbers of uses.
    complete : bool
        Whether memory has all there is: the index need not be asked.
    commits : int
        How often something reached the index, so that what a reader found there may be older than memory.
    """

    def __init__(self, where: Path, seed: int, index: Index, complete: bool) -> None:
        self.where: Final = where
        self.seed: Final = seed
        self.index: Final = index
        self.lock: Final = threading.Lock()
        self.changed: Final = Awaited(self.lock)
        self.entries: dict[str, bytes] = {}
        self.dirty: dict[str, bytes | None] = {}
        self.committing: dict[str, bytes | None] = {}
        self.uses: dict[str, int] = {}
        self.complete = complete
        self.commits = 0

    def recovered(self, records: dict[str, bytes], uses: dict[str, int]) -> None:
        """Hold what was found after a crash, none of which is in an index."""
        self.entries, self.dirty, self.uses, self.complete = records, dict(records), uses, True

    def find(self, text: str, keep: bool = True) -> bytes | None:
        """The manifest of a key's chunk, which memory keeps, unless it is only asked about.

        Of one that is only asked about the lengths are not compared: `trusted` does.

        Whoever reads what it tells of came in as a reader already.

        Raises
        ------
        StorageUnavailableError
            The index cannot be read.
        """
        entry = self.entries.get(text)
        if entry is not None or self.complete:
            return entry
        while True:
            commits = self.commits
            # This order: what is frozen is in `committing` before it has left `dirty`.
            if text in self.dirty or text in self.committing:
                return self.entries.get(text)
            known = self._look_up(text, keep)
            if known is None:
                return self.entries.get(text)
            entry = known[1]
            with self.lock:
                if commits == self.commits and text not in self.dirty and text not in self.committing:
                    return self.entries.setdefault(text, entry) if keep else entry

    def chunk(self, text: str) -> Chunk | None:
        """What memory knows of a key's chunk."""
        entry = self.entries.get(text)
        return None if entry is None else Chunk.unpack(entry, None)

    def used(self, text: str) -> tuple[int, bytes] | None:
        """The stamp of a chunk's last use as far as the index has it, and its manifest, which memory does not keep.

        Raises
        ------
        StorageUnavailableError
            As of `find`.
        """
        for changed in (self.dirty, self.committing):  # this order, as there
            if text in changed:
                record = changed[text]
                return None if record is None else (0, record)
        return self._look_up(text)

    def _look_up(self, text: str, whole: bool = True) -> tuple[int, bytes] | None:
        try:
            found = self.index.find_one(key_hash(text, self.seed))
            if found is None or not vouched(found[1], text, self.seed):
                return None
            return found if not whole or self.trusted(found[1]) is not None else None
        except Exception as error:
            raise StorageUnavailableError(str(self.where), f"read failed: {error}: run `lms-tiers check`.") from error

    def newer(self) -> Newer:
        """What the index does not have. The lock is held."""
        records, seed = {**self.committing, **self.dirty}, self.seed
        return Newer(
            {key_hash(text, seed): record for text, record in records.items()},
            {key_hash(text, seed): stamp for text, stamp in self.uses.items()},
        )

    def walk(self, ahead: Newer, step: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """Key hash, and stamp and manifest in one, of every chunk, a batch at a time; of the index not verified."""
        yield [(name, _NEVER + record) for name, record in ahead.records.items() if record is not None]
        for found in self.index.items(step) if self.index.opened else ():
            yield [item for item in found if item[0] not in ahead.records] if ahead.records else found

    def trusted(self, record: bytes) -> Chunk | None:
        """The chunk of a record of the index; None where that is damaged."""
        try:
            return Chunk.unpack(record, self.seed)
        except Damaged:
            return None
