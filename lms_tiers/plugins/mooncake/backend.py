"""`MooncakeBackend`: chunks as objects of a Mooncake Store, everything checked. Reads of a sick store are misses.

An object is a number, the checked head of `lms_tiers.wire.head` and the bytes, under one of two names: of two that are
there the higher number counts. Who gives it, and when the other leaves: `lms_tiers.plugins.mooncake.engine`.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

from lms_tiers.apart.process import START, Apart, FailedError
from lms_tiers.buffers import copy_bytes
from lms_tiers.client.http import ask
from lms_tiers.errors import StorageFullError, StorageUnavailableError
from lms_tiers.interface import Capabilities
from lms_tiers.messages import ChunkMeta
from lms_tiers.plugins.mooncake.engine import ASIDE, INVALID, NUMBER, number_of
from lms_tiers.plugins.mooncake.options import MooncakeOptions, addresses_of
from lms_tiers.remote import Found, Ready, RemoteBackend, pages, room_for
from lms_tiers.wire.head import head_of, pack_head

#: Figures of `stats` beside those of every backend.
DETAIL: Final = ("client_starts",)
#: Bytes of a key; in a name each of them may take three.
MAX_KEY: Final = 4096
#: Bytes that hold any number and head.
_HEAD: Final = 1 << 14
#: Chunks that are put or read by one request, and keys that are asked for.
_AT_ONCE: Final = 16
_PAGE: Final = 500
#: How often a chunk is read that changes beneath the call.
_TURNS: Final = 4
#: Answers of the engine that mean it has no room.
_FULL: Final = (-200, -1700, -1602)


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
        self.capabilities = replace(type(self).capabilities, max_value_bytes=options.max_chunk)  # type: ignore[misc]
        self._half: Final = options.max_chunk + _HEAD
        told = {"master": location, "host": host, **options.model_dump(include={"metadata", "protocol", "device"})}
        half, late = f"{max(round(options.timeout * 500), 50)}", f"{max(int(options.timeout / 2), 1)}"
        # The engine mostly gives up, and says so, before its process is ended. Slices of 1 MiB are a tenth faster.
        environment = {
            "MC_RPC_TIMEOUT_MS": half, "MC_RPC_CONNECT_TIMEOUT_MS": half, "MC_STORE_CLIENT_SETUP_RETRIES": "1",
            "MC_TCP_PROGRESS_TIMEOUT_SEC": late, "MC_TCP_STATUS_TIMEOUT_SEC": late, "MC_TCP_SLICE_SIZE": "1048576",
        }  # fmt: skip
        program = Path(__file__).with_name("engine.py")
        self._client: Final = Apart(program, told, environment, ASIDE + 2 * self._half, options.connections)
        try:
            with self._client.lane(time.monotonic() + START):
                pass
        except FailedError as error:
            self._client.close()
            raise self._error(f"cannot be reached: {error}.") from None

    @contextlib.contextmanager
    def _failing(self, operation: str, failures: list[StorageUnavailableError]) -> Iterator[float]:
        """One request, which may take until then; where it fails, `failures` get why."""
        try:
            yield time.monotonic() + self._timeout
        except FailedError as error:
            failures.append(self._error(f"{error}.", operation if error.sent else ""))

    # -- writing -----------------------------------------------------------------------------------------------------

    def _put(self, chunks: Sequence[Ready]) -> Sequence[StorageUnavailableError]:
        """Many in one request."""
        failures: list[StorageUnavailableError] = []
        each = min(2 * self._half // (_HEAD + max(len(one.body) for one in chunks)), _AT_ONCE)
        for window in pages(chunks, each):
            with self._failing("put", failures) as until, self._client.lane(until) as lane:
                objects, at = [], ASIDE
                for one in window:
                    objects.append((self._name(one.text), at, _lay(lane.memory[at:], one)))
                    at += objects[-1][2]
                codes = lane.ask(until, "put", objects, (until - time.monotonic()) / 2)
                told = {code: self._refusal(code) for code in {*codes} - {0}}
                failures += [told[code] for code in codes if code]
        return failures

    def _refusal(self, code: int) -> StorageUnavailableError:
        if code not in _FULL:
            return self._error(f"cannot write: it answers {-abs(code)}.", "put" if code > 0 else "")
        with contextlib.suppress(StorageUnavailableError):
            if not any(ask(self.admin, "/get_all_segments", self._timeout / 2)):  # a master alone says that it is full
                return self._error("has no node yet that gives memory: start mooncake_client.")
        return StorageFullError(self._where, f"is full ({code}): give it more nodes, or let leases end sooner.")

    def _remove(self, texts: Sequence[str]) -> Sequence[StorageUnavailableError]:
        """Hundreds in one request."""
        failures: list[StorageUnavailableError] = []
        for page in pages(texts, _PAGE):
            with self._failing("remove", failures) as until, self._client.lane(until) as lane:
                lane.ask(until, "remove", list(map(self._name, page)))
        return failures

    # -- reading -----------------------------------------------------------------------------------------------------

    def _fetch(self, texts: Sequence[str], buffer: Any) -> list[Found | None]:
        """Many in one request; those that are too long for a part of the memory, or change meanwhile, by themselves."""
        found: list[Found | None] = [None] * len(texts)
        failures: list[StorageUnavailableError] = []
        todo = list(range(len(texts)))
        for each in (_AT_ONCE, *[1] * _TURNS)[len(texts) == 1 :]:
            again: list[int] = []
            for window in pages([] if failures else todo, each):
                with self._failing("", failures) as until, self._client.lane(until) as lane:
                    answers = lane.ask(until, "read", [self._name(texts[i]) for i in window], self._half // each)
                    for i, told in zip(window, answers, strict=True):
                        failed = isinstance(told, int)
                        whole = [_chunk(texts[i], lane.memory[at : at + size]) for at, size in ([] if failed else told)]
                        if None in whole or (told == INVALID and each > 1):
                            again.append(i)
                        elif failed:
                            self._count("failures")
                        elif whole:
                            _, meta, body = max(filter(None, whole), key=lambda one: one[0])
                            found[i] = meta, (room := room_for(meta, buffer))
                            copy_bytes(memoryview(room), body)
                            self._count("bytes_read", meta.length)
            todo = again
        self._count("corrupt", len(todo))
        self._missed(len(failures))
        return found

    def _there(self, texts: Sequence[str]) -> list[bool]:
        """Hundreds in one request."""
        found: list[bool] = []
        failures: list[StorageUnavailableError] = []
        for page in pages(texts, _PAGE):
            with self._failing("", failures) as until, self._client.lane(until) as lane:
                found += map(bool, lane.ask(until, "exist", list(map(self._name, page))))
            if failures:
                break
        self._missed(len(failures))
        return found + [False] * (len(texts) - len(found))

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _listed(self) -> Iterator[str]:
        """The master's HTTP names all objects, of which these are taken; see option ``admin``."""
        self._check()
        try:
            names = ask(self.admin, "/get_all_keys", self._timeout)
        except StorageUnavailableError as error:
            self._count("failures")
            raise self._error(f"cannot be listed: {error}; see option admin.") from None
        for name in {name[:-2] for name in names if name.startswith(self._prefix) and name.endswith((".0", ".1"))}:
            text = unquote(name[len(self._prefix) :])
            if text and self._name(text) == name:  # else nobody here wrote it
                yield text

    def _name(self, text: str) -> str:
        """What both names of a key begin with."""
        return self._prefix + quote(text, safe="@")

    def _detail(self) -> dict[str, float]:
        return dict.fromkeys(DETAIL, float(self._client.starts))

    def _end(self) -> None:
        self._client.close()


