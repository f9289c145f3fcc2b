"""`RedisBackend`: chunks in a Redis or Valkey. Reads of a sick node are misses and counters; writes are errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Final, List

from lms_tiers.buffers import writable_bytes
from lms_tiers.errors import (
    InvalidBufferError,
    OutcomeUnknownError,
    StorageFullError,
    StorageUnavailableError,
)
from lms_tiers.interface import Capabilities, ChunkInfo
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj, key_text
from lms_tiers.plugins.redis.chunk import LEAD, Allocate, Damaged, put_answer, put_frame, read_chunk
from lms_tiers.plugins.redis.options import RedisOptions, place_of
from lms_tiers.remote import Ready, RemoteBackend
from lms_tiers.resp.link import Link, Place, Refusal, command
from lms_tiers.resp.nodes import LIGHT, WINDOW, Nodes, Request
from lms_tiers.wire.buffers import paged_buffer, receive_buffer
from lms_tiers.wire.head import read_head

#: Keys that a node is asked to list at one time.
_PAGE: Final = 1000

#: What `stats` tells beyond the contract: connections made, redirects followed, looks at the slots, nodes with slots.
DETAIL: Final = ("connects", "redirects", "slot_looks", "nodes")

_NUMBER: Final = partial(Link.expect, kind=int)


class RedisBackend(RemoteBackend):
    """A client of one Redis or Valkey server, or of a Cluster, usable from many threads.

    Parameters
    ----------
    place : Place
    options : RedisOptions

    Raises
    ------
    StorageUnavailableError
        No node answers, or the engine refuses the user.
    """

    named: ClassVar[str] = "the redis backend"
    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, evicts=True, shared=True, batch_stops=False)

    def __init__(self, place: Place, options: RedisOptions) -> None:
        super().__init__(str(place))
        self._prefix: Final = options.prefix.encode()
        self._ttl: Final = None if options.ttl is None else round(options.ttl * 1000)
        self.nodes: Final = Nodes(place, options.timeout, options.connections)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _put(self, chunks: Sequence[Ready]) -> Sequence[StorageUnavailableError]:
        """All are on their way at one time."""
        requests = []
        for text, meta, body in chunks:
            name = self._prefix + text.encode()
            frame = put_frame(name, text.encode(), meta, body, self._ttl)
            requests.append(Request(name, frame, partial(put_answer, meta=meta, ttl=self._ttl)))
        return self._failures(requests, "put")

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Forget chunks, all requests on their way at one time."""
        names = self._names(keys)
        self._write([Request(name, command(b"UNLINK", name), _NUMBER) for name in names], "remove")

    def _write(self, requests: Sequence[Request], operation: str) -> None:
        """Ask once; raise the worst that came of it."""
        failures = self._failures(requests, operation)
        if failures:
            self._count("failures", len(failures))
            raise self._worst(failures)

    def _failures(self, requests: Sequence[Request], operation: str) -> list[StorageUnavailableError]:
        self.nodes.run(requests, window=WINDOW if operation == "put" else LIGHT)
        return [error for request in requests if (error := self._failure(request, operation)) is not None]

    def _failure(self, request: Request, operation: str) -> StorageUnavailableError | None:
        answer = request.answer
        if request.fault is not None and request.sent and operation:
            return OutcomeUnknownError(self._where, operation, f"no answer came: {request.fault}.")
        if request.fault is not None:
            return StorageUnavailableError(self._where, f"cannot be asked: {request.fault}.")
        if not isinstance(answer, Refusal):
            return None
        if answer.code == "OOM":
            told = "is full: raise its `maxmemory`, or let it evict (`maxmemory-policy allkeys-lru`)."
            return StorageFullError(self._where, told)
        return StorageUnavailableError(self._where, f"refuses: {answer.text}.")

    # -- reading -----------------------------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """The chunks in order, each read into a buffer of its own; one round trip a node and window of 32."""
        buffers: list[bytearray] = [bytearray()] * len(keys)

        def allocate(i: int, meta: ChunkMeta) -> memoryview:
            buffers[i] = buffer_of(meta.length)
            return memoryview(buffers[i])

        # The buffers of a batch are held together: none of them is made of memory that was there just now.
        buffer_of = paged_buffer if len(keys) > 1 else receive_buffer
        found = self._fetch(self._names(keys), [partial(allocate, i) for i in range(len(keys))])
        return [None if meta is None else meta.memory_obj(buffers[i]) for i, meta in enumerate(found)]

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read a chunk from the socket straight into the caller's buffer. See `LMSBackendInterface.get_into`."""
        writable_bytes(buffer, 0)
        faults: list[InvalidBufferError] = []

        def allocate(meta: ChunkMeta) -> memoryview | None:
            try:
                return writable_bytes(buffer, meta.length)[: meta.length]
            except InvalidBufferError as error:
                faults.append(error)
                return None

        (found,) = self._fetch(self._names([key]), [allocate])
        if found is not None and faults:
            raise faults[0]
        return found

    def _fetch(self, names: Sequence[bytes], allocates: Sequence[Allocate]) -> list[ChunkMeta | None]:
        def request(i: int, kind: bytes) -> Request:
            frame = command(b"GET", names[i]) if kind == b"$" else command(b"LRANGE", names[i], b"0", b"-1")
            key = names[i][len(self._prefix) :]
            return Request(names[i], frame, partial(read_chunk, key=key, allocate=allocates[i], kind=kind))

        asked = self._ask([request(i, b"$") for i in range(len(names))])
        # What is no string is a list: a chunk in pieces.
        lists = [i for i, one in enumerate(asked) if isinstance(one.answer, Refusal) and one.answer.code == "WRONGTYPE"]
        if lists:
            for i, one in zip(lists, self._ask([request(i, b"*") for i in lists]), strict=True):
                asked[i] = one
        return [self._seen(one) for one in asked]

    def _seen(self, request: Request) -> ChunkMeta | None:
        answer = request.answer
        if isinstance(answer, ChunkMeta):
            self._count("bytes_read", answer.length)
            return answer
        strange = isinstance(answer, Refusal) and answer.code == "WRONGTYPE"  # a value that nobody here wrote
        if answer is Damaged or strange:
            self._count("corrupt")
        elif answer is not None or request.fault is not None:
            self._count("failures")
        return None

    def _ask(self, requests: list[Request], window: int = WINDOW) -> list[Request]:
        self.nodes.run(requests, repeat=True, window=window)
        if any(request.fault is not None for request in requests):
            self._check()
        return requests

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """Which keys the engine has now: one round trip a node. The bytes are checked when they are read."""
        asked = self._ask([Request(name, command(b"EXISTS", name), _NUMBER) for name in self._names(keys)], LIGHT)
        self._count("failures", sum(one.fault is not None or isinstance(one.answer, Refusal) for one in asked))
        return [one.answer == 1 for one in asked]

    # -- listing -----------------------------------------------------------------------------------------------------

    def list_keys(self) -> List[CacheEngineKey]:
        """Everybody's keys below the prefix, by SCAN of every node.

        Raises
        ------
        StorageUnavailableError
            A node cannot be asked.
        """
        return [CacheEngineKey.from_string(text) for name in self._scanned() if (text := self._text(name)) is not None]

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk with its metadata, of which only the heads are read. See `list_keys` for errors."""
        names = list(self._scanned())
        for i in range(0, len(names), _PAGE):
            page = names[i : i + _PAGE]
            for name, meta in zip(page, self._heads(page), strict=True):
                if meta is not None and (text := self._text(name)) is not None:
                    yield ChunkInfo(CacheEngineKey.from_string(text), meta, self.reserve_bytes(meta.length))

    def _text(self, name: bytes) -> str | None:
        try:
            return name[len(self._prefix) :].decode() or None
        except UnicodeDecodeError:
            return None  # nobody here wrote it

    def _scanned(self) -> Iterator[bytes]:
        self._check()
        seen: set[bytes] = set()
        pattern = re.sub(rb"([\[\]*?\\^-])", rb"\\\1", self._prefix) + b"*"
        for address in self.nodes.primaries():
            cursor = b""
            while cursor != b"0":
                frame = command(b"SCAN", cursor or b"0", b"MATCH", pattern, b"COUNT", b"%d" % _PAGE)
                request = Request(b"", frame, _page, address)
                self._write([request], "")
                cursor, found = request.answer
                fresh = set(found) - seen
                seen |= fresh
                yield from fresh

    def _heads(self, names: Sequence[bytes]) -> list[ChunkMeta | None]:
        ends = [b"%d" % (LEAD + len(name)) for name in names]
        ranges = [command(b"GETRANGE", name, b"0", end) for name, end in zip(names, ends, strict=True)]
        asked = self._ask([Request(name, one) for name, one in zip(names, ranges, strict=True)], LIGHT)
        lists = {i: names[i] for i, one in enumerate(asked) if isinstance(one.answer, Refusal)}
        firsts = self._ask([Request(name, command(b"LINDEX", name, b"0")) for name in lists.values()], LIGHT)
        for i, one in zip(lists, firsts, strict=True):
            asked[i] = one
        heads = [read_head(one.answer) if isinstance(one.answer, bytes) else None for one in asked]
        return [None if head is None else head.meta for head in heads]

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _detail(self) -> dict[str, float]:
        nodes = self.nodes
        figures = (nodes.connects, nodes.redirects, nodes.looks, len(nodes.primaries()))
        return dict(zip(DETAIL, map(float, figures), strict=True))

    def close(self) -> None:
        """Close the connections; the engine and its chunks stay."""
        if os.getpid() == self._pid:
            self.nodes.close()

    @property
    def _closed(self) -> bool:
        return self.nodes.closed

    def _names(self, keys: Sequence[CacheEngineKey]) -> list[bytes]:
        self._check()
        return [self._prefix + key_text(key).encode() for key in keys]


def _page(link: Link) -> Any:
    """The answer to SCAN: where to go on, and keys."""
    page = link.expect(list)
    if isinstance(page, list) and list(map(type, page)) != [bytes, list]:
        raise link.broken("answered a SCAN with something else.")
    return page


def open_backend(location: str, capacity: int | None, options: RedisOptions) -> RedisBackend:
    """A client of the engine at `location`; what it may hold is the engine's business, so `capacity` is the tier's."""
    return RedisBackend(place_of(location, options), options)
