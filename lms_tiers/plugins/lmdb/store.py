"""What a store holds, in memory: entries, what the index does not have yet, free pages, charges, and how each changes.

A change is one record in the journal and then one step under the lock. Readers take no lock: an entry is found in a
dictionary, or in the index where nothing newer stands before it. Bytes are moved by `reading` and `writing`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lms_tiers.errors import BackendClosedError, CapacityError, ForkedProcessError, StorageUnavailableError
from lms_tiers.plugins.lmdb.chunk import Chunk
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.epochs import Epochs
from lms_tiers.plugins.lmdb.extents import Room
from lms_tiers.plugins.lmdb.index import Index, hashed
from lms_tiers.plugins.lmdb.journal import GONE, OVERHEAD, PUT, Journal
from lms_tiers.plugins.lmdb.layout import Damaged, Form, Forms, Found, Manifest, read_entry
from lms_tiers.plugins.lmdb.pages import Counters, Pages
from lms_tiers.plugins.lmdb.sidecar import unavailable
from lms_tiers.plugins.lmdb.space import Budget, charge, index_share, pages_for


class Store:
    """See the module. Everything that changes it holds `changed`, a condition and the only lock.

    Parameters
    ----------
    firm : bool
        Whether a change counts only once it is synced.
    syncs : bool
        Whether anything is ever synced before the store is closed.
    complete : bool
        Whether the index is empty: what is not in memory is nowhere.
    """

    def __init__(
        self, where: Path, budget: Budget, seed: int, data: DataFile, index: Index, journal: Journal, room: Room,
        counters: Counters, clock: int, *, firm: bool, syncs: bool, complete: bool,
    ) -> None:  # fmt: skip
        self.where: Final = where
        self.budget: Final = budget
        self.seed: Final = seed
        self.data: Final = data
        self.index: Final = index
        self.journal: Final = journal
        self.counters: Final = counters
        self.clock = clock
        self.firm: Final = firm
        self.syncs: Final = syncs
        self.complete: Final = complete
        self.pid: Final = os.getpid()
        self.changed: Final = threading.Condition(threading.Lock())
        self.epochs: Final = Epochs()
        self.pages: Final = Pages(where, budget, data, index, room, self.epochs, counters, self.changed)
        self.forms: Final = Forms()
        self.entries: Final[dict[str, bytes]] = {}
        #: What the index does not have: manifests, None for what was removed. `committing` is on its way there.
        self.dirty: dict[str, bytes | None] = {}
        self.committing: dict[str, bytes | None] = {}
        self.uses: dict[str, int] = {}
        #: Chunks that were encoded since somebody asked, with their charge.
        self.shrunk: Final[dict[str, int]] = {}
        #: How often something reached the index, so that what a reader found there may be older than memory.
        self.commits = 0
        self.closed = False
        #: Why the journal cannot be emptied, where it cannot.
        self.stuck: BaseException | None = None

    def check(self) -> None:
        """Raise where no call may begin."""
        # The process first: a lock that another thread held at the fork stays locked in the child for ever.
        if os.getpid() != self.pid:
            raise ForkedProcessError("lmdb")
        if self.closed:
            raise BackendClosedError("lmdb")

    def close(self, timeout: float) -> bool:
        """Let no new call begin, and wait for the running ones; whether all have ended."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        return self.epochs.wait_empty(timeout)

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
            manifest, record = self._look_up(text)
            if manifest is None:
                return self.entries.get(text)
            with self.changed:
                if commits == self.commits and text not in self.dirty and text not in self.committing:
                    entry = self._known(manifest, len(record))
                    return self.entries.setdefault(text, entry) if keep else entry

    def _known(self, manifest: Manifest, nrecord: int) -> bytes:
        _, meta, sequence, _, checksum, layout, block_bytes, blocks, extents = manifest
        return self.forms.entry(Form(meta, layout, block_bytes), sequence, checksum, nrecord, blocks, extents)

    def _look_up(self, text: str) -> tuple[Manifest | None, bytes]:
        try:
            found = self.index.find(hashed(text, self.seed))
            if found is None:
                return None, b""
            manifest = Manifest.unpack(found[1], self.seed)
        except Damaged:
            return None, b""
        except Exception as error:
            raise StorageUnavailableError(str(self.where), f"read failed: {error}: run `lms-tiers check`.") from error
        return (manifest, found[1]) if manifest.key == text.encode() else (None, b"")

    def grant(self, chunk: Chunk) -> None:
        """Pages, a sequence number and a record for a chunk.

        Raises
        ------
        CapacityError
        """
        least = chunk.least
        need = pages_for(chunk.stream, least)
        cost = charge(need, least)
        counters, usable = self.counters, self.budget.usable
        with self.changed:
            self.check()
            if counters.charged + cost > usable:
                raise CapacityError(f"lmdb store {self.where}", cost, max(0, usable - counters.charged))
            counters.charged += cost
            chunk.charged = cost
            while chunk.pages < need:
                taken = self.pages.take(need - chunk.pages, cost)
                chunk.extents += taken
                chunk.pages += sum([count for _, count in taken])
                least = chunk.least + 8 * (len(chunk.extents) - 1)
                need = pages_for(chunk.stream, least)
            chunk.charged = charge(chunk.pages, least)
            counters.charged += chunk.charged - cost
            if not chunk.again:
                self.clock += 1
                chunk.sequence = self.clock
        chunk.record = chunk.manifest().pack(self.seed)

    def take_back(self, chunk: Chunk) -> None:
        """A chunk that was granted and is not put gives back what it has: nobody can know of it."""
        with self.changed:
            self._take_back(chunk)

    def _take_back(self, chunk: Chunk) -> None:
        self.counters.charged -= chunk.charged
        extents, chunk.extents, chunk.charged, chunk.pages = chunk.extents, [], 0, 0
        self.pages.unwritten(extents)

    def publish(self, chunks: Sequence[Chunk]) -> int:
        """Chunks whose bytes are written are put, each replacing an older one; the journal's position after them.

        Raises
        ------
        StorageUnavailableError
            Of them, the first so many are put, and the others not.
        """
        with self.changed:
            begin = 0
            while begin < len(chunks):
                end, nbytes = begin, 0
                while end < len(chunks) and (end == begin or nbytes < self.budget.journal // 4):
                    nbytes += len(chunks[end].record) + OVERHEAD
                    end += 1
                self._await_journal(nbytes)
                self._publish(chunks[begin:end])
                begin = end
            return self.journal.position

    def _publish(self, chunks: Sequence[Chunk]) -> None:
        last: dict[str, int] = {}
        frames: list[bytes] = []
        lost: list[Chunk] = []
        for chunk in chunks:
            given_up = last.get(chunk.text)
            if given_up is None:
                old = self._entry(chunk.text)
                if old is not None and old.sequence > chunk.sequence:
                    lost.append(chunk)  # a put that began later was quicker: this one came before it
                    continue
                if chunk.again and (old is None or old.sequence < chunk.sequence or old.form.layout):
                    lost.append(chunk)  # it is gone, or is encoded already
                    continue
                given_up = 0 if old is None else sum(old.extents[-1]) - 1
            frames.append(self.journal.frame(PUT, chunk.sequence, given_up, chunk.record))
            last[chunk.text] = sum(chunk.extents[-1]) - 1
        if frames:
            self._append(frames)
        for chunk in chunks:
            if chunk in lost:
                self._take_back(chunk)
            else:
                self._enter(chunk)

    def _entry(self, text: str) -> Found | None:
        entry = self.entries.get(text)
        return None if entry is None else read_entry(entry, self.forms)

    def _enter(self, chunk: Chunk) -> None:
        text, counters, nrecord = chunk.text, self.counters, len(chunk.record)
        entry = self.forms.entry(chunk.form, chunk.sequence, chunk.checksum, nrecord, chunk.blocks, chunk.extents)
        old = self._entry(text)
        # In one step, for readers: an overwritten chunk is there at every moment.
        self.entries[text] = entry
        self.dirty[text] = chunk.record
        counters.chunks += 1
        counters.share += index_share(nrecord)
        charged, chunk.extents, chunk.charged, chunk.pages = chunk.charged, [], 0, 0
        if old is not None:
            self._given_up(text, old, chunk.again)
        if chunk.again:
            self.shrunk[text] = charged

    def _leave(self, text: str) -> None:
        found = self._entry(text)
        if found is not None:
            self.dirty[text] = None
            del self.entries[text]
            self._given_up(text, found)

    def _given_up(self, text: str, found: Found, again: bool = False) -> None:
        counters = self.counters
        counters.chunks -= 1
        counters.charged -= charge(found.pages, found.nrecord)
        counters.share -= index_share(found.nrecord)
        if not again:
            self.uses.pop(text, None)
            self.shrunk.pop(text, None)
        # The raw chunk was promised already: its bytes stay until the encoded ones are as firm.
        firm = self.firm or (again and self.syncs)
        self.pages.give_up(found.extents, self.journal.position if firm else 0)

    def remove(self, texts: Sequence[str], only: bytes | None = None) -> int:
        """Remove what is there of `texts`; where `only` is given, just the chunk of that entry.

        Raises
        ------
        StorageUnavailableError
            Nothing is removed.
        """
        for text in texts:
            self.find(text)
        with self.changed:
            self._await_journal(sum(len(text.encode()) + OVERHEAD for text in texts))
            frames: list[bytes] = []
            gone: list[str] = []
            for text in dict.fromkeys(texts):
                found = self._entry(text)
                if found is None or (only is not None and self.entries.get(text) is not only):
                    continue
                self.clock += 1
                given_up = sum(found.extents[-1]) - 1
                frames.append(self.journal.frame(GONE, self.clock, given_up, text.encode()))
                gone.append(text)
            if gone:
                self._append(frames)
            for text in gone:
                self._leave(text)
            self.pages.reclaim()
            return self.journal.position

    def _await_journal(self, nbytes: int) -> None:
        """Wait until the journal has room for so many bytes. The lock is held."""
        while self.journal.room < nbytes:
            if self.stuck is not None:
                stuck, self.stuck = self.stuck, None  # told once; the next call finds it tried again
                self.counters.failures += 1
                raise unavailable(self.where, stuck, "the index cannot be written")  # type: ignore[arg-type]
            if self.closed:
                raise BackendClosedError("lmdb")
            self.changed.notify_all()
            self.changed.wait(1.0)

    def _append(self, frames: list[bytes]) -> None:
        try:
            self.journal.append(b"".join(frames), len(frames))
        except OSError as error:
            self.counters.failures += 1
            raise unavailable(self.where, error, "the journal cannot be written") from error
        self.counters.records += len(frames)
        if not self.dirty or self.journal.used * 2 > self.journal.nbytes:
            self.changed.notify_all()  # a checkpoint is due, in a while or now

    def touch(self, texts: Sequence[str]) -> int:
        """Note uses, oldest first; how many wait to be written."""
        with self.changed:
            if not self.uses:
                self.changed.notify_all()
            for text in texts:
                self.clock += 1
                self.uses.pop(text, None)
                self.uses[text] = self.clock
            return len(self.uses)