def _lay(memory: memoryview, chunk: Ready) -> int:
    """Lay a chunk into memory, behind room for its number; answers its bytes."""
    head = pack_head(chunk.text.encode(), chunk.meta, chunk.body)
    start = NUMBER.size + len(head)
    memory[NUMBER.size : start] = head
    copy_bytes(memory[start : start + len(chunk.body)], chunk.body)
    return start + len(chunk.body)


def _chunk(text: str, data: memoryview) -> tuple[int, ChunkMeta, memoryview] | None:
    """Number, metadata and body of the chunk that an object is; None where it is no whole chunk of this key."""
    key, number, rest = text.encode(), number_of(data), data[NUMBER.size :]
    head = head_of(key, bytes(rest[:_HEAD]))
    if not number or head is None or not head.fits(rest[head.size :]):
        return None
    return number, head.meta, rest[head.size :]


def probe(backend: MooncakeBackend) -> Iterator[tuple[str, str, str]]:
    """State, finding and advice for `lms-tiers doctor`: the master, the nodes' memory, that nobody guards it."""
    try:
        nodes = [name for name in ask(backend.admin, "/get_all_segments", 5) if name.strip()]
        told = "".join(ask(backend.admin, "/metrics/summary", 5))
    except StorageUnavailableError as error:
        yield "fault", str(error), "without the master's HTTP nothing can be listed."
        return
    memory = re.search(r"Mem Storage: ([^|}]+?) *[|}]", told)
    if nodes:
        yield "ok", f"{len(nodes)} nodes hold {memory[1] if memory else 'chunks'}", ""
    else:
        yield "fault", "no node gives memory", "start `mooncake_client` on some hosts: it is this tier's capacity."
    yield "note", "the engine knows no users and no TLS", "let nobody else reach its network."


def open_backend(location: str, capacity: int | None, options: MooncakeOptions) -> MooncakeBackend:
    """A client of the master at `location`; what it may hold is the nodes' business, so `capacity` is the tier's."""
    return MooncakeBackend(location, options)
