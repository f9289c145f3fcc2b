"""A shared engine in memory, and the reference backend over it: several instances of a process, one place.

Tests make the engine slow, silent, unreachable or forgetful by its switches; nothing here is for production.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, List, Optional, TypeVar

from lms_tiers.buffers import own_bytes
from lms_tiers.errors import (
    BackendClosedError,
    ForkedProcessError,
    LmsTiersError,
    OutcomeUnknownError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.interface import BackendStats, Capabilities, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text

_T = TypeVar("_T")
_Chunk = tuple[ChunkMeta, bytearray]


class SharedEngine:
    """Chunks by key under one lock, with a budget of its own: the least recently put leave, or whatever `evict` names.

    Parameters
    ----------
    capacity : int, optional
        Bytes of chunks held at most.

    Attributes
    ----------
    down : bool
        Nobody can reach it: no call does anything.
    late : bool
        Writes are taken and not answered: they are carried out by `deliver`.
    seconds : float
        How long every call takes.
    round_trips : int
        Calls that reached it.
    answering : threading.Event
        Cleared, it hangs: calls wait until it is set again or their time is over, and writes among them are late.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity: Final = capacity
        self.down = False
        self.late = False
        self.seconds = 0.0
        self.round_trips = 0
        self.answering: Final = threading.Event()
        self.answering.set()
        self.chunks: Final[OrderedDict[str, _Chunk]] = OrderedDict()
        self.used = 0
        self.peak = 0
        self.lock: Final = threading.RLock()
        self._undelivered: Final[list[Callable[[], object]]] = []

    def store(self, key: str, chunk: _Chunk) -> None:
        """Take a chunk, and let others leave for it. The lock is held."""
        size = len(chunk[1])
        if self.capacity is not None and size > self.capacity:
            raise ValueTooLargeError(key, size, self.capacity, "the shared engine")
        self.drop(key)
        while self.capacity is not None and self.used + size > self.capacity:
            self.drop(next(iter(self.chunks)))
        self.chunks[key] = chunk
        self.used += size
        self.peak = max(self.peak, self.used)

    def drop(self, key: str) -> None:
        """Forget a chunk. The lock is held."""
        found = self.chunks.pop(key, None)
        self.used -= len(found[1]) if found is not None else 0

    def evict(self, *keys: str) -> None:
        """Let these go, or all where none is named, as an engine may at any moment."""
        with self.lock:
            for key in keys or list(self.chunks):
                self.drop(key)

    def hold_back(self, write: Callable[[], object]) -> None:
        """Carry a write out when `deliver` is called."""
        with self.lock:
            self._undelivered.append(write)

    def deliver(self) -> int:
        """Carry out what was late, in order; how many writes those were."""
        with self.lock:
            held, self._undelivered[:] = list(self._undelivered), []
            for write in held:
                write()
        return len(held)


_engines: Final[dict[str, SharedEngine]] = {}
_engines_lock: Final = threading.Lock()


def shared_engine(name: str, capacity: int | None = None) -> SharedEngine:
    """The engine of this process that is called so; it is made where there is none, and outlives its clients."""
    with _engines_lock:
        return _engines.setdefault(name, SharedEngine(capacity))


def forget_engine(name: str) -> None:
    """Let an engine go with all that it holds."""
    with _engines_lock:
        _engines.pop(name, None)


