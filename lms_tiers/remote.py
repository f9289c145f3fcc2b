"""`RemoteBackend`: what clients of somebody else's engine do alike. How an engine is asked is each one's own business.

Calls for one key are those for many; keys and what is to be put are checked before anything is sent; where chunks are
read to; listings; counters; the calls that a closed or forked client refuses.
"""

from __future__ import annotations

import abc
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Final, List, NamedTuple, Optional, TypeVar

from lms_tiers.buffers import own_bytes, writable_bytes
from lms_tiers.errors import (
    BackendClosedError,
    ForkedProcessError,
    LmsTiersError,
    OutcomeUnknownError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.interface import BackendStats, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.wire.buffers import receive_buffer

_T = TypeVar("_T")

#: A chunk's metadata and its bytes.
Found = tuple[ChunkMeta, Any]
#: Names whose heads are read at one time.
_PAGE: Final = 1000


class Ready(NamedTuple):
    """A chunk to be put: its key's text, metadata, and bytes that stay as they are during the call."""

    text: str
    meta: ChunkMeta
    body: memoryview


class RemoteBackend(LMSBackendInterface):
    """A client of an engine that others use as well.

    A subclass gives `_put`, `_remove`, `_fetch`, `_there`, `_listed` and `_end`. If it has a longest chunk, its option
    `max_chunk` says so.

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
        self._ended = False

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

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read a chunk into the caller's buffer. See `LMSBackendInterface.get_into`."""
        writable_bytes(buffer, 0)
        (found,) = self._fetch(self._texts([key]), buffer)
        return None if found is None else found[0]

    # -- many keys ---------------------------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """The chunks in order, many at one time."""
        found = self._fetch(self._texts(keys), None)
        return [None if one is None else one[0].memory_obj(one[1]) for one in found]

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """Which keys the engine has now, many at one time. Their bytes are checked when they are read."""
        return self._there(self._texts(keys))

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Forget chunks, many at one time. See `put_many` for errors."""
        texts = list(dict.fromkeys(self._texts(keys)))
        self._raise(self._remove(texts) if texts else ())

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
        most = self.capabilities.max_value_bytes
        late: LmsTiersError | None = None
        for client_meta, data in items:
            try:
                text = key_text(client_meta.key, self.capabilities.max_key_bytes)
                body = memoryview(data if isinstance(data, bytes | bytearray) else own_bytes(data))
                if most is not None and len(body) > most:
                    raise ValueTooLargeError(text, len(body), most, f"option max_chunk of {self.named}")
                ready[text] = Ready(text, ChunkMeta.of(client_meta, len(body)), body)
            except LmsTiersError as error:
                late = error
                break
        self._raise(self._put(list(ready.values())) if ready else ())
        self._count("bytes_written", sum(one.meta.length for one in ready.values()))
        if late is not None:
            raise late

    def _raise(self, failures: Sequence[StorageUnavailableError]) -> None:
        """Count failures and raise one: one in doubt says less than any other. A closed client says that."""
        if failures:
            self._count("failures", len(failures))
            self._check()
            raise self._worst(failures)

    def _error(self, told: str, operation: str = "") -> StorageUnavailableError:
        """What went wrong, in doubt where `operation` may have been carried out all the same."""
        if operation:
            return OutcomeUnknownError(self._where, operation, told)
        return StorageUnavailableError(self._where, told)

    def _worst(self, failures: Sequence[StorageUnavailableError]) -> LmsTiersError:
        return next((error for error in failures if isinstance(error, OutcomeUnknownError)), failures[0])

    # -- how the engine is asked -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _put(self, chunks: Sequence[Ready]) -> Sequence[StorageUnavailableError]:
        """Store chunks of different keys; answers what went wrong."""

    @abc.abstractmethod
    def _remove(self, texts: Sequence[str]) -> Sequence[StorageUnavailableError]:
        """Forget chunks of different keys; answers what went wrong."""

    @abc.abstractmethod
    def _fetch(self, texts: Sequence[str], buffer: Any) -> Sequence[Found | None]:
        """Read chunks; where `buffer` is not None, the one into it, else where `room_for` or the library has room."""

    @abc.abstractmethod
    def _there(self, texts: Sequence[str]) -> list[bool]:
        """Which chunks the engine has."""

    @abc.abstractmethod
    def _listed(self) -> Iterator[str]:
        """Everybody's keys below the prefix; raises where the engine cannot be asked."""

    def _metas(self, texts: Sequence[str]) -> Iterable[ChunkMeta | None]:
        """The metadata of chunks; a subclass need not read their bytes for it."""
        for text in texts:
            (found,) = self._fetch([text], None)
            yield None if found is None else found[0]

    @abc.abstractmethod
    def _end(self) -> None:
        """Give back what the client has: calls that are running end soon."""

    # -- listing -----------------------------------------------------------------------------------------------------

    def iter_keys(self) -> Iterator[CacheEngineKey]:
        """Everybody's keys below the prefix, as the engine tells them.

        Raises
        ------
        StorageUnavailableError
            The engine cannot be asked.
        """
        return map(CacheEngineKey.from_string, self._listed())

    def list_keys(self) -> List[CacheEngineKey]:
        """All of `iter_keys`."""
        return list(self.iter_keys())

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk with its metadata. See `iter_keys` for errors."""
        texts = self._listed()
        while page := list(islice(texts, _PAGE)):
            for text, meta in zip(page, self._metas(page), strict=True):
                if meta is not None:
                    yield ChunkInfo(CacheEngineKey.from_string(text), meta, self.reserve_bytes(meta.length))

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

    def close(self) -> None:
        """Close this client; the engine and its chunks stay."""
        if os.getpid() == self._pid:
            self._ended = True
            self._end()

    def _texts(self, keys: Sequence[CacheEngineKey]) -> list[str]:
        """The texts of keys; refuses them where one is none, or nobody may ask."""
        self._check()
        return [key_text(key, self.capabilities.max_key_bytes) for key in keys]

    def _check(self) -> None:
        """Refuse what a child of a fork asks, or whoever asks after `close`."""
        if os.getpid() != self._pid:
            raise ForkedProcessError(self.named)
        if self._ended:
            raise BackendClosedError(self.named)

    def _missed(self, failures: int) -> None:
        """Count reads that the engine failed: they are misses, but where the client was closed."""
        self._count("failures", failures)
        if failures:
            self._check()

    def _count(self, what: str, by: int = 1) -> None:
        if by:
            with self._counting:
                self._counts[what] += by


def pages(items: Sequence[_T], each: int) -> Iterator[Sequence[_T]]:
    """The items, so many at one time."""
    return (items[i : i + each] for i in range(0, len(items), each))


def room_for(meta: ChunkMeta, buffer: Any) -> Any:
    """Where the bytes of a chunk go: into the caller's `buffer`, or a new one where that is None.

    Raises
    ------
    InvalidBufferError
        They do not fit into it.
    """
    return receive_buffer(meta.length) if buffer is None else writable_bytes(buffer, meta.length)[: meta.length]
