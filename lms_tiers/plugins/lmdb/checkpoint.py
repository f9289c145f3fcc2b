"""What brings a store to the medium: checkpoints put into the index what the journal holds, and free its room.

A thread of its own makes them, a while after a change or when the journal is half full. One that fails is tried
again; until it succeeds the journal keeps everything, and puts go on as long as that has room. The first one after a
crash builds the index, of all that was found; the journal takes nothing before.

For `flush`, and in the mode `commit` for every group of puts, another thread syncs journal and `data` for all who
wait; whoever comes while it works is served by the next round together.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

import lmdb

from lms_tiers.errors import DeadlineExceededError
from lms_tiers.plugins.lmdb.directory import is_full, unavailable
from lms_tiers.plugins.lmdb.index import Applied
from lms_tiers.plugins.lmdb.layout import key_hash
from lms_tiers.plugins.lmdb.store import Store

_log = logging.getLogger(__name__)

#: Seconds from a change to the checkpoint that takes it in.
SECONDS: float = 5.0
#: Seconds after which a checkpoint is tried that nothing asks for.
_IDLE: Final = 1e6
#: Changes, or uses, that are not left for later.
MOST: int = 32768


class Checkpoints:
    """Makes checkpoints of one store.

    Parameters
    ----------
    store : Store
    position : int
        Where the journal begins, once there is an index.
    """

    def __init__(self, store: Store, position: int) -> None:
        self._store: Final = store
        self._position: Final = position
        self._stopped = False
        self._making: Final = threading.Lock()
        self._uses: dict[str, int] = {}  # with `Store.committing`, what is frozen
        self.made = 0
        self._failed = False
        store.pages.checkpoint = self._made
        self._thread: Final = threading.Thread(target=self._run, name="lms-tiers-lmdb-checkpoint", daemon=True)

    def start(self) -> None:
        """Build the index, where there is none that is trusted, and begin.

        Raises
        ------
        OSError, lmdb.Error
            It cannot be built; where the disk is full, which may end, only if there is nothing to read.
        """
        if not self._store.index.opened:
            try:
                self.make()
            except (OSError, lmdb.Error) as error:
                if not is_full(error) or not self._store.entries:
                    raise
                self._note(error)
        self._thread.start()

    def _run(self) -> None:
        store = self._store
        while True:
            store.changed.wait_for(lambda: self._stopped or self._wanted, _IDLE)
            store.changed.wait_for(lambda: self._stopped or self._pressing(), SECONDS)
            if self._stopped:
                return
            try:
                self.make()
            except (OSError, lmdb.Error) as error:
                self._note(error)

    def _note(self, error: OSError | lmdb.Error) -> None:
        self._failed = True
        _log.warning("lmdb store %s: the index could not be written: %s", self._store.where, error)

    def _made(self) -> None:
        try:
            self.make()
        except (OSError, lmdb.Error) as error:
            raise unavailable(self._store.where, error, "the index cannot be written") from error

    @property
    def _wanted(self) -> bool:
        """Whether the index lacks anything."""
        store = self._store
        return bool(store.dirty or store.committing or store.uses or self._uses)

    def _pressing(self) -> bool:
        store = self._store
        if self._failed:
            return False  # until a while later
        return len(store.dirty) > MOST or len(store.uses) > MOST or store.journal.pressing or not store.journal.begun

    def make(self) -> None:
        """Make one; what changed before it began is in the index.

        Raises
        ------
        OSError, lmdb.Error
        """
        with self._making:
            applied = self._frozen()
            if applied is not None:
                self._commit(applied)
            self._renew()

    def _frozen(self) -> Applied | None:
        """Freeze what changed, for the index, with what a failed one has left; from here on changes are apart."""
        store = self._store
        with store.lock:
            store.mend()
            if not self._wanted and store.journal.begun:
                return None
            # This order: see `Store.find`; and whatever an interrupt leaves, the next checkpoint finds all of it.
            store.committing = {**store.committing, **store.dirty} if store.committing else store.dirty
            store.dirty = {}
            self._uses = {**self._uses, **store.uses} if self._uses else store.uses
            store.uses = {}
            position = store.journal.position if store.journal.begun else self._position
            return Applied(store.seed, position, store.clock, store.counters.chunks)

    def _commit(self, applied: Applied) -> None:
        store, seed = self._store, self._store.seed
        if store.syncs:
            store.data.sync()
        records = {key_hash(text, seed): record for text, record in store.committing.items()}
        stamps = {key_hash(text, seed): stamp for text, stamp in self._uses.items()}
        if not store.index.opened:
            store.index.build({name: record for name, record in records.items() if record is not None}, stamps, applied)
        else:
            try:
                try:
                    self._apply(records, stamps, applied)
                except lmdb.MapFullError:
                    # What is free in the file cannot be used yet, or the tree is worn: without it there is room.
                    self._renew(worn=True)
                    self._apply(records, stamps, applied)
            finally:
                with store.lock:
                    store.pages.index_written()
        with store.lock:
            store.mend()
            if store.journal.begun:
                store.journal.release(applied.position)
            else:
                store.journal.begin(applied.position)
            self._uses, store.committing = {}, {}
            store.commits += 1
            self._failed = False
            store.pages.reclaim()
            store.pages.punch_excess()
            store.changed.wake()
        self.made += 1

    def _apply(self, records: dict[bytes, bytes | None], stamps: dict[bytes, int], applied: Applied) -> None:
        with self._store.lock:
            self._store.mend()
            limit = self._store.pages.promise_index()
        self._store.index.apply(records, stamps, applied, limit)

    def _renew(self, worn: bool = False) -> None:
        """Write a worn index anew."""
        store = self._store
        with store.lock:
            store.mend()
            worn = worn or store.pages.worn
            if worn:
                store.pages.make_room_for(store.counters.share)
        if worn:
            store.index.renew()

    def shrink(self) -> None:
        """Give the file system back what no chunk needs.

        Raises
        ------
        OSError, lmdb.Error
        """
        self.make()
        with self._store.lock:
            self._store.mend()
            self._store.pages.reclaim()
            self._store.pages.punch(self._store.pages.room.free.pages)
        self._store.index.renew()

    def stop(self) -> None:
        """End the thread; one that is being made is made."""
        with self._store.lock:
            self._stopped = True
            self._store.changed.wake()
        self._thread.join()

    def finish(self) -> None:
        """Leave nothing in the journal. No call is running any more.

        Raises
        ------
        OSError, lmdb.Error
        """
        store, deadline = self._store, time.monotonic() + 60
        while self._wanted:
            self.make()
            if time.monotonic() > deadline:
                raise TimeoutError("the index is not written")
        with store.lock:
            store.mend()
            store.pages.reclaim()
        store.data.sync()


class Syncing:
    """Syncs of one store; the thread starts with the first of them."""

    def __init__(self, store: Store) -> None:
        self._store: Final = store
        self._thread: Final = ThreadPoolExecutor(1, "lms-tiers-lmdb-sync")

    def reach(self, position: int, timeout: float | None) -> None:
        """Return when all that the journal had at `position` is on the medium, or at once where nothing is synced.

        Raises
        ------
        DeadlineExceededError, StorageUnavailableError
        """
        if not self._store.syncs or self._store.pages.synced >= position:
            return
        try:
            asked = self._thread.submit(self._round, position)
        except RuntimeError:  # no thread is to be had
            asked = Future()
            try:
                self._round(position)
                asked.set_result(None)
            except OSError as caught:
                asked.set_exception(caught)
        if wait((asked,), timeout).not_done:
            raise DeadlineExceededError("flush of an lmdb store", timeout or 0.0)
        error = asked.exception()
        if isinstance(error, OSError):
            raise unavailable(self._store.where, error, "cannot be synced") from error
        asked.result()

    def _round(self, wanted: int) -> None:
        store = self._store
        if store.pages.synced >= wanted:
            return  # the round before was for this one too
        position = store.journal.position
        try:
            store.data.sync()
            store.journal.sync()
        except OSError:
            with store.lock:
                store.pages.unsyncable = True
                store.changed.wake()
            raise
        with store.lock:
            store.pages.synced = max(store.pages.synced, position)
            store.changed.wake()

    def stop(self) -> None:
        """End the thread, after what was asked for."""
        self._thread.shutdown()
