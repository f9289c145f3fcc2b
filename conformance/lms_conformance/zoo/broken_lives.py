"""Mutants that get errors and the life cycle wrong."""

from __future__ import annotations

import threading
import time
from typing import Any, ClassVar, Optional

from lms_conformance.zoo.files import FileReference
from lms_conformance.zoo.memory import MemoryReference
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import BackendClosedError, CapacityError, InvalidChunkError, LmsTiersError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj, key_text


@mutant("drops-before-it-checks", "ERR-01")
class DropsFirst(Wrapper):
    """Removes the old chunk before it looks at the new one."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """After removing."""
        if text_of(client_meta.key):
            self.inner.remove(client_meta.key)
        self.inner.put(client_meta, kv_chunk_bytes)


class LockedError(InvalidChunkError):
    """An error that holds a lock and cannot be pickled."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self._init = ((key, reason, threading.Lock()), {})


@mutant("raises-what-cannot-travel", "ERR-02")
class CannotTravel(Wrapper):
    """Raises errors that cannot be pickled."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Or raise one."""
        try:
            self.inner.put(client_meta, kv_chunk_bytes)
        except InvalidChunkError as error:
            raise LockedError(error.key, error.reason) from None


@mutant("raises-without-a-name", "ERR-03")
class RaisesNameless(Wrapper):
    """Raises errors that do not say which chunk."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Or raise a blank."""
        try:
            self.inner.put(client_meta, kv_chunk_bytes)
        except InvalidChunkError:
            raise InvalidChunkError("", "") from None


@mutant("swallows-errors", "ERR-04")
class Swallows(Wrapper):
    """Says nothing when a put fails."""

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Or not."""
        try:
            self.inner.put(client_meta, kv_chunk_bytes)
        except InvalidChunkError:
            return


@mutant("wears-out", "ERR-05")
class WearsOut(Wrapper):
    """Loses a slot with each failed put, and has fifty."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._slots = 50

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """While there are slots."""
        key_text(client_meta.key)
        if self._slots <= 0:
            raise CapacityError("slots", 1, 0)
        self._slots -= 1
        self.inner.put(client_meta, kv_chunk_bytes)
        self._slots += 1


@mutant("closes-once", "LIF-01")
class ClosesOnce(Wrapper):
    """Raises on a second close."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._closed = False

    def close(self) -> None:
        """Once."""
        if self._closed:
            raise BackendClosedError("wrapper")
        self._closed = True
        self.inner.close()


@mutant("answers-after-close", "LIF-02")
class AnswersAfterClose(Wrapper):
    """Answers a get after close as a miss."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Or None."""
        try:
            return self.inner.get(key)
        except BackendClosedError:
            return None


@mutant("deadlocks-on-close", "LIF-03")
class DeadlocksOnClose(Wrapper):
    """Waits on close for running gets, holding the lock that they need to finish."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._mutex = threading.Lock()
        self._running = 0

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Counted."""
        with self._mutex:
            self._running += 1
        time.sleep(2e-4)
        try:
            return self.inner.get(key)
        finally:
            with self._mutex:
                self._running -= 1

    def close(self) -> None:
        """When none is running, that is never."""
        with self._mutex:
            while self._running:
                time.sleep(0.01)
            self.inner.close()


@mutant("dies-noisily", "LIF-04")
class DiesNoisily(Wrapper):
    """Raises when it is collected without having been closed."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._closed = False

    def close(self) -> None:
        """In order."""
        self._closed = True
        self.inner.close()

    def __del__(self) -> None:
        if not self._closed:
            raise RuntimeError("was not closed")


@mutant("fails-to-open-untyped", "LIF-05", base="files")
class FailsUntyped(FileReference):
    """Lets the operating system's own error out when the place is none."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        try:
            super().__init__(path, capacity)
        except LmsTiersError as error:
            raise error.__cause__ or error from None


@mutant("opens-what-is-open", "LIF-06", base="files")
class OpensTwice(FileReference):
    """Opens a place that is open, each with an index of its own."""

    def __init__(self, path: str, capacity: int | None = None) -> None:
        import fcntl

        real = fcntl.flock
        fcntl.flock = lambda *_: None  # no lock for this one
        try:
            super().__init__(path, capacity)
        finally:
            fcntl.flock = real


@mutant("swallows-the-blocks-exception", "LIF-07")
class SwallowsBlock(Wrapper):
    """Swallows the exception of a with block."""

    def __exit__(self, *_: Any) -> Any:
        self.close()
        return True


@mutant("shares-one-dictionary", "LIF-08")
class SharesDictionary(Wrapper):
    """Keeps the chunks of every backend of the process in one dictionary."""

    shared: ClassVar[MemoryReference] = MemoryReference()

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._own = inner
        self.inner = self.shared

    def close(self) -> None:
        """Only what is its own."""
        self._own.close()


@mutant("opens-eight-times", "LIF-09")
class OpensEight(Wrapper):
    """Takes a place in a pool of eight and never gives it back."""

    taken: ClassVar[int] = 0

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        type(self).taken += 1

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """For eight of them."""
        if self.taken > 8:
            raise CapacityError("pool", 1, 0)
        self.inner.put(client_meta, kv_chunk_bytes)
