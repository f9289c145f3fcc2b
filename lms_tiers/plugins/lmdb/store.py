"""How what a store holds changes: entries, free pages and charges together.

A change is one record in the journal and then one step under the lock. Bytes are moved by `reading` and `writing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Final, NamedTuple

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.directory import unavailable
from lms_tiers.plugins.lmdb.extents import Room
from lms_tiers.plugins.lmdb.grants import Grants, Put
from lms_tiers.plugins.lmdb.index import Index
from lms_tiers.plugins.lmdb.journal import GONE, OVERHEAD, PUT, Journal, Record
from lms_tiers.plugins.lmdb.layout import STAMP, Chunk, Extent, sequence_of
from lms_tiers.plugins.lmdb.options import SyncMode
from lms_tiers.plugins.lmdb.pages import Counters
from lms_tiers.plugins.lmdb.space import Budget, charge, index_share

#: Chunks remembered that were encoded and nobody asked for: a store without a tier has nobody who does.
SHRUNK_MOST: int = 1 << 16
#: Chunks of the index that a recount looks at together.
_COUNTED: Final = 1024


class _Change(NamedTuple):
    """Of the chunk under a key: a put, or None where it is removed; and what the journal says of it."""

    text: str
    record: Record
    put: Put | None


class Store(Grants):
    """See the module.

    Attributes
    ----------
    firm : bool
        Whether a change counts only once it is synced.
    syncs : bool
        Whether anything is ever synced before the store is closed.
    """

    def __init__(
        self, where: Path, budget: Budget, seed: int, data: DataFile, index: Index, journal: Journal, room: Room,
        counters: Counters, clock: int, sync: SyncMode,
    ) -> None:  # fmt: skip
        super().__init__(where, budget, seed, data, index, room, counters, clock)
        self.journal: Final = journal
        self.firm: Final = sync == "commit"
        self.syncs: Final = sync != "none"
        #: A change that has begun: where the journal was then, and what it consists of.
        self._change: tuple[int, list[_Change]] | None = None
        #: Chunks that were encoded since somebody asked, with their charge.
        self.shrunk: Final[dict[str, int]] = {}

    def close(self, timeout: float) -> bool:
        """Let no new call begin, and wait for the running ones; whether all have ended."""
        with self.lock:
            self.mend()
            self.closed = True
            self.changed.wake()
        return self.calls.wait(lambda: not self.calls.inside, timeout)

    def let_go(self, number: int) -> None:
        """Make whole what a call of this thread left that has this number and was interrupted."""
        with self.lock:
            self.mend()
            for put in list(self._puts.values()):
                if put.thread == get_ident() and put.number > number:
                    self._take_back(put)
            self.changed.wake()

    def mend(self) -> None:
        """Finish the change that an interrupt cut short, and recount. The lock is held.

        The change's records are written again at the same place. Then each page gets its owner again: a chunk, those
        that wait to be used again, a put under way. What nobody has is free; that a page is lost is all an interrupt
        does, as every step takes a page from one owner before it gives it to the next.

        Raises
        ------
        lmdb.Error
            The index cannot be read: to be done again.
        """
        if not self.pages.torn:
            return
        if self._change is not None:
            position, changes = self._change
            if self.journal.position == position:
                self._append(changes)
            for change in changes:
                self._enter(change)
        self._recount()
        self._end()

    def _recount(self) -> None:
        chunks = charged = share = 0
        owned: list[Extent] = [(0, 1)]
        for found in self.walk(self.newer(), _COUNTED):
            for _, value in found:
                record = value[STAMP.size :]
                chunk = self.trusted(record)
                if chunk is not None:
                    chunks += 1
                    charged += charge(chunk.pages, len(record))
                    share += index_share(len(record))
                    owned += chunk.extents
        for put in self._puts.values():
            charged += put.charged
            owned += put.extents
        # Until this is on the medium, pages without an owner are not used again.
        self.pages.recount(owned, self.journal.position if self.firm else 0)
        counters = self.counters
        counters.chunks, counters.charged, counters.share = chunks, charged + self.pages.waiting_bytes, share

    def publish(self, puts: Sequence[Put]) -> int:
        """Chunks whose bytes are written are put, each replacing an older one; the journal's position after them.

        Raises
        ------
        StorageUnavailableError
            Of them, the first so many are put, and the others not.
        """
        nbytes = sum(len(put.record) + OVERHEAD for put in puts)
        step = max(1, len(puts)) if nbytes < self.budget.journal // 8 else 1
        position = self.journal.position
        for begin in range(0, len(puts), step):
            some = puts[begin : begin + step]
            position = self._logged(sum(len(put.record) + OVERHEAD for put in some), partial(self._publish, some))
        return position

    def _publish(self, puts: Sequence[Put]) -> None:
        sequences: dict[str, int] = {}
        won: list[_Change] = []
        for put in puts:
            entry = self.entries.get(put.text)
            before = sequences.get(put.text, 0 if entry is None else sequence_of(entry))
            # One that began later was quicker: this one came before it. Of a copy, the raw chunk may be gone.
            if before > put.sequence or (put.instead is not None and put.instead != entry):
                self._take_back(put)
            else:
                sequences[put.text] = put.sequence
                won.append(_Change(put.text, Record(PUT, put.sequence, put.record), put))
        self._do(won)

    def _do(self, changes: list[_Change]) -> None:
        """Write the records of changes, and make them. From here on no interrupt undoes them; see `mend`."""
        self.pages.torn = True
        self._change = self.journal.position, changes
        self._append(changes)
        for change in changes:
            old = self.entries.get(change.text)
            self._enter(change)
            if change.put is not None:
                self.counters.chunks += 1
                self.counters.share += index_share(len(change.put.record))
            if old is not None:
                self._given_up(change.text, old, encoded=change.put is not None and change.put.instead is not None)
        self._end()

    def _end(self) -> None:
        self._change = None  # first: one that is over must never be done again
        self.pages.torn = False

    def _enter(self, change: _Change) -> None:
        """Let memory say what a change's record says."""
        text, put = change.text, change.put
        if put is None:
            self.dirty[text] = None
            self.entries.pop(text, None)
        else:
            # In one step, for readers: an overwritten chunk is there at every moment.
            self.entries[text] = self.dirty[text] = put.record
            self._puts.pop(id(put), None)
        if put is None or put.instead is None:
            self.uses.pop(text, None)
            self.shrunk.pop(text, None)

    def _given_up(self, text: str, entry: bytes, encoded: bool) -> None:
        counters, nrecord, old = self.counters, len(entry), Chunk.unpack(entry, None)
        counters.chunks -= 1
        counters.share -= index_share(nrecord)
        charged = charge(old.pages, nrecord)
        # A raw chunk was promised: its bytes stay, and stay charged, until the encoded ones are as firm.
        stays = encoded and self.syncs
        if not stays:
            counters.charged -= charged
        position = self.journal.position if stays or self.firm else 0
        self.pages.give_up(text, old.extents, position, charged if stays else 0)

    def encoded(self, texts: Sequence[str]) -> None:
        """Encoded copies of chunks are as firm as the chunks were: a tier may be told."""
        with self.lock:
            self.mend()
            self.pages.reclaim()
            for text in texts:
                chunk = self.chunk(text)
                if chunk is not None and chunk.layout and len(self.shrunk) < SHRUNK_MOST:
                    self.shrunk[text] = charge(chunk.pages, chunk.nrecord)

    def take_shrunk(self) -> dict[str, int]:
        """What was encoded since the last call, and its charge. Takes no lock."""
        taken: dict[str, int] = {}
        with suppress(KeyError):
            while True:
                text, taken[text] = self.shrunk.popitem()
        return taken

    def remove(self, texts: Sequence[str], only: bytes | None = None) -> int:
        """Remove what is there of `texts`; where `only` is given, just the chunk of that entry.

        Raises
        ------
        StorageUnavailableError
            Nothing is removed.
        """
        for text in texts:
            self.find(text)
        return self._logged(sum(len(text.encode()) + OVERHEAD for text in texts), partial(self._remove, texts, only))

    def _remove(self, texts: Sequence[str], only: bytes | None) -> None:
        gone: list[_Change] = []
        for text in dict.fromkeys(texts):
            entry = self.entries.get(text)
            if entry is not None and only in (None, entry):
                self.clock += 1
                gone.append(_Change(text, Record(GONE, self.clock, text.encode()), None))
        self._do(gone)
        self.pages.reclaim()

    def _logged(self, nbytes: int, change: Callable[[], None]) -> int:
        """Make a change, with the lock held, once the journal has room for so many bytes; its position after it."""
        while True:
            with self.lock:
                self.mend()
                if self.firm and self.pages.unsyncable:
                    raise StorageUnavailableError(str(self.where), "a sync has failed: open the store anew.")
                if self.journal.room >= nbytes:
                    change()
                    return self.journal.position
            self.pages.checkpoint()

    def _append(self, changes: list[_Change]) -> None:
        if not changes:
            return
        try:
            self.journal.append([change.record for change in changes])
        except OSError as error:
            self._end()  # before anything has changed
            raise unavailable(self.where, error, "the journal cannot be written") from error
        self.counters.records += len(changes)
        if not self.dirty or self.journal.pressing:
            self.changed.wake()  # a checkpoint is due, in a while or now

    def touch(self, texts: Sequence[str]) -> int:
        """Note uses, oldest first; how many wait to be written."""
        with self.lock:
            if not self.uses:
                self.changed.wake()
            for text in texts:
                self.clock += 1
                self.uses.pop(text, None)
                self.uses[text] = self.clock
            return len(self.uses)
