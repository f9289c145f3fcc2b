"""Bringing journal and `data` to the medium: for `flush`, and in the mode `commit` for every group of puts.

One thread does it for all who wait; whoever comes while it works is served by the next round together.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from lms_tiers.errors import DeadlineExceededError
from lms_tiers.plugins.lmdb.directory import unavailable
from lms_tiers.plugins.lmdb.store import Store


class Syncing:
    """Syncs of one store; the thread starts with the first of them."""

    def __init__(self, store: Store) -> None:
        self._store: Final = store
        self._lock: Final = threading.Lock()
        self._thread: Final = ThreadPoolExecutor(1, "lms-tiers-lmdb-sync")
        self._next: Future[None] | None = None  # asked for, not begun

    def committed(self, position: int) -> None:
        """A change was appended up to `position`: return when it is as firm as puts are promised to be."""
        if self._store.firm:
            self.reach(position, None)

    def reach(self, position: int, timeout: float | None) -> None:
        """Return when all that the journal had at `position` is on the medium, or at once where nothing is synced.

        Raises
        ------
        DeadlineExceededError, StorageUnavailableError
        """
        if not self._store.syncs or self._store.pages.synced >= position:
            return
        try:
            with self._lock:
                if self._next is None:
                    self._next = self._thread.submit(self._round)
                asked = self._next
        except RuntimeError:  # no thread is to be had
            asked = Future()
            try:
                self._round()
                asked.set_result(None)
            except OSError as caught:
                asked.set_exception(caught)
        if wait((asked,), timeout).not_done:
            raise DeadlineExceededError("flush of an lmdb store", timeout or 0.0)
        error = asked.exception()
        if isinstance(error, OSError):
            raise unavailable(self._store.where, error, "cannot be synced") from error
        asked.result()

    def _round(self) -> None:
        with self._lock:
            self._next = None
        store = self._store
        position = store.journal.position
        try:
            store.data.sync()
            store.journal.sync()
        except OSError:
            with store.lock:
                store.pages.unsyncable = True
                store.changed.notify_all()
            raise
        with store.lock:
            store.pages.synced = max(store.pages.synced, position)
            store.changed.notify_all()

    def stop(self) -> None:
        """End the thread, after what was asked for."""
        self._thread.shutdown()
