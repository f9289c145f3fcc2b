"""`MooncakeBackend`: chunks as objects of a Mooncake Store, everything checked. Reads of a sick store are misses."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, List
from urllib.parse import quote

from lms_tiers.apart import START, Apart, FailedError
from lms_tiers.buffers import copy_bytes, writable_bytes
from lms_tiers.errors import (
    LmsTiersError,
    StorageFullError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.interface import Capabilities
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj, key_text
from lms_tiers.plugins.mooncake.admin import ask
from lms_tiers.plugins.mooncake.chunk import HEAD, MAX_KEY, listed, names_of, read_object
from lms_tiers.plugins.mooncake.options import MooncakeOptions, addresses_of
from lms_tiers.plugins.mooncake.writing import ABSENT, INVALID, Writer, exist
from lms_tiers.remote import Ready, RemoteBackend
from lms_tiers.wire.buffers import receive_buffer

#: Figures of `stats` beside those of every backend.
DETAIL: Final = ("client_starts",)
#: Objects of one request, keys of one question.
_WINDOW: Final = 32
_PAGE: Final = 500
#: How often a chunk is read that changes beneath the call.
_TURNS: Final = 4


_Allocate = Callable[[int, ChunkMeta], memoryview]


class MooncakeBackend(RemoteBackend):
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

    named: ClassVar[str] = "the mooncake backend"
    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, evicts=True, shared=True, batch_stops=False, max_key_bytes=MAX_KEY
    )

    def __init__(self, location: str, options: MooncakeOptions) -> None:
        self.admin, host = addresses_of(location, options)
        super().__init__(f"mooncake://{location}")
        self._prefix: Final = quote(options.prefix)
        self._timeout: Final = options.timeout
        self._most: Final = options.max_chunk
        self.capabilities = replace(type(self).capabilities, max_value_bytes=options.max_chunk)  # type: ignore[misc]
        self._half: Final = options.max_chunk + HEAD
        self._expected = min(1 << 20, self._half)
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

    def _taken(self, ready: Ready) -> Ready:
        if len(ready.body) > self._most:
            limit = "option max_chunk of the mooncake backend"
            raise ValueTooLargeError(ready.text, len(ready.body), self._most, limit)
        return ready

    def _put(self, chunks: Sequence[Ready]) -> Sequence[StorageUnavailableError]:
        """Many in one request."""
        failures: list[StorageUnavailableError] = []
        window: list[Ready] = []
        room = 0
        for one in chunks:
            size = len(one.body) + HEAD
            if window and (len(window) == _WINDOW or room + size > 2 * self._half):
                failures += self._writer.put(window)
                window, room = [], 0
            window.append(one)
            room += size
        return failures + self._writer.put(window) if window else failures

    def _worst(self, failures: Sequence[StorageUnavailableError]) -> LmsTiersError:
        worst = super()._worst(failures)
        if isinstance(worst, StorageFullError) and not self._has_nodes():
            return StorageUnavailableError(self._where, "has no node yet that gives memory: start mooncake_client.")
        return worst

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

    def _detail(self) -> dict[str, float]:
        return dict.fromkeys(DETAIL, float(self._client.starts))

    def close(self) -> None:
        """End the engine's client; the store and its chunks stay."""
        if os.getpid() == self._pid:
            self._client.close()

    @property
    def _closed(self) -> bool:
        return self._client.closed

    def _names(self, text: str) -> tuple[str, str]:
        return names_of(self._prefix, text)


def open_backend(location: str, capacity: int | None, options: MooncakeOptions) -> MooncakeBackend:
    """A client of the master at `location`; what it may hold is the nodes' business, so `capacity` is the tier's."""
    return MooncakeBackend(location, options)