class SharedReference(LMSBackendInterface):
    """A client of a `SharedEngine`, correct as contract 1.1 has it; it keeps nothing of its own.

    Parameters
    ----------
    name : str
        Of the engine: every instance of one name is at the same place.
    capacity : int, optional
        Of the engine, where this instance is the first.
    timeout : float
        Seconds after which a call that is not answered fails.

    Attributes
    ----------
    engine : SharedEngine
    timeout : float
    """

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, evicts=True, shared=True, batch_stops=False)

    def __init__(self, name: str = "", capacity: int | None = None, timeout: float = 5.0) -> None:
        self.engine: Final = shared_engine(name, capacity)
        self.timeout = timeout
        self._pid: Final = os.getpid()
        self._closed: Final = threading.Event()
        self._failures = 0
        self._written = 0
        self._read_bytes = 0

    # -- one round trip ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError("the shared reference")
        if self._closed.is_set():
            raise BackendClosedError("the shared reference")

    def _answered(self) -> bool:
        """Whether the engine answers within the time; False as well where it can be reached and is silent."""
        if self.engine.down:
            raise StorageUnavailableError("the shared engine", "cannot be reached.")
        if self.engine.seconds:
            self._closed.wait(self.engine.seconds)
        steps = max(1, int(self.timeout / 0.01))
        for _ in range(steps):
            if self.engine.answering.wait(0.01):
                return True
            self._check()
        return False

    def _read(self, call: Callable[[], _T], otherwise: _T) -> _T:
        self._check()
        try:
            if self._answered():
                with self.engine.lock:
                    self._check()
                    self.engine.round_trips += 1
                    return call()
        except StorageUnavailableError:
            pass  # counted below: a read of a sick engine is a miss
        self._failures += 1
        return otherwise

    def _write(self, operation: str, call: Callable[[], object]) -> None:
        self._check()
        answered = self._answered()
        with self.engine.lock:
            self._check()
            self.engine.round_trips += 1
            if answered and not self.engine.late:
                call()
                return
            self.engine.hold_back(call)
        self._failures += 1
        raise OutcomeUnknownError("the shared engine", operation, "no answer came.")

    # -- the contract --------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk, for everybody."""
        self.put_many([(client_meta, kv_chunk_bytes)])

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Store chunks in one round trip; one that is refused stops none of the others."""
        self._check()
        ready: list[tuple[str, _Chunk]] = []
        refused: list[LmsTiersError] = []
        for client_meta, data in items:
            try:
                owned = own_bytes(data)
                ready.append((key_text(client_meta.key), (ChunkMeta.of(client_meta, len(owned)), owned)))
            except LmsTiersError as error:
                refused.append(error)

        def store() -> None:
            for key, chunk in ready:
                try:
                    self.engine.store(key, chunk)
                    self._written += len(chunk[1])
                except ValueTooLargeError as error:
                    refused.append(error)

        if ready:
            self._write("put", store)
        if refused:
            raise refused[0]

    def remove(self, key: CacheEngineKey) -> None:
        """Forget a chunk, for everybody."""
        self.remove_many([key])

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Forget chunks in one round trip."""
        self._check()
        texts = [key_text(key) for key in keys]

        def remove() -> None:
            for text in texts:
                self.engine.drop(text)

        self._write("remove", remove)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk, whoever put it; None where the engine cannot be asked."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """The chunks in one round trip."""
        self._check()
        texts = [key_text(key) for key in keys]
        none: list[_Chunk | None] = [None] * len(texts)
        found = self._read(lambda: [self.engine.chunks.get(text) for text in texts], none)
        self._read_bytes += sum(len(chunk[1]) for chunk in found if chunk is not None)
        return [None if chunk is None else chunk[0].memory_obj(memoryview(chunk[1]).toreadonly()) for chunk in found]

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the engine holds it now."""
        return self.contains_many([key])[0]

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """Which of them the engine holds now, in one round trip."""
        self._check()
        texts = [key_text(key) for key in keys]
        return self._read(lambda: [text in self.engine.chunks for text in texts], [False] * len(texts))

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """Length of the leading run, in one round trip."""
        return (*self.contains_many(keys), False).index(False)

    def list_keys(self) -> List[CacheEngineKey]:
        """Everybody's keys."""
        self._check()
        if not self._answered():
            raise StorageUnavailableError("the shared engine", "does not answer.")
        with self.engine.lock:
            self._check()
            self.engine.round_trips += 1
            return [CacheEngineKey.from_string(text) for text in self.engine.chunks]

    def stats(self) -> BackendStats:
        """What this instance moved, and what the engine holds."""
        self._check()
        return BackendStats(
            keys=len(self.engine.chunks), bytes_used=self.engine.used, bytes_peak=self.engine.peak,
            bytes_written=self._written, bytes_read=self._read_bytes, failures=self._failures,
            detail={"round_trips": float(self.engine.round_trips)},
        )  # fmt: skip

    def close(self) -> None:
        """Leave; the engine and its chunks stay."""
        self._closed.set()
