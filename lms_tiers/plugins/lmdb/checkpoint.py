"""Checkpoints: what the journal holds goes into the index, and the journal begins anew.

A thread of its own makes them, a while after a change or when the journal is half full. One that fails is tried
again; until it succeeds the journal keeps everything, and puts go on as long as that has room.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

import lmdb

from lms_tiers.plugins.lmdb.index import Applied, hashed
from lms_tiers.plugins.lmdb.layout import PAGE
from lms_tiers.plugins.lmdb.store import Store

_log = logging.getLogger(__name__)

#: Seconds from a change to the checkpoint that takes it in.
SECONDS: float = 5.0
#: Changes, or uses, that are not left for later.
MOST: int = 32768
#: Free bytes at the end of `data` that are worth giving back, at least, and as a share of it.
_TAIL_BYTES: Final = 16 << 20
_TAIL_SHARE: Final = 16


class Checkpoints:
    """Makes checkpoints of one store."""

    def __init__(self, store: Store, sync: bool) -> None:
        self._store: Final = store
        self._sync: Final = sync
        self._stopped = False
        self._making: Final = threading.Lock()
        #: What the index says once it has all of `Store.committing`.
        self._applied = Applied(store.seed, 0, store.clock, store.counters.chunks)
        self._uses: dict[str, int] = {}
        self.made = 0
        self._thread: Final = threading.Thread(target=self._run, name="lms-tiers-lmdb-checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        store, patience = self._store, SECONDS
        while True:
            with store.changed:
                store.changed.wait_for(
                    lambda: self._stopped or bool(store.dirty or store.uses or store.committing) or store.pages.pressed
                )
                store.changed.wait_for(lambda: self._stopped or self._pressing(), patience)
                if self._stopped:
                    return
            try:
                self.make()
                patience = SECONDS
            except (OSError, lmdb.Error) as error:
                _log.warning("lmdb store %s: the index could not be written: %s", store.where, error)
                with store.changed:
                    store.stuck = error
                    store.changed.notify_all()
                    store.changed.wait_for(lambda: self._stopped or store.stuck is None, patience)

    def _pressing(self) -> bool:
        store = self._store
        many = len(store.dirty) > MOST or len(store.uses) > MOST
        return many or store.pages.pressed or store.journal.used * 2 > store.journal.nbytes

    def make(self) -> None:
        """Make one; what changed before it began is in the index.

        Raises
        ------
        OSError, lmdb.Error
        """
        with self._making:
            if self._store.committing or self._uses:
                self._commit()  # what a failed one left
            if self._turn():
                self._commit()
            self._renew()

    def _turn(self) -> bool:
        """Freeze what changed, for the index; whether there is any."""
        store = self._store
        with store.changed:
            if not store.dirty and not store.uses:
                return False
            # This order: see `Store.find`.
            store.committing, self._uses = store.dirty, store.uses
            store.dirty, store.uses = {}, {}
            self._applied = Applied(store.seed, store.journal.turn(), store.clock, store.counters.chunks)
            store.changed.notify_all()
        return True

    def _commit(self) -> None:
        store = self._store
        if self._sync:
            store.data.sync()
        seed = store.seed
        records = {hashed(text, seed): record for text, record in store.committing.items()}
        stamps = {hashed(text, seed): stamp for text, stamp in self._uses.items()}
        try:
            try:
                self._apply(records, stamps)
            except lmdb.MapFullError:
                # What is free in the file cannot be used yet, or the tree is worn: without it there is room.
                self._renew(worn=True)
                self._apply(records, stamps)
        finally:
            with store.changed:
                store.pages.index_written()
        self.made += 1
        with store.changed:
            store.committing, self._uses = {}, {}
            store.commits += 1
            store.stuck = None
            store.pages.reclaim()
            store.pages.give_tail_back(max(_TAIL_BYTES // PAGE, store.pages.room.backed // _TAIL_SHARE))
            store.changed.notify_all()

    def _apply(self, records: dict[bytes, bytes | None], stamps: dict[bytes, int]) -> None:
        with self._store.changed:
            limit = self._store.pages.promise_index()
        self._store.index.apply(records, stamps, self._applied, limit)

    def _renew(self, worn: bool = False) -> None:
        """Write a worn index anew, and let go of who waits for it."""
        store = self._store
        with store.changed:
            worn = worn or store.pages.worn
            if worn:
                store.pages.make_room_for(store.counters.share)
        try:
            if worn:
                store.index.renew()
        finally:
            with store.changed:
                store.pages.pressed = False
                store.changed.notify_all()

    def stop(self) -> None:
        """End the thread; one that is being made is made."""
        with self._store.changed:
            self._stopped = True
            self._store.changed.notify_all()
        self._thread.join()


def close_down(store: Store, checkpoints: Checkpoints) -> None:
    """Everything into the index, nothing left in the journal. No call is running any more.

    Raises
    ------
    OSError, lmdb.Error
    """
    deadline = time.monotonic() + 60
    while store.dirty or store.uses or store.committing:
        checkpoints.make()
        if time.monotonic() > deadline:
            raise TimeoutError("the index is not written")
    with store.changed:
        store.pages.reclaim()
        store.pages.give_tail_back(1)
    store.data.sync()
