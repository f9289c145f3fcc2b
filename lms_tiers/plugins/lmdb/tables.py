"""One open LMDB environment with its tables, the users that keep it open, and its last moments.

Everything that touches the environment does so inside `using`: closing waits for these calls. A borrowed view may
outlive `close` on purpose; the environment then closes when the last view ends. Knows no chunk.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from lms_tiers.errors import BackendClosedError, ForkedProcessError, FormatError, StorageUnavailableError
from lms_tiers.plugins.lmdb import layout
from lms_tiers.plugins.lmdb.mapped import Mapped
from lms_tiers.plugins.lmdb.sidecar import DATA_FILE

MAX_READERS: Final = 510


class Tables:
    """An environment and its four tables.

    Parameters
    ----------
    path : str
        Directory of data.mdb.
    map_size : int
        The most bytes data.mdb may have.
    sync : bool
        Whether each commit is synced, data and meta page.
    readonly : bool
    closed : callable
        Called when the environment is closed, which may be later than `close`.
    """

    def __init__(
        self, path: str, map_size: int, *, sync: bool, readonly: bool = False, closed: Callable[[], None] | None = None
    ) -> None:
        self.path: Final = path
        self.pid: Final = os.getpid()
        # Never writemap: a full disk would kill the process. Readahead stays on: parts of a chunk lie side by side.
        self.env: Final = lmdb.open(
            path, map_size=map_size, max_dbs=4, max_readers=MAX_READERS, max_spare_txns=16, sync=sync,
            metasync=sync, writemap=False, meminit=False, subdir=True, readonly=readonly, create=not readonly,
        )  # fmt: skip
        try:
            opened = [self.env.open_db(name, create=not readonly) for name in _TABLES]
        except BaseException:
            self.env.close()
            raise
        self.chunks, self.parts, self.recency, self.meta = opened
        self._data: Final = Path(path) / DATA_FILE
        self.mapped: Final = Mapped(map_size, int(self.env.stat()["psize"]), self.file_bytes)
        self._identity: Final = _identity(self._data)
        self._closed = closed
        self._lock: Final = threading.RLock()  # entered by itself where nobody waits: that is four times as fast
        self._changed: Final = threading.Condition(self._lock)
        self._calls = 0
        self._views = 0
        self._readers = 0
        self._closing = False
        self._abandoned = False  # `close` gave up waiting: whoever ends the last call finishes
        self._gone = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    @property
    def read(self) -> bool:
        """Whether somebody reads now, and so may hold back freed pages."""
        return self._readers > 0 or self._views > 0

    def counters(self) -> layout.Counters:
        """What the file counts, as last committed; their record also tells where the file is mapped.

        Raises
        ------
        FormatError
            Damaged, or not there.
        """
        with self.env.begin(buffers=True) as txn:
            record = txn.get(layout.COUNTERS_KEY, db=self.meta)
            if record is None:
                raise FormatError(self.path, "no counters", f"format {layout.MAGIC.decode()} version {layout.VERSION}")
            counters = layout.Counters.unpack(record)
            self.mapped.locate(record)
        return counters

    def check(self) -> None:
        """Raise where no call may begin."""
        # The process first: a lock that another thread held at the fork stays locked in the child for ever.
        if os.getpid() != self.pid:
            raise ForkedProcessError("lmdb")
        if self._closing:
            raise BackendClosedError("lmdb")

    def check_file(self) -> None:
        """Raise where the file has lost its name: what is written to it would be gone with the last descriptor.

        Raises
        ------
        OSError
        """
        try:
            same = _identity(self._data) == self._identity
        except FileNotFoundError:
            same = False
        if not same:
            raise FileNotFoundError(errno.ENOENT, "the file was deleted or replaced under the store", str(self._data))

    def file_bytes(self) -> int:
        """Size of data.mdb on disk."""
        try:
            return self._data.stat().st_size
        except OSError:  # it lost its name and keeps its blocks
            return int((self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"])

    def enter(self, readers: int = 0) -> None:
        """Begin a call."""
        if os.getpid() != self.pid:
            raise ForkedProcessError("lmdb")
        with self._lock:
            if self._closing:
                raise BackendClosedError("lmdb")
            self._calls += 1
            self._readers += readers

    def leave(self, readers: int = 0) -> None:
        """End a call."""
        with self._lock:
            self._calls -= 1
            self._readers -= readers
            if self._closing:
                self._changed.notify_all()
            last = self._abandoned and not self._calls and not self._views
        if last:
            self._finish()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """A call: `close` waits for it."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def reading(self, copies: bool = False) -> AbstractContextManager[Any]:
        """A call with a read transaction whose values are borrowed buffers, or `copies`: small ones are cheaper."""
        return _Reading(self, copies)

    def value(self, table: object, name: bytes) -> bytes | None:
        """A copy of one record, by the shortest way."""
        self.enter(1)
        try:
            txn = self.begin(True)
            try:
                found: bytes | None = txn.get(name, db=table)
                return found
            except lmdb.Error as error:
                raise unreadable(self.path, error) from error
            finally:
                txn.abort()
        finally:
            self.leave(1)

    def begin(self, copies: bool = False) -> Any:
        """A read transaction; waits where all reader slots are taken."""
        while True:
            try:
                return self.env.begin() if copies else self.env.begin(buffers=True)
            except lmdb.ReadersFullError:
                with self._changed:
                    self._changed.wait(0.002)
            except lmdb.Error as error:
                raise unreadable(self.path, error) from error

    @contextmanager
    def borrowing(self) -> Iterator[Any]:
        """As `reading`, but `close` does not wait for it: the environment closes after the last of these."""
        self.enter()
        with self._changed:
            self._views += 1
        self.leave()
        try:
            with self.begin() as txn:
                yield txn
        finally:
            with self._changed:
                self._views -= 1
                last = self._closing and not self._views and not self._calls
            if last:
                self._finish()

    def close(self, timeout: float = 60.0) -> None:
        """Let no new call begin, wait for the running ones, close. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._calls, timeout)
            idle = not self._calls and not self._views
            self._abandoned = not idle
        if idle:
            self._finish()

    def _finish(self) -> None:
        with self._changed:
            if self._gone:
                return
            self._gone = True
        try:
            self.env.close()
        finally:
            if self._closed is not None:
                self._closed()


class _Reading:
    """What `Tables.reading` answers; a generator would take twice as long, and every read pays for it."""

    __slots__ = ("_copies", "_tables", "_txn")

    def __init__(self, tables: Tables, copies: bool) -> None:
        self._tables = tables
        self._copies = copies

    def __enter__(self) -> Any:
        tables = self._tables
        tables.enter(1)
        try:
            self._txn = tables.begin(self._copies)
        except BaseException:
            tables.leave(1)
            raise
        return self._txn

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._txn.abort()
        finally:
            self._tables.leave(1)
        if isinstance(error, lmdb.Error):
            raise unreadable(self._tables.path, error) from error


def unreadable(path: str, error: lmdb.Error) -> StorageUnavailableError:
    """What a caller hears of a tree that LMDB cannot follow."""
    return StorageUnavailableError(path, f"read failed: {error}: run `lms-tiers check`.")


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


_TABLES: Final = (layout.CHUNKS, layout.PARTS, layout.RECENCY, layout.META)
