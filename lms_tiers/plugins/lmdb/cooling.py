"""With `codec=auto` chunks are put as they are; a thread encodes them as the store fills, least recently used first.

The encoded copy gets pages of its own, from an allowance that a tier leaves free, and takes the place of the raw bytes
as an overwrite does, with their sequence number. Where the store syncs, the copy is on the medium before the journal
tells of it, and the raw bytes' pages are used again only after that is on the medium as well: what was promised stays.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import lmdb

from lms_tiers.arena.recycle import Recycler
from lms_tiers.changes import Awaited
from lms_tiers.errors import CapacityError, LmsTiersError
from lms_tiers.interface import ChunkInfo
from lms_tiers.plugins.lmdb import listing
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.layout import PAGE, Chunk, Damaged, Form, key_hash
from lms_tiers.plugins.lmdb.reading import Reader, checksum_of
from lms_tiers.plugins.lmdb.space import pages_for
from lms_tiers.plugins.lmdb.store import Put, Store
from lms_tiers.plugins.lmdb.syncing import Syncing
from lms_tiers.plugins.lmdb.writing import runs

_log = logging.getLogger(__name__)

#: The allowance: a share of what chunks may be charged with, and its most.
_SHARE: Final = 32
_MOST: Final = 64 << 20
#: Encoding begins when so much of the rest is taken, and ends when a sixty-fourth less is.
FULL: float = 0.875
#: Changes between two rounds, at least.
REST: int = 16
#: Bytes that puts may be ahead of the thread before they wait for it: a second for so many bytes, at once no longer.
AHEAD: int = 32 << 20
RATE: float = 512 << 20
LONGEST: float = 0.02
#: Sequence numbers remembered of chunks that do not shrink.
_REMEMBERED: Final = 1 << 16


class Cooling:
    """Encodes what grows cold in one store."""

    def __init__(self, store: Store, reader: Reader, coding: Coding, syncing: Syncing, memory: Recycler) -> None:
        self._memory: Final = memory
        self._store: Final = store
        self._reader: Final = reader
        self._coding: Final = coding
        self._syncing: Final = syncing
        self._allowance: Final = min(_MOST, store.budget.usable // _SHARE)
        #: What a tier may charge.
        self.usable: Final = store.budget.usable - self._allowance
        self._begin: Final = int(self.usable * FULL)
        self._enough: Final = self._begin - self.usable // 64
        self._due: Final = threading.Event()
        self._stopped = False
        self._rest_until = 0
        self._tried: Final[set[int]] = set()
        #: The chunks by use as they were at `_since`, as far as nobody looked at them yet: listing them takes longer
        #: than to look at a few.
        self._listing: Iterator[list[ChunkInfo]] | None = None
        self._listed: Final[deque[str]] = deque()
        self._since, self._ordered = 0, False
        #: Bytes of encoded copies that were written, and those that puts had written when the thread was up with them.
        self._copied = 0
        self._reached = 0
        self._waited = 0
        self._progress: Final = Awaited(threading.Lock())
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Something was put. Waits for the thread, not for long, where puts are far ahead of it."""
        counters = self._store.counters
        if counters.charged <= self._begin or self._store.pages.unsyncable:  # no copy would ever be firm
            return
        if not self._due.is_set():
            if counters.records < self._rest_until:
                return
            self._wake()
        elif self._ahead() > AHEAD:
            written = self._store.data.written
            patience, self._waited = (written - self._waited) / RATE, written
            self._progress.wait_for(self._keeps_up, min(patience, LONGEST))

    def _wake(self) -> None:
        self._forgive()
        self._due.set()
        with self._store.lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="lms-tiers-lmdb-cooling", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # what was put is put; a later one tries again
                    self._thread = None
                    self._due.clear()
                    _log.warning("lmdb store %s: cold chunks stay as they are for now: %s", self._store.where, error)

    def _ahead(self) -> int:
        """Bytes that were put since the thread was up with the puts."""
        return self._store.data.written - self._copied - self._reached

    def _forgive(self) -> None:
        """What was put before now nobody waits for."""
        self._reached = self._store.data.written - self._copied

    def _keeps_up(self) -> bool:
        return self._stopped or not self._due.is_set() or self._ahead() <= AHEAD

    def shrunk(self) -> dict[str, int]:
        """What was encoded since the last call, and its charge. Takes no lock."""
        taken: dict[str, int] = {}
        with suppress(KeyError):
            while True:
                text, charged = self._store.shrunk.popitem()
                taken[text] = charged
        return taken

    def stop(self) -> None:
        """End the thread after what it does now."""
        with self._store.lock:
            self._stopped = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped:  # looked at after `clear`: `stop` may have come before it
            self._due.wait()
            counters = self._store.counters
            done = True
            try:
                done = self._round()
            except (OSError, lmdb.Error, LmsTiersError) as error:
                _log.warning("lmdb store %s: cold chunks stay as they are for now: %s", self._store.where, error)
            # Where all was looked at, the next round is due when there is something else.
            self._rest_until = counters.records + (max(REST, counters.chunks // 32) if done else REST)
            self._due.clear()
            self._tell()

    def _tell(self) -> None:
        with self._progress.lock:
            self._progress.wake()

    def _round(self) -> bool:
        """Encode the coldest chunks until the store is less full; whether there is none left."""
        store = self._store
        ready: list[Put] = []
        try:
            while not self._stopped and store.counters.charged - sum(c.charged for c in ready) > self._enough:
                text = self._coldest()
                if text is None:
                    break
                if not self._encode(text, ready):
                    # The allowance is used up: what is ready makes room.
                    full, ready = ready, []
                    self._publish(full)
                    self._encode(text, ready)
            full, ready = ready, []
            self._publish(full)
        finally:
            for chunk in ready:
                store.take_back(chunk)
        return self._listing is None

    def _coldest(self) -> str | None:
        """The next chunk by use; None where all were looked at, and from then on the first one again."""
        store = self._store
        while not self._listed:
            if self._listing is None:
                self._since, self._ordered = store.clock, False
                self._forgive()
                self._listing = listing.chunks_by_use(store, self._coding.reads)
            infos = self._next_listed()
            if infos is not None and self._ordered and len(infos) < listing.BATCH // 2:
                # Most have left meanwhile, and what comes next would leave soon: a quarter is passed over.
                self._forgive()
                for _ in range(store.counters.chunks // 4 // listing.BATCH):
                    infos = self._next_listed()
            if infos is None:
                self._listing = None
                return None
            self._ordered |= bool(infos)  # until then it gathers what there is
            self._listed.extend(info.key.to_string() for info in infos)
        return self._listed.popleft()

    def _next_listed(self) -> list[ChunkInfo] | None:
        assert self._listing is not None
        with self._store.epochs.calling():
            return next(self._listing, None)

    def _encode(self, text: str, ready: list[Put]) -> bool:
        """Write the encoded copy of a chunk where it saves a page; False where there was no room for it."""
        store = self._store
        try:
            known = self._known(text)
        except Damaged:
            return True
        if known is None or known[1].text != text:
            return True
        used, raw = known
        self._reached += raw.pages * PAGE
        if self._ahead() <= AHEAD:
            self._tell()
        if raw.form.layout or raw.sequence in self._tried:
            return True
        if max(used, store.uses.get(text, 0), raw.sequence) > self._since or raw.pages < 2:
            return True  # it is no longer cold, or there is nothing to gain
        bytes_ = self._memory.take(raw.form.meta.length)
        if self._reader.into(text, lambda meta: [bytes_] if meta == raw.form.meta else None) is None:
            return True  # gone, or overwritten meanwhile
        if checksum_of([bytes_]) != raw.checksum:
            return True
        encoded = self._coding.encode(bytes_, raw.form.meta.dtype, alone=True)
        if encoded is None:
            self._remember(raw)
            return True
        copy = Put(
            text, Form(raw.form.meta, encoded.layout, encoded.block_bytes), raw.sequence,
            blocks=tuple(map(len, encoded.blocks)), created=raw.created, pieces=encoded.blocks, again=True,
        )  # fmt: skip
        if pages_for(copy.stream, copy.nrecord) >= raw.pages:
            self._remember(raw)
            return True
        pending = sum(other.charged for other in ready)
        if ready and pending + copy.stream + PAGE > self._allowance:
            return False
        copy.checksum = checksum_of(copy.pieces)
        try:
            store.grant(copy)
            store.data.write(runs([copy]))
            self._copied += copy.pages * PAGE
        except BaseException as error:
            store.take_back(copy)
            if isinstance(error, CapacityError):
                return not ready
            raise
        copy.pieces = []
        if used > raw.sequence:
            with store.lock:
                store.uses.setdefault(text, used)  # the new record must not forget it
        ready.append(copy)
        return True

    def _known(self, text: str) -> tuple[int, Chunk] | None:
        """A later use, as the index has it, and a chunk."""
        store = self._store
        for changed in (store.dirty, store.committing):
            if text in changed:
                record = changed[text]
                return None if record is None else (0, Chunk.unpack(record, store.seed))
        name = key_hash(text, store.seed)
        found = store.index.find((name,))
        return (found[name][0], Chunk.unpack(found[name][1], store.seed)) if found else None

    def _publish(self, ready: list[Put]) -> None:
        """Let encoded copies take the places of the raw chunks that are still there."""
        store = self._store
        if not ready:
            return
        try:
            if store.syncs:
                store.data.sync()
            for copy in ready:
                store.find(copy.text)  # what it replaces is to be known
            position = store.publish(ready)
            self._syncing.reach(position, None)
            store.encoded([copy.text for copy in ready])
        finally:
            for copy in ready:
                store.take_back(copy)

    def _remember(self, raw: Chunk) -> None:
        if len(self._tried) >= _REMEMBERED:
            self._tried.clear()
        self._tried.add(raw.sequence)
