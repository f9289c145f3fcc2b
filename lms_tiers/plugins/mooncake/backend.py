"""`MooncakeBackend`: chunks as objects of a Mooncake Store, everything checked. Reads of a sick store are misses."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, List, Optional
from urllib.parse import quote

from lms_tiers.apart import START, Apart, FailedError
from lms_tiers.buffers import copy_bytes, writable_bytes
from lms_tiers.errors import (
    BackendClosedError,
    ForkedProcessError,
    LmsTiersError,
    OutcomeUnknownError,
    StorageFullError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.interface import BackendStats, Capabilities, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text, own_bytes
from lms_tiers.plugins.mooncake.admin import ask
from lms_tiers.plugins.mooncake.chunk import HEAD, MAX_KEY, listed, names_of, read_object
from lms_tiers.plugins.mooncake.options import MooncakeOptions, addresses_of
from lms_tiers.plugins.mooncake.writing import ABSENT, INVALID, Ready, Writer, exist
from lms_tiers.wire.buffers import receive_buffer

#: Figures of `stats` beside those of every backend.
DETAIL: Final = ("client_starts",)
#: Objects of one request, keys of one question.
_WINDOW: Final = 32
_PAGE: Final = 500
#: How often a chunk is read that changes beneath the call.
_TURNS: Final = 4


_Allocate = Callable[[int, ChunkMeta], memoryview]


class MooncakeBackend(LMSBackendInterface):
    """Chunks as objects of a Mooncake Store, usable from many threads.

    Parameters
    ----------
    location : str
        ``host:port`` of the master.
    options : MooncakeOptions

    Raises
    ------
    ConfigError
        An address is none.
    StorageUnavailableError
        The master cannot be reached, or the engine's client cannot run here.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, evicts=True, shared=True, batch_stops=False, max_key_bytes=MAX_KEY
    )

    def __init__(self, location: str, options: MooncakeOptions) -> None:
        self.admin, host = addresses_of(location, options)
        self._where: Final = f"mooncake://{location}"
        self._prefix: Final = quote(options.prefix)
        self._timeout: Final = options.timeout
        self._most: Final = options.max_chunk
        self.capabilities = replace(type(self).capabilities, max_value_bytes=options.max_chunk)  # type: ignore[misc]
        self._half: Final = options.max_chunk + HEAD
        self._expected = min(1 << 20, self._half)
        self._pid: Final = os.getpid()
        self._counts: Final[Counter[str]] = Counter()
        self._counting: Final = threading.Lock()
        told = {
            "master": location, "metadata": options.metadata, "host": host,
            "protocol": options.protocol, "device": options.device,
        }  # fmt: skip
        half, seconds = f"{max(round(options.timeout * 500), 50)}", f"{max(int(options.timeout / 2), 1)}"
        environment = {  # the engine mostly gives up, and says so, before its process is ended
            "MC_RPC_TIMEOUT_MS": half, "MC_RPC_CONNECT_TIMEOUT_MS": half, "MC_STORE_CLIENT_SETUP_RETRIES": "1",
            "MC_TCP_PROGRESS_TIMEOUT_SEC": seconds, "MC_TCP_STATUS_TIMEOUT_SEC": seconds,
        }  # fmt: skip
        program = Path(__file__).with_name("engine.py")
        self._client: Final = Apart(program, told, environment, 2 * self._half, options.connections)
        self._writer: Final = Writer(self._client, self._where, self._prefix, options.timeout)
        try:
            with self._client.lane(time.monotonic() + START):
                pass
        except FailedError as error:
            self._client.close()
            raise StorageUnavailableError(self._where, f"cannot be reached: {error}.") from None

    # -- writing -----------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk, for everybody. See `LMSBackendInterface.put`."""
        self.put_many([(client_meta, kv_chunk_bytes)])

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Store chunks, many in one request; one that fails stops none of the others."""
        self._check()
        ready: dict[str, Ready] = {}  # of a key named twice the last one counts
        late: LmsTiersError | None = None
        for client_meta, data in items:
            try:
                text = key_text(client_meta.key, MAX_KEY)
                body = memoryview(data if isinstance(data, bytes | bytearray) else own_bytes(data))
                meta = ChunkMeta.of(client_meta, len(body))
                if len(body) > self._most:
                    raise ValueTooLargeError(text, len(body), self._most, "option max_chunk of the mooncake backend")
                ready[text] = text, meta, body
            except LmsTiersError as error:
                late = error
                break
        failures: list[StorageUnavailableError] = []
        window: list[Ready] = []
        room = 0
        for one in ready.values():
            size = len(one[2]) + HEAD
            if window and (len(window) == _WINDOW or room + size > 2 * self._half):
                failures += self._writer.put(window)
                window, room = [], 0
            window.append(one)
            room += size
        if window:
            failures += self._writer.put(window)
        if not failures:
            self._count("bytes_written", sum(meta.length for _, meta, _ in ready.values()))
        else:  # one in doubt says less than any other
            self._count("failures", len(failures))
            self._check()
            worst = next((error for error in failures if isinstance(error, OutcomeUnknownError)), failures[0])
            if isinstance(worst, StorageFullError) and not self._has_nodes():
                raise StorageUnavailableError(self._where, "has no node yet that gives memory: start mooncake_client.")
            raise worst
        if late is not None:
            raise late

    def remove(self, key: CacheEngineKey) -> None:
        """Forget a chunk, for everybody."""
        self.remove_many([key])

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Forget chunks, many in one request."""
        self._check()
        texts = list(dict.fromkeys(key_text(key, MAX_KEY) for key in keys))
        try:
            for i in range(0, len(texts), _PAGE):
                self._writer.remove(texts[i : i + _PAGE])
        except StorageUnavailableError:
            self._count("failures")
            self._check()
            raise

    def _has_nodes(self) -> bool:
        """Whether any node gives memory: a master alone says that it is full. True where it does not say."""
        try:
            return any(name.strip() for name in ask(self.admin, "/get_all_segments", self._timeout / 2))
        except StorageUnavailableError:
            return True

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk, whoever put it; None where there is none, the store cannot be asked, or it is damaged."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """The chunks in order, many in one request."""
        buffers: dict[int, bytearray] = {}

        def allocate(i: int, meta: ChunkMeta) -> memoryview:
            buffers[i] = receive_buffer(meta.length)
            return memoryview(buffers[i])

        found = self._fetch(keys, allocate)
        return [None if meta is None else meta.memory_obj(buffers[i]) for i, meta in enumerate(found)]

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read a chunk into the caller's buffer. See `LMSBackendInterface.get_into`."""
        writable_bytes(buffer, 0)
        return self._fetch([key], lambda i, meta: writable_bytes(buffer, meta.length)[: meta.length])[0]

    def _fetch(self, keys: Sequence[CacheEngineKey], allocate: _Allocate) -> list[ChunkMeta | None]:
        self._check()
        texts = [key_text(key, MAX_KEY) for key in keys]
        found: list[ChunkMeta | None] = [None] * len(texts)
        todo, room = list(range(len(texts))), self._half if len(texts) == 1 else self._expected
        try:
            for _ in range(_TURNS):
                each = min(max(self._half // room, 1), _WINDOW)
                windows = [todo[i : i + each] for i in range(0, len(todo), each)]
                todo = [i for window in windows for i in self._read(texts, window, room, found, allocate)]
                if not todo:
                    return found
                room = self._half
            self._count("corrupt", len(todo))
        except FailedError:
            self._count("failures")
            self._check()
        return found

    def _read(
        self, texts: Sequence[str], window: Sequence[int], room: int, found: list[ChunkMeta | None], allocate: _Allocate
    ) -> list[int]:
        """Read some keys, each into `room` bytes a name; answers those to be read again."""
        again, missing = [], []
        until = time.monotonic() + self._timeout
        names = [name for i in window for name in self._names(texts[i])]
        places = [i * room for i in range(len(names))]
        with self._client.lane(until) as lane:
            codes = lane.ask(until, "read", names, places, [room] * len(names))
            for turn, i in enumerate(window):
                pair = [(places[at], codes[at]) for at in (2 * turn, 2 * turn + 1)]
                strange = [code for _, code in pair if code <= 0 and code not in ABSENT]
                there = [lane.memory[place : place + code] for place, code in pair if code > 0]
                if strange == [INVALID] and room < self._half:
                    self._expected = min(2 * self._expected, self._half)
                    again.append(i)
                elif strange:
                    self._count("failures")
                elif not there:
                    missing.append(i)
                elif None in (whole := [read_object(texts[i], data) for data in there]):
                    again.append(i)
                else:
                    newest = max((one for one in whole if one is not None), key=lambda one: one.number)
                    copy_bytes(allocate(i, newest.meta), newest.body)
                    found[i] = newest.meta
                    self._count("bytes_read", newest.meta.length)
            # Between the two looks of one request a put may have taken the chunk from one name to the other.
            look = exist(lane, until, [name for i in missing for name in self._names(texts[i])])
        return again + [i for turn, i in enumerate(missing) if any(look[2 * turn : 2 * turn + 2])]

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the store has the key now; False where it cannot be asked. Its bytes are checked when read."""
        return self.contains_many([key])[0]

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """Which keys the store has now, hundreds in one request."""
        self._check()
        texts = [key_text(key, MAX_KEY) for key in keys]
        there: set[str] = set()
        try:
            for i in range(0, len(texts), _PAGE):
                left, until = texts[i : i + _PAGE], time.monotonic() + self._timeout
                with self._client.lane(until) as lane:
                    for _ in range(2):  # see `_read`
                        look = exist(lane, until, [name for text in left for name in self._names(text)])
                        there.update(text for turn, text in enumerate(left) if any(look[2 * turn : 2 * turn + 2]))
                        left = [text for text in left if text not in there]
        except FailedError:
            self._count("failures")
            self._check()
        return [text in there for text in texts]

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """Length of the leading run that is there, asked for at once."""
        return (*self.contains_many(keys), False).index(False)

    # -- listing -----------------------------------------------------------------------------------------------------

    def list_keys(self) -> List[CacheEngineKey]:
        """Everybody's keys below the prefix: the master's HTTP names all objects, of which these are taken.

        Raises
        ------
        StorageUnavailableError
            It does not answer; see option ``admin``.
        """
        self._check()
        try:
            names = ask(self.admin, "/get_all_keys", self._timeout)
        except StorageUnavailableError:
            self._count("failures")
            raise
        return [CacheEngineKey.from_string(text) for text in listed(self._prefix, names)]

    # -- the rest ----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """What was put is in the memory of a node when `put` returned; a node that dies takes it along."""
        self._check()

    def stats(self) -> BackendStats:
        """Counters of this client; it asks the store nothing."""
        with self._counting:
            counts = dict(self._counts)
        return BackendStats(
            bytes_written=counts.get("bytes_written", 0), bytes_read=counts.get("bytes_read", 0),
            failures=counts.get("failures", 0), corrupt=counts.get("corrupt", 0),
            detail=dict.fromkeys(DETAIL, float(self._client.starts)),
        )  # fmt: skip

    def close(self) -> None:
        """End the engine's client; the store and its chunks stay."""
        if os.getpid() == self._pid:
            self._client.close()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError("the mooncake backend")
        if self._client.closed:
            raise BackendClosedError("the mooncake backend")

    def _names(self, text: str) -> tuple[str, str]:
        return names_of(self._prefix, text)

    def _count(self, what: str, by: int = 1) -> None:
        if by:
            with self._counting:
                self._counts[what] += by


def open_backend(location: str, capacity: int | None, options: MooncakeOptions) -> MooncakeBackend:
    """A client of the master at `location`; what it may hold is the nodes' business, so `capacity` is the tier's."""
    return MooncakeBackend(location, options)
