"""With `codec=auto` chunks are put as they are; a thread encodes them as the store fills, least recently used first.

The encoded copy gets pages of its own, from an allowance that a tier leaves free, and takes the place of the raw bytes
as an overwrite does, with their sequence number. Where the store syncs, the copy is on the medium before the journal
tells of it, and the raw bytes' pages are used again only after that is on the medium as well: what was promised stays.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Final

import lmdb

from lms_tiers.errors import CapacityError, LmsTiersError
from lms_tiers.plugins.lmdb import listing
from lms_tiers.plugins.lmdb.chunk import Chunk
from lms_tiers.plugins.lmdb.coding import Coding
from lms_tiers.plugins.lmdb.index import hashed
from lms_tiers.plugins.lmdb.layout import PAGE, Damaged, Form, Manifest
from lms_tiers.plugins.lmdb.reading import Reader, checksum_of
from lms_tiers.plugins.lmdb.space import pages_for
from lms_tiers.plugins.lmdb.store import Store
from lms_tiers.plugins.lmdb.syncing import Syncing
from lms_tiers.plugins.lmdb.writing import runs

_log = logging.getLogger(__name__)

#: The allowance: a share of what chunks may be charged with, and its most.
_SHARE: Final = 32
_MOST: Final = 64 << 20
#: Encoding begins when so much of the rest is taken.
FULL: float = 0.875
#: Changes between two rounds, at least.
REST: int = 16
#: Sequence numbers remembered of chunks that do not shrink.
_REMEMBERED: Final = 1 << 16


class Cooling:
    """Encodes what grows cold in one store."""

    def __init__(self, store: Store, reader: Reader, coding: Coding, syncing: Syncing) -> None:
        self._store: Final = store
        self._reader: Final = reader
        self._coding: Final = coding
        self._syncing: Final = syncing
        self._allowance: Final = min(_MOST, store.budget.usable // _SHARE)
        #: What a tier may charge.
        self.usable: Final = store.budget.usable - self._allowance
        self._begin: Final = int(self.usable * FULL)
        self._due: Final = threading.Event()
        self._stopped = False
        self._rest_until = 0
        self._tried: Final[set[int]] = set()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Something was put."""
        counters = self._store.counters
        if counters.charged <= self._begin or counters.records < self._rest_until or self._due.is_set():
            return
        self._due.set()
        with self._store.changed:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="lms-tiers-lmdb-cooling", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # what was put is put; a later one tries again
                    self._thread = None
                    self._due.clear()
                    _log.warning("lmdb store %s: cold chunks stay as they are for now: %s", self._store.where, error)

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
        with self._store.changed:
            self._stopped = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped:  # looked at after `clear`: `stop` may have come before it
            self._due.wait()
            counters = self._store.counters
            try:
                self._round()
            except (OSError, lmdb.Error, LmsTiersError) as error:
                _log.warning("lmdb store %s: cold chunks stay as they are for now: %s", self._store.where, error)
            # What is still here was just looked at: the next round is due when there is something else.
            self._rest_until = counters.records + max(REST, counters.chunks // 32)
            self._due.clear()

    def _round(self) -> None:
        """Encode the coldest chunks until the store is less full, or there is none left."""
        store = self._store
        batches = listing.chunks_by_use(store, self._coding.reads)
        ready: list[Chunk] = []
        try:
            while not self._stopped and store.counters.charged > self._begin:
                with store.epochs.calling():
                    infos = next(batches, None)
                if infos is None:
                    break
                for info in infos:
                    if self._stopped or store.counters.charged - sum(c.charged for c in ready) <= self._begin:
                        break
                    text = info.key.to_string()
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

    def _encode(self, text: str, ready: list[Chunk]) -> bool:
        """Write the encoded copy of a chunk where it saves a page; False where there was no room for it."""
        store = self._store
        try:
            known = self._known(text)
        except Damaged:
            return True
        if known is None or known[1].layout or known[1].sequence in self._tried or known[1].key != text.encode():
            return True
        used, manifest = known
        got = self._reader.get(text)
        if got is None or got[0] != manifest.meta or checksum_of([memoryview(got[1])]) != manifest.checksum:
            return True  # gone, or overwritten meanwhile
        encoded = self._coding.encode(memoryview(got[1]), manifest.meta.dtype, alone=True)
        if encoded is None:
            self._remember(manifest)
            return True
        chunk = Chunk(
            text, manifest.key, Form(manifest.meta, encoded.layout, encoded.block_bytes), manifest.created,
            [encoded.stream], len(encoded.stream), encoded.lengths, sequence=manifest.sequence, again=True,
        )  # fmt: skip
        try:
            if pages_for(chunk.stream, chunk.least) >= manifest.pages:
                self._remember(manifest)
                return True
            pending = sum(other.charged for other in ready)
            if ready and pending + chunk.stream + PAGE > self._allowance:
                return False
            chunk.checksum = checksum_of(chunk.pieces)
            try:
                store.grant(chunk)
                store.data.write(runs([chunk]))
            except BaseException as error:
                store.take_back(chunk)
                if isinstance(error, CapacityError):
                    return not ready
                raise
            if used > manifest.sequence:
                with store.changed:
                    store.uses.setdefault(text, used)  # the new record must not forget it
            ready.append(chunk)
            return True
        finally:
            chunk.pieces = []
            owner = encoded.stream.obj
            if isinstance(owner, bytearray):
                self._coding.pool.give(owner)

    def _known(self, text: str) -> tuple[int, Manifest] | None:
        """A later use, as the index has it, and the manifest of a chunk."""
        store = self._store
        for changed in (store.dirty, store.committing):
            if text in changed:
                record = changed[text]
                return None if record is None else (0, Manifest.unpack(record, store.seed))
        found = store.index.find(hashed(text, store.seed))
        return None if found is None else (found[0], Manifest.unpack(found[1], store.seed))

    def _publish(self, ready: list[Chunk]) -> None:
        """Let encoded copies take the places of the raw chunks that are still there."""
        store = self._store
        if not ready:
            return
        try:
            if store.syncs:
                store.data.sync()
            for chunk in ready:
                store.find(chunk.text)  # what it replaces is to be known
            position = store.publish(ready)
            self._syncing.reach(position, None)
        finally:
            for chunk in ready:
                if chunk.charged:
                    store.take_back(chunk)

    def _remember(self, manifest: Manifest) -> None:
        if len(self._tried) >= _REMEMBERED:
            self._tried.clear()
        self._tried.add(manifest.sequence)
