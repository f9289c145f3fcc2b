"""What is known of chunks: entries in memory, what the index does not have yet, and behind them the index.

Readers take no lock: an entry is found in a dictionary, or in the index where nothing newer stands before it.
"""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Any, Final

from lms_tiers.changes import Awaited
from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb.index import Index
from lms_tiers.plugins.lmdb.layout import (
    COUNT,
    COUNT_BITS,
    PAGE,
    Chunk,
    Damaged,
    Form,
    key_hash,
    pack_extents,
    unpack_extents,
    words,
)

#: sequence, checksum, first extent, number of the form, blocks, further extents
ENTRY: Final = struct.Struct("<QQQIII")


class Forms:
    """Forms by number, so that what is kept of a chunk in memory, its entry, takes 80 bytes."""

    def __init__(self) -> None:
        self.by_number: Final[list[Form]] = []
        self._numbers: Final[dict[Form, int]] = {}

    def entry(self, chunk: Chunk) -> bytes:
        """The entry of a chunk. Callers hold the store's lock."""
        form, blocks, extents = chunk.form, chunk.blocks, chunk.extents
        number = self._numbers.get(form)
        if number is None:
            number = len(self.by_number)
            self.by_number.append(form)
            self._numbers[form] = number
        page, count = extents[0]
        more = len(extents) - 1
        entry = ENTRY.pack(chunk.sequence, chunk.checksum, page << COUNT_BITS | count, number, len(blocks), more)
        if more or blocks:
            entry += words(len(blocks)).pack(*blocks) + pack_extents(extents[1:])
        return entry

    def chunk(self, text: str, entry: bytes) -> Chunk:
        """The chunk of an entry."""
        sequence, checksum, place, number, nblocks, more = ENTRY.unpack_from(entry)
        extents = [(place >> COUNT_BITS, place & COUNT)]
        blocks: tuple[int, ...] = ()
        if nblocks or more:
            blocks = words(nblocks).unpack_from(entry, ENTRY.size)
            extents += unpack_extents(entry, ENTRY.size + 4 * nblocks, more)
        return Chunk(text, self.by_number[number], sequence, checksum, blocks, extents)


def offset_of(place: int) -> int:
    """Where the extent begins that an entry holds as `place`."""
    return (place >> COUNT_BITS) * PAGE


class Changed(threading.Condition):
    """Something of a store changed. Its own threads wait for that as for any condition.

    An interrupt of such a wait may leave its caller without the lock; threads that run nothing else have none. Calls
    of others wait by `calls` without the lock.
    """

    def __init__(self, lock: Any) -> None:
        super().__init__(lock)
        self.calls: Final = Awaited(lock)

    def notify_all(self) -> None:
        """Let all who wait look again."""
        self.calls.wake()
        super().notify_all()

    def rouse(self) -> None:
        """Let the store's own threads look, and no call."""
        super().notify_all()


class Entries:
    """Chunks of one store. Whoever changes it holds `lock`, the only one.

    Attributes
    ----------
    lock : threading.Lock
        It is taken in one step, which no interrupt divides.
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
        self.changed: Final = Changed(self.lock)
        self.forms = Forms()
        self.entries: dict[str, bytes] = {}
        self.dirty: dict[str, bytes | None] = {}
        self.committing: dict[str, bytes | None] = {}
        self.uses: dict[str, int] = {}
        self.complete = complete
        self.commits = 0

    def recovered(
        self, forms: Forms, entries: dict[str, bytes], records: dict[str, bytes], uses: dict[str, int]
    ) -> None:  # fmt: skip
        """Hold what was found after a crash, none of which is in an index."""
        self.forms, self.entries, self.complete = forms, entries, True
        self.dirty, self.uses = dict(records), uses

    def find(self, text: str, keep: bool = True) -> bytes | None:
        """The entry of a key's chunk, which memory keeps, unless it is only asked about.

        Whoever reads what it tells of is inside `epochs` already.

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
            chunk = self._look_up(text)
            if chunk is None:
                return self.entries.get(text)
            with self.lock:
                if commits == self.commits and text not in self.dirty and text not in self.committing:
                    entry = self.forms.entry(chunk)
                    return self.entries.setdefault(text, entry) if keep else entry

    def chunk(self, text: str) -> Chunk | None:
        """What memory knows of a key's chunk."""
        entry = self.entries.get(text)
        return None if entry is None else self.forms.chunk(text, entry)

    def _look_up(self, text: str) -> Chunk | None:
        name = key_hash(text, self.seed)
        try:
            found = self.index.find((name,))
            chunk = Chunk.unpack(found[name][1], self.seed) if found else None
        except Damaged:
            return None
        except Exception as error:
            raise StorageUnavailableError(str(self.where), f"read failed: {error}: run `lms-tiers check`.") from error
        return chunk if chunk is not None and chunk.text == text else None
