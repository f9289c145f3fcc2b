"""`RemoteBackend`: what clients of somebody else's engine do alike. How an engine is asked is each one's own business.

Calls for one key are those for many; what is to be put is checked before anything is sent; counters; the calls that a
closed or forked client refuses.
"""

from __future__ import annotations

import abc
import os
import threading
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple, Optional

from lms_tiers.errors import (
    BackendClosedError,
    ForkedProcessError,
    LmsTiersError,
    OutcomeUnknownError,
    StorageUnavailableError,
)
from lms_tiers.interface import BackendStats, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text, own_bytes


class Ready(NamedTuple):
    """A chunk to be put: its key's text, metadata, and bytes that stay as they are during the call."""

    text: str
    meta: ChunkMeta
    body: memoryview


class RemoteBackend(LMSBackendInterface):
    """A client of an engine that others use as well.

    A subclass gives `get_many`, `contains_many`, `remove_many`, `_put`, `list_keys`, `close` and `_closed`.

    Parameters
    ----------
    where : str
        The engine, as errors name it; without secrets.
    """

    #: This backend, as errors name it.
    named: ClassVar[str]

    def __init__(self, where: str) -> None:
        self._where: Final = where
        self._pid: Final = os.getpid()
        self._counts: Final[Counter[str]] = Counter()
        self._counting: Final = threading.Lock()

    # -- one key -----------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk, for everybody; returns when the engine has it. See `LMSBackendInterface.put`."""
        self.put_many([(client_meta, kv_chunk_bytes)])

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk, whoever put it; None where there is none, the engine cannot be asked, or it is damaged."""
        return self.get_many([key])[0]

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the engine has the key now; False where it cannot be asked. Its bytes are checked when read."""
        return self.contains_many([key])[0]

    def remove(self, key: CacheEngineKey) -> None:
        """Forget a chunk, for everybody."""
        self.remove_many([key])

    # -- many keys ---------------------------------------------------------------------------------------------------

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """Length of the leading run that the engine has, asked for as `contains_many` asks."""
        return (*self.contains_many(keys), False).index(False)

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Store chunks, many at one time; one that fails stops none of the others.

        Of a key that is named twice the last one counts. What stands behind an item that is none is not stored.

        Raises
        ------
        OutcomeUnknownError
            One of them may have been stored, or be stored still.
        StorageUnavailableError
            The engine refuses, or cannot be asked.
        """
        self._check()
        ready: dict[str, Ready] = {}
        late: LmsTiersError | None = None
        for client_meta, data in items:
            try:
                text = key_text(client_meta.key, self.capabilities.max_key_bytes)
                body = memoryview(data if isinstance(data, bytes | bytearray) else own_bytes(data))
                ready[text] = self._taken(Ready(text, ChunkMeta.of(client_meta, len(body)), body))
            except LmsTiersError as error:
                late = error
                break
        failures = self._put(list(ready.values()))
        if failures:
            self._count("failures", len(failures))
            raise self._worst(failures)
        self._count("bytes_written", sum(one.meta.length for one in ready.values()))
        if late is not None:
            raise late

    def _taken(self, ready: Ready) -> Ready:
        """What is put; raises where the engine cannot take it."""
        return ready

    @abc.abstractmethod
    def _put(self, chunks: Sequence[Ready]) -> Sequence[StorageUnavailableError]:
        """Store chunks of different keys; answers what went wrong."""

    def _worst(self, failures: Sequence[StorageUnavailableError]) -> LmsTiersError:
        """What is raised for several failures: one in doubt says less than any other. A closed client says that."""
        self._check()
        return next((error for error in failures if isinstance(error, OutcomeUnknownError)), failures[0])

    # -- the rest ----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """What was put is in the engine when `put` returned; how long it stays there is the engine's business."""
        self._check()

    def stats(self) -> BackendStats:
        """Counters of this client; it asks the engine nothing."""
        with self._counting:
            counts = dict(self._counts)
        return BackendStats(
            bytes_written=counts.get("bytes_written", 0), bytes_read=counts.get("bytes_read", 0),
            failures=counts.get("failures", 0), corrupt=counts.get("corrupt", 0), detail=self._detail(),
        )  # fmt: skip

    def _detail(self) -> dict[str, float]:
        """Figures of `stats` beside those of every backend."""
        return {}

    @property
    @abc.abstractmethod
    def _closed(self) -> bool:
        """Whether `close` was called."""

    def _check(self) -> None:
        """Refuse what a child of a fork asks, or whoever asks after `close`."""
        if os.getpid() != self._pid:
            raise ForkedProcessError(self.named)
        if self._closed:
            raise BackendClosedError(self.named)

    def _count(self, what: str, by: int = 1) -> None:
        if by:
            with self._counting:
                self._counts[what] += by
