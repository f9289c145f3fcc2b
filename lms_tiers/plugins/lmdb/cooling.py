"""With `codec=auto` chunks are put as they are; a thread encodes them as the store fills, least recently used first.

The encoded copy gets pages of its own, from an allowance that a tier leaves free, and takes the place of the raw bytes
as an overwrite does, with their sequence number. Where the store syncs, the copy is on the medium before the journal
tells of it, and the raw bytes' pages are used again only after that is on the medium as well: what was promised stays.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import lmdb

from lms_tiers.arena.recycle import Recycler
from lms_tiers.errors import CapacityError, LmsTiersError
from lms_tiers.plugins.lmdb import listing
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.grants import Put
from lms_tiers.plugins.lmdb.layout import Chunk
from lms_tiers.plugins.lmdb.reading import Reader, checksum_of
from lms_tiers.plugins.lmdb.space import charge, pages_for
from lms_tiers.plugins.lmdb.store import Store
from lms_tiers.plugins.lmdb.writing import Writer

_log = logging.getLogger(__name__)

#: The allowance: a share of what chunks may be charged with, and its most.
_SHARE: Final = 32
_MOST: Final = 64 << 20
#: Copies are written together that take so much at most, on the disk and in memory, where they are until then.
_TOGETHER: Final = 16 << 20
#: Encoding begins when so much of the rest is taken, and ends when a sixty-fourth less is.
FULL: float = 0.875
#: Changes between two rounds, at least.
REST: int = 16
#: Sequence numbers remembered of chunks that do not shrink.
_REMEMBERED: Final = 1 << 16


class Cooling:
    """Encodes what grows cold in one store."""

    def __init__(self, store: Store, reader: Reader, writer: Writer, coding: Coding, memory: Recycler) -> None:
        self._memory: Final = memory
        self._store: Final = store
        self._reader: Final = reader
        self._coding: Final = coding
        self._writer: Final = writer
        allowance = min(_MOST, store.budget.usable // _SHARE)
        self._together: Final = min(_TOGETHER, allowance)
        #: What a tier may charge.
        self.usable: Final = store.budget.usable - allowance
        self._begin: Final = int(self.usable * FULL)
        self._enough: Final = self._begin - self.usable // 64
        self._due: Final = threading.Event()
        self._stopped = False
        self._rest_until = 0
        self._tried: Final[set[int]] = set()
        #: The chunks by use as they were at `_since`, as far as nobody looked at them yet: listing them takes longer
        #: than to look at a few.
        self._cold: Iterator[str] | None = None
        self._since = 0
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Something was put: rouse the thread where it is due. No put waits for it; what it is late for leaves raw."""
        counters, store = self._store.counters, self._store
        if counters.charged <= self._begin or store.pages.unsyncable:  # no copy would ever be firm
            return
        if self._due.is_set() or counters.records < self._rest_until:
            return
        self._due.set()
        with store.lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="lms-tiers-lmdb-cooling", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # what was put is put; a later one tries again
                    self._thread = None
                    self._due.clear()
                    _log.warning("lmdb store %s: cold chunks stay as they are for now: %s", store.where, error)

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

    def _round(self) -> bool:
        """Encode the coldest chunks until the store is less full; whether there is none left."""
        ready: list[Put] = []
        room = self._together
        while not self._stopped and self._store.counters.charged > self._enough:
            text = self._coldest()
            if text is None:
                break
            copy = self._encoded(text)
            if copy is None:
                continue
            # In memory it lies where it was encoded to, with room for all of the chunk.
            takes = max(copy.meta.length, charge(pages_for(copy.stream, copy.nrecord), copy.nrecord))
            if takes > room:
                self._replace(ready)
                ready, room = [], self._together
            ready.append(copy)
            room -= takes
        self._replace(ready)
        return self._cold is None

    def _coldest(self) -> str | None:
        """The next chunk by use; None where all were looked at, and from then on the first one again."""
        if self._cold is None:
            self._since, self._cold = self._store.clock, self._by_use()
        text = next(self._cold, None)
        if text is None:
            self._cold = None
        return text

    def _by_use(self) -> Iterator[str]:
        store, ordered = self._store, False  # until it is, the listing gathers what there is
        batches = listing.Batches(store, listing.chunks_by_use(store, self._coding.reads))
        while (infos := batches.next()) is not None:
            if ordered and len(infos) < listing.BATCH // 2:
                # Most have left meanwhile, and what comes next would leave soon: a quarter is passed over.
                for _ in range(store.counters.chunks // 4 // listing.BATCH):
                    infos = batches.next()
            ordered = ordered or bool(infos)
            yield from (info.key.to_string() for info in infos or ())

    def _encoded(self, text: str) -> Put | None:
        """The encoded copy of a chunk, where that is cold and the copy saves a page."""
        store = self._store
        known = store.used(text)
        if known is None:
            return None
        used, raw = known[0], Chunk.unpack(known[1], None)
        if raw.layout or raw.sequence in self._tried:
            return None
        if max(used, store.uses.get(text, 0), raw.sequence) > self._since or raw.pages < 2:
            return None  # it is no longer cold, or there is nothing to gain
        bytes_ = self._memory.take(raw.meta.length)
        if self._reader.many([(text, lambda meta: [bytes_] if meta == raw.meta else None)])[0] is None:
            return None  # gone, or overwritten meanwhile
        if checksum_of([bytes_]) != raw.checksum:
            return None
        copy = self._writer.smaller(raw, bytes_, instead=known[1])
        if copy is None:
            if len(self._tried) >= _REMEMBERED:
                self._tried.clear()
            self._tried.add(raw.sequence)
        elif used > raw.sequence:
            with store.lock:
                store.uses.setdefault(text, used)  # the new record must not forget it
        return copy

    def _replace(self, copies: list[Put]) -> None:
        if copies:
            with suppress(CapacityError):  # no room: they stay as they are
                self._writer.replace(copies)
            self._store.encoded([copy.text for copy in copies])
