"""A client's calls of its server: on which connection, how often, how long, and what becomes of those that fail."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, TypeVar

from lms_tiers.client.link import Link
from lms_tiers.client.pool import Pool
from lms_tiers.errors import (
    BackendClosedError,
    DeadlineExceededError,
    ForkedProcessError,
    OutcomeUnknownError,
    ProtocolError,
    StorageUnavailableError,
)

_T = TypeVar("_T")
_Otherwise = TypeVar("_Otherwise")


class _Here(threading.local):
    """When the block of a thread is to be over that keeps a deadline, and how long it was to last."""

    until: float | None = None
    seconds = 0.0


class Calls:
    """Calls on the connections of `pool`; a read that fails answers what it is told to, a write raises."""

    def __init__(self, pool: Pool) -> None:
        self._pool: Final = pool
        self._pid: Final = os.getpid()
        self._here: Final = _Here()
        self._counts: Final[Counter[str]] = Counter()
        self._lock: Final = threading.Lock()

    def close(self) -> None:
        """Close the connections, unless they are those of a parent of this process."""
        if os.getpid() == self._pid:
            self._pool.close()

    def within(self, seconds: float) -> AbstractContextManager[None] | None:
        """A block of this thread whose calls end within `seconds`, and whose reads raise where they fail."""
        return self._block(seconds) if self._pool.peer or self._pool.address.path else None

    @contextmanager
    def _block(self, seconds: float) -> Iterator[None]:
        self._here.until, self._here.seconds = time.monotonic() + seconds, seconds
        try:
            yield
        finally:
            self._here.until = None

    def counts(self) -> dict[str, int]:
        """What was counted."""
        with self._lock:
            return dict(self._counts)

    def check(self) -> None:
        """Raise where the client is closed, or its parent's."""
        if os.getpid() != self._pid:
            raise ForkedProcessError("the lm:// client")
        if self._pool.closed:
            raise BackendClosedError("the lm:// client")

    def count(self, what: str, by: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[what] += by

    def read(self, call: Callable[[Link], _T], otherwise: _Otherwise) -> _T | _Otherwise:
        """Ask twice at most, the second time on a new connection; then `otherwise`, but within a deadline an error."""
        until = self._here.until
        fault: Exception | None = None
        for _ in range(2):
            try:
                with self._pool.lend(until) as connection:
                    return call(connection)
            except StorageUnavailableError as error:
                self.count("failures")
                fault = error.with_traceback(None)  # which keeps this frame, and the buffers that were read into
                break
            except (OSError, ProtocolError) as error:
                self.count("failures")
                self.check()
                fault = error.with_traceback(None)
                if until is not None and until <= time.monotonic():
                    break
        if until is None or fault is None:
            return otherwise
        if until <= time.monotonic():
            raise DeadlineExceededError(f"a call of {self._pool.address}", self._here.seconds) from fault
        if isinstance(fault, StorageUnavailableError):
            raise fault
        raise StorageUnavailableError(str(self._pool.address), f"the connection was lost: {fault}.") from fault

    def write(self, call: Callable[[Link], _T], operation: str = "") -> _T:
        """Ask once: what was sent may have been done, and doing it again later could undo what came between.

        `operation` names what changes chunks; its outcome is unknown where the connection is lost.
        """
        try:
            with self._pool.lend(self._here.until) as connection:
                return call(connection)
        except StorageUnavailableError:
            self.count("failures")
            raise
        except (OSError, ProtocolError) as error:
            self.count("failures")
            self.check()
            if operation:
                raise OutcomeUnknownError(
                    str(self._pool.address), operation, f"the connection was lost: {error}."
                ) from error
            raise StorageUnavailableError(str(self._pool.address), f"the connection was lost: {error}.") from error
