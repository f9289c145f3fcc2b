"""The one writer thread: it gathers operations, applies many in one commit, and tells each how it ended.

A full map is handled here: a batch is taken apart, freed pages are released by empty-handed commits, readers that
pin old pages are waited for; only then an operation fails, and nothing of it is left. Knows no key or codec.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import lmdb

from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    LmsTiersError,
    StorageFullError,
    StorageUnavailableError,
)
from lms_tiers.plugins.lmdb.changes import Transaction, note_uses
from lms_tiers.plugins.lmdb.checkpoint import Checkpoints
from lms_tiers.plugins.lmdb.layout import COUNTERS_KEY, Counters
from lms_tiers.plugins.lmdb.recency import Uses
from lms_tiers.plugins.lmdb.tables import Tables

_log = logging.getLogger(__name__)

#: What a system call says where a disk or a quota is used up.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
#: More than the pages of its trees that a small commit writes.
_TREE: Final = 1 << 18

#: A commit takes no more operations once it holds this many bytes.
BATCH_BYTES: Final = 32 << 20
BATCH_OPERATIONS: Final = 4096
#: How long a write that finds no free page waits for readers that pin them.
READERS_WAIT: Final = 10.0
#: With checkpoints: the most that a power loss takes of what was not flushed.
CHECKPOINT_SECONDS: Final = 5.0


class Chain:
    """Operations of one call that stand or fall in order: after a failure the rest is skipped."""

    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed = False


class Operation:
    """One change. `apply` raises before it changes anything, or not at all.

    Without `apply` it is a barrier: it ends when all before it are committed, and where there are checkpoints its
    result is the commit that became one.
    """

    __slots__ = ("_done", "apply", "chain", "error", "result", "weight")

    def __init__(
        self, apply: Callable[[Transaction], Any] | None = None, weight: int = 0, chain: Chain | None = None
    ) -> None:
        self.apply = apply
        self.weight = weight
        self.chain = chain
        self.error: BaseException | None = None
        self.result: Any = None
        self._done = threading.Lock()
        self._done.acquire()

    def finer(self) -> bool:
        """Be content with smaller runs of free pages from now on; False where it cannot be."""
        return False

    def finish(self) -> None:
        """Let the waiting caller go on."""
        if self.error is not None and self.chain is not None:
            self.chain.failed = True
        # Mostly a method of its own: a cycle would keep what the operation borrowed until the collector runs.
        self.apply = None
        self._done.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it ended within `timeout` seconds."""
        done = self._done.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        if done:
            self._done.release()
        return done

    def outcome(self) -> Any:
        """Wait; the result of `apply`, or its error."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self.result


class Skipped(LmsTiersError):
    """An operation after a failed one of its chain; never leaves this package."""


def _blame(batch: list[Operation], error: Exception) -> None:
    for operation in batch:
        operation.error = operation.error or error


def _finish(batch: list[Operation]) -> None:
    """End operations, and keep nothing of them: the thread's own variables live until the next batch comes."""
    for operation in batch:
        operation.finish()
    batch.clear()


@dataclass(slots=True)
class WriterStats:
    """What the writer counts."""

    commits: int = 0
    bytes_written: int = 0
    failures: int = 0
    map_full: int = 0


