"""How what a store holds changes: entries, free pages and charges together.

A change is one record in the journal and then one step under the lock. Bytes are moved by `reading` and `writing`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Final

import lmdb

from lms_tiers.errors import BackendClosedError, CapacityError, ForkedProcessError, ValueTooLargeError
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.directory import unavailable
from lms_tiers.plugins.lmdb.entries import Entries
from lms_tiers.plugins.lmdb.extents import Room
from lms_tiers.plugins.lmdb.index import Index
from lms_tiers.plugins.lmdb.journal import GONE, OVERHEAD, PUT, Journal, Record
from lms_tiers.plugins.lmdb.layout import PAGE, Chunk, Extent, sequence_of
from lms_tiers.plugins.lmdb.options import SyncMode
from lms_tiers.plugins.lmdb.pages import Counters, Pages
from lms_tiers.plugins.lmdb.space import Budget, charge, index_share, pages_for

#: Chunks remembered that were encoded and nobody asked for: a store without a tier has nobody who does.
SHRUNK_MOST: int = 1 << 16
#: Chunks of the index that a recount looks at together.
_COUNTED: Final = 1024


@dataclass(slots=True, eq=False)
class Put(Chunk):
    """A put on its way: `pieces` are its stored bytes; `record` and `charged` come with its grant.

    `again` is the encoded copy of a chunk that is stored raw: it has that one's sequence number, and takes its place
    only while that one is there. `thread` and `number` say which call's it is: later ones have larger numbers.
    """

    pieces: list[memoryview] = field(default_factory=list)
    again: bool = False
    record: bytes = b""
    charged: int = 0
    thread: int = field(init=False)
    number: int = field(init=False)


class Store(Entries):
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
        super().__init__(where, seed, index, complete=not counters.chunks)
        self.budget: Final = budget
        self.data: Final = data
        self.journal: Final = journal
        self.counters: Final = counters
        self.clock = clock
        self.firm: Final = sync == "commit"
        self.syncs: Final = sync != "none"
        self.pid: Final = os.getpid()
        self.pages: Final = Pages(where, budget, data, index, room, counters, self.changed)
        self.calls: Final = self.pages.calls
        #: Puts that were granted and have not happened, by `id`.
        self._puts: Final[dict[int, Put]] = {}
        #: A change that has begun: where the journal was then, its records, and puts, or keys of what is removed.
        self._change: tuple[int, list[Record], Iterable[Put | str]] | None = None
        #: Chunks that were encoded since somebody asked, with their charge.
        self.shrunk: Final[dict[str, int]] = {}
        self.closed = False
        #: Why the journal cannot be emptied, where it cannot.
        self.stuck: OSError | lmdb.Error | None = None

    def check(self) -> None:
        """Raise where no call may begin."""
        # The process first: a lock that another thread held at the fork stays locked in the child for ever.
        if os.getpid() != self.pid:
            raise ForkedProcessError("lmdb")
        if self.closed:
            raise BackendClosedError("lmdb")

    def close(self, timeout: float) -> bool:
        """Let no new call begin, and wait for the running ones; whether all have ended."""
        with self.lock:
            self.mend()
            self.closed = True
            self.changed.wake()
        return self.calls.wait(lambda: not self.calls.inside, timeout)

    def grant(self, put: Put) -> None:
        """Pages, a sequence number and a record for a put.

        Raises
        ------
        ValueTooLargeError, CapacityError
        """
        counters, usable, stream, least = self.counters, self.budget.usable, put.stream, put.nrecord
        cost = charge(pages_for(stream, least), least)
        if cost > usable:
            raise ValueTooLargeError(put.text, cost, usable, f"lmdb store {self.where}")
        put.thread, put.number = get_ident(), next(self.calls.numbers)
        with self.lock:
            self.mend()
            self.check()
            if counters.charged + cost > usable:
                raise CapacityError(f"lmdb store {self.where}", cost, max(0, usable - counters.charged))
            self._puts[id(put)] = put
            self.pages.torn = True
            counters.charged += cost
            put.charged = cost
            self.pages.torn = False
        while (wait := self._grant(put, stream, least)) is not None:
            if not wait():
                raise self._no_pages(put)
        put.record = put.pack(self.seed)

    def _grant(self, put: Put, stream: int, least: int) -> Callable[[], bool] | None:
        """Give a put the pages it lacks, or answer what it has to wait for.

        `stream`: its stored bytes. `least`: bytes of its record, with one extent.
        """
        with self.lock:
            self.mend()
            self.pages.torn = True
            pages, nrecord = put.pages, least + 8 * max(0, len(put.extents) - 1)
            while (lacks := pages_for(stream, nrecord) - pages) > 0:
                if not self.pages.take(lacks, put.extents):
                    wait = self.pages.obstacle()
                    self.pages.torn = False  # all is accounted for
                    if wait is None:
                        raise self._no_pages(put)
                    return wait
                pages, nrecord = put.pages, least + 8 * (len(put.extents) - 1)
            before, put.charged = put.charged, charge(pages, nrecord)
            self.counters.charged += put.charged - before
            if not put.again:
                self.clock += 1
                put.sequence = self.clock
            self.pages.torn = False
            return None

    def _no_pages(self, put: Put) -> CapacityError:
        return CapacityError(f"lmdb store {self.where}", put.charged, self.pages.room.free.pages * PAGE)

    def take_back(self, put: Put) -> None:
        """A put that was granted and does not happen gives back what it has: nobody can know of it."""
        with self.lock:
            self._take_back(put)

    def _take_back(self, put: Put) -> None:
        self.mend()
        if id(put) not in self._puts:
            return  # it has happened, or has given back what it had
        self.pages.torn = True
        del self._puts[id(put)]
        self.counters.charged -= put.charged
        extents, put.extents, put.charged = put.extents, [], 0
        self.pages.unwritten(extents)
        self.pages.torn = False

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
            position, records, changes = self._change
            if self.journal.position == position:
                self._append(records)
            for change in changes:
                if isinstance(change, Put):
                    self.entries[change.text] = self.dirty[change.text] = change.record
                    self._puts.pop(id(change), None)
                    self._forget(change.text)
                else:
                    self.dirty[change] = None
                    self.entries.pop(change, None)
                    self._forget(change)
        self._recount()
        self._end()

    def _recount(self) -> None:
        chunks = charged = share = 0
        owned: list[Extent] = [(0, 1)]
        for found in self.walk(self.newer(), _COUNTED):
            for _, _, record in found:
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
        won: list[Put] = []
        records: list[Record] = []
        for put in puts:
            entry = self.entries.get(put.text)
            before = sequences.get(put.text, 0 if entry is None else sequence_of(entry))
            # One that began later was quicker: this one came before it. Of a copy, the chunk may be gone, or encoded.
            old = self.chunk(put.text) if put.again else None
            stays = put.again and (old is None or before < put.sequence or bool(old.layout))
            if before > put.sequence or stays:
                self._take_back(put)
            else:
                sequences[put.text] = put.sequence
                won.append(put)
                records.append(Record(PUT, put.sequence, put.record))
        self._begin(records, won)
        for put in won:
            self._enter(put)
        self._end()

    def _begin(self, records: list[Record], changes: Iterable[Put | str]) -> None:
        """Write the records of a change. From here on an interrupt does not undo it; see `mend`."""
        self.pages.torn = True
        self._change = self.journal.position, records, changes
        self._append(records)

    def _end(self) -> None:
        self._change = None  # first: one that is over must never be done again
        self.pages.torn = False

    def _enter(self, put: Put) -> None:
        text, counters, old = put.text, self.counters, self.entries.get(put.text)
        # In one step, for readers: an overwritten chunk is there at every moment.
        self.entries[text] = self.dirty[text] = put.record
        counters.chunks += 1
        counters.share += index_share(len(put.record))
        self._puts.pop(id(put), None)
        if old is not None:
            self._given_up(text, old, put.again)
        if not put.again:
            self._forget(text)

    def _forget(self, text: str) -> None:
        self.uses.pop(text, None)
        self.shrunk.pop(text, None)

    def _given_up(self, text: str, entry: bytes, again: bool = False) -> None:
        counters, nrecord, old = self.counters, len(entry), Chunk.unpack(entry, None)
        counters.chunks -= 1
        counters.share -= index_share(nrecord)
        charged = charge(old.pages, nrecord)
        if again and self.syncs:
            # The raw chunk was promised: its bytes stay, and stay charged, until the encoded ones are as firm.
            self.pages.give_up(text, old.extents, self.journal.position, charged)
            return
        counters.charged -= charged
        self.pages.give_up(text, old.extents, self.journal.position if self.firm else 0)

    def encoded(self, texts: Sequence[str]) -> None:
        """Encoded copies of chunks are as firm as the chunks were: a tier may be told."""
        with self.lock:
            self.mend()
            self.pages.reclaim()
            for text in texts:
                chunk = self.chunk(text)
                if chunk is not None and chunk.layout and len(self.shrunk) < SHRUNK_MOST:
                    self.shrunk[text] = charge(chunk.pages, chunk.nrecord)

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
        records: list[Record] = []
        gone: dict[str, bytes] = {}
        for text in texts:
            entry = self.entries.get(text)
            if entry is not None and text not in gone and only in (None, entry):
                self.clock += 1
                records.append(Record(GONE, self.clock, text.encode()))
                gone[text] = entry
        self._begin(records, gone)
        for text, entry in gone.items():
            self.dirty[text] = None
            del self.entries[text]
            self._given_up(text, entry)
            self._forget(text)
        self._end()
        self.pages.reclaim()

    def _logged(self, nbytes: int, change: Callable[[], None]) -> int:
        """Make a change, with the lock held, once the journal has room for so many bytes; its position after it."""

        def room() -> bool:
            return self.journal.room >= nbytes or self.stuck is not None or self.closed

        while True:
            with self.lock:
                self.mend()
                if self.journal.room >= nbytes:
                    change()
                    return self.journal.position
                if self.stuck is not None:
                    stuck, self.stuck = self.stuck, None  # told once; the next call finds it tried again
                    self.changed.wake()
                    raise unavailable(self.where, stuck, "the index cannot be written")
                if self.closed:
                    raise BackendClosedError("lmdb")
                self.changed.wake()
            self.changed.wait_for(room, 1.0)

    def _append(self, records: list[Record]) -> None:
        if not records:
            return
        try:
            self.journal.append(records)
        except OSError as error:
            self._end()  # before anything has changed
            raise unavailable(self.where, error, "the journal cannot be written") from error
        self.counters.records += len(records)
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
