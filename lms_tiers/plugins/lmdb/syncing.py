"""Bringing journal and `data` to the medium: for `flush`, and in the mode `commit` for every group of puts.

One thread does it for all who wait; whoever comes while it works is served by the next round together.
"""

from __future__ import annotations

import threading
from typing import Final

from lms_tiers.errors import BackendClosedError, DeadlineExceededError
from lms_tiers.plugins.lmdb.sidecar import unavailable
from lms_tiers.plugins.lmdb.store import Store


class Syncing:
    """Syncs of one store; the thread starts with the first of them.

    Parameters
    ----------
    store : Store
    ever : bool
        Whether anything is ever synced before `close`.
    """

    def __init__(self, store: Store, ever: bool) -> None:
        self._store: Final = store
        self._ever: Final = ever
        self._changed: Final = threading.Condition()
        self._wanted = 0
        self._rounds = 0  # begun
        self._error: OSError | None = None  # of the last round
        self._done = 0  # rounds that have ended
        self._stopped = False
        self._thread: threading.Thread | None = None

    def committed(self, position: int) -> None:
        """A change was appended up to `position`: return when it is as firm as puts are promised to be."""
        if self._store.firm:
            self.reach(position, None)

    def reach(self, position: int, timeout: float | None) -> None:
        """Return when all that the journal had at `position` is on the medium.

        Raises
        ------
        DeadlineExceededError, StorageUnavailableError
        """
        if not self._ever:
            return
        with self._changed:
            if self._store.pages.synced >= position:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lms-tiers-lmdb-sync", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None  # the next one tries again
                    raise
            number = self._rounds + 1  # one that begins from now on
            self._wanted = max(self._wanted, number)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._done >= number or self._stopped, timeout):
                raise DeadlineExceededError("flush of an lmdb store", timeout or 0.0)
            if self._store.pages.synced >= position:
                return
            error = self._error
        if error is None:
            raise BackendClosedError("lmdb")
        raise unavailable(self._store.where, error, "cannot be synced")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._wanted > self._rounds)
                if self._wanted <= self._rounds:
                    return
                self._rounds += 1
                number = self._rounds
            error: OSError | None = None
            position = self._store.journal.position
            try:
                self._store.data.sync()
                self._store.journal.sync()
            except OSError as caught:
                error = caught
            with self._changed:
                if error is None:
                    self._store.pages.synced = max(self._store.pages.synced, position)
                self._error = error
                self._done = number
                self._changed.notify_all()

    def stop(self) -> None:
        """End the thread, after what was asked for."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