class Writer:
    """The writer thread of one open file.

    Parameters
    ----------
    tables : Tables
    counters : Counters
        As read from the file.
    uses : Uses
        What was used since; joins the next commit.
    checkpoints : Checkpoints or None
        Asked for a checkpoint when one is due.
    pinned_most : int
        Bytes whose pages the checkpoint may hold back before another one is made.
    """

    def __init__(
        self,
        tables: Tables,
        counters: Counters,
        uses: Uses,
        checkpoints: Checkpoints | None = None,
        pinned_most: int = 0,
    ) -> None:
        self.stats = WriterStats()
        self.counters = counters
        self._tables = tables
        self._uses = uses
        self._page = int(tables.env.stat()["psize"])
        self._checkpoints = checkpoints
        self._pinned_most = pinned_most
        self._freed = 0  # bytes deleted since the last mark: the checkpoint pins their pages
        self._marked = counters.transaction
        self._due = 0.0
        self._queue: deque[Operation] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lms-tiers-lmdb-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> Operation:
        """Queue an operation; `Operation.outcome` waits for it."""
        self.submit_all((operation,))
        return operation

    def submit_all(self, operations: Sequence[Operation]) -> None:
        """Queue operations, to be committed together as far as they fit into a commit."""
        with self._wake:
            if self._stopping:
                raise BackendClosedError("lmdb")
            self._queue.extend(operations)
            self._wake.notify()

    def stop(self) -> None:
        """Commit what is queued, take nothing more, end the thread. Idempotent."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue:
                    if self._stopping:
                        return
                    if not self._wake.wait(self._patience()):
                        break
                batch = self._take()
            try:
                if batch:
                    self._commit(batch)
                else:
                    self.mark()
            except Exception as error:
                # An error nobody foresaw must not end the thread: callers would wait for ever.
                _log.exception("the lmdb writer failed")
                _blame(batch, error)
            _finish(batch)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """Seconds until a checkpoint is due; None where none will be."""
        if self._checkpoints is None or not self._unmarked:
            return None
        return max(0.0, self._due - time.monotonic())

    @property
    def _unmarked(self) -> bool:
        """Whether no checkpoint of the last commit was asked for, or it failed."""
        lost = self._checkpoints is not None and self._checkpoints.failed
        return lost or self._marked != self.counters.transaction

    def mark(self) -> int:
        """Let the last commit become a checkpoint. In the writer thread."""
        self._freed = 0
        self._due = time.monotonic() + CHECKPOINT_SECONDS
        self._marked = self.counters.transaction
        return self._checkpoints.mark() if self._checkpoints is not None else self._marked

    def _mark_if_due(self) -> None:
        checkpoints = self._checkpoints
        if checkpoints is None or checkpoints.busy:
            return
        if self._freed > self._pinned_most or time.monotonic() > self._due:
            self.mark()

    def _unpin(self) -> None:
        """Let the pages that the last checkpoint pins go, by making another one."""
        if self._checkpoints is not None and self._unmarked:
            self._checkpoints.wait(self.mark())

    def _take(self) -> list[Operation]:
        batch: list[Operation] = []
        weight = 0
        while self._queue and len(batch) < BATCH_OPERATIONS:
            if batch and weight + self._queue[0].weight > BATCH_BYTES:
                break
            operation = self._queue.popleft()
            weight += operation.weight
            batch.append(operation)
        return batch

    def _commit(self, batch: list[Operation]) -> None:
        try:
            self._tables.check_file()
            barriers = [operation for operation in batch if operation.apply is None]
            if len(barriers) < len(batch) or self._uses:
                self._attempt(batch)
            if barriers:
                transaction = self.mark() if self._unmarked else self._marked
                for operation in barriers:
                    operation.result = transaction
        except lmdb.MapFullError:
            self.stats.map_full += 1
            if len(batch) == 1:
                self._squeeze(batch[0])
            else:
                self._singly(batch)
        except (lmdb.Error, OSError) as error:
            if len(batch) == 1:
                self._fail(batch, error)
            else:
                self._singly(batch)

    def _singly(self, batch: list[Operation]) -> None:
        """Each in a commit of its own: on a full disk some fit. What a sick disk refuses once it is asked no more."""
        refused: BaseException | None = None
        for operation in batch:
            if refused is not None and operation.weight:
                operation.error = refused
            else:
                self._commit([operation])
            if isinstance(operation.error, StorageUnavailableError):
                refused = operation.error
            if operation.error is not None and operation.chain is not None:
                operation.chain.failed = True

    def _fail(self, batch: list[Operation], error: Exception) -> None:
        self.stats.failures += 1
        _log.warning("lmdb store %s: a commit failed: %s", self._tables.path, error)
        kind = StorageFullError if self._is_full(batch, error) else StorageUnavailableError
        for operation in batch:
            operation.error = kind(self._tables.path, f"write failed: {error}.")

    def _is_full(self, batch: list[Operation], error: Exception) -> bool:
        """Whether a commit failed for want of room. LMDB calls a write that was cut short an I/O error."""
        if isinstance(error, lmdb.DiskError) or getattr(error, "errno", None) in _FULL:
            return True
        try:
            disk = os.statvfs(self._tables.path)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < sum(operation.weight for operation in batch) + _TREE

    def _attempt(self, batch: list[Operation]) -> None:
        """All of `batch` in one transaction; operations that refuse by themselves are noted, the others committed."""
        counters = replace(self.counters)
        uses = self._uses.take()
        try:
            with self._tables.env.begin(write=True, buffers=True) as txn:
                written = self._apply(batch, Transaction(txn, self._tables, counters), uses)
        except BaseException:
            self._uses.give_back(uses)
            raise
        # What was deleted, and the tree pages that were copied.
        copied = (8 + 3 * len(batch) + len(uses)) * self._page
        self._freed += max(0, self.counters.stored + written - counters.stored) + copied
        self.counters = counters
        self.stats.commits += 1
        self.stats.bytes_written += written
        self._mark_if_due()

    def _apply(self, batch: list[Operation], transaction: Transaction, uses: dict[bytes, None]) -> int:
        failed: set[Chain] = set()
        written = 0
        for operation in batch:
            operation.error = None
            chain = operation.chain
            if chain is not None and (chain.failed or chain in failed):
                operation.error = Skipped("after a failed one")
                continue
            if operation.apply is None:
                continue
            try:
                operation.result = operation.apply(transaction)
                written += operation.weight
            except LmsTiersError as error:
                operation.error = error
                if chain is not None:
                    failed.add(chain)
        if uses:
            note_uses(transaction, uses)
        transaction.counters.transaction = transaction.txn.id()
        transaction.txn.put(COUNTERS_KEY, transaction.counters.pack(), db=self._tables.meta)
        return written

    def _squeeze(self, operation: Operation) -> None:
        """Find pages for one operation: release freed ones, wait for readers; else it fails with `CapacityError`."""
        deadline = time.monotonic() + READERS_WAIT
        while True:
            try:
                # Pages freed by commit n may be used again by n + 2, and not while an older commit is pinned.
                for _ in range(2):
                    self._unpin()
                    self._attempt([])
                self._unpin()
                self._attempt([operation])
                return
            except lmdb.MapFullError:
                if operation.finer():
                    continue
                if not self._tables.read or time.monotonic() > deadline:
                    operation.error = CapacityError(f"lmdb store {self._tables.path}", operation.weight, 0)
                    return
                time.sleep(0.005)
            except (lmdb.Error, OSError) as error:
                self._fail([operation], error)
                return
