"""`RedisBackend`: chunks in a Redis or Valkey. Reads of a sick node are misses and counters; writes are errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from lms_tiers.errors import (
    InvalidBufferError,
    StorageFullError,
    StorageUnavailableError,
)
from lms_tiers.interface import Capabilities
from lms_tiers.messages import ChunkMeta
from lms_tiers.plugins.redis.chunk import LEAD, Damaged, put_answer, put_frame, read_chunk
from lms_tiers.plugins.redis.options import RedisOptions, place_of
from lms_tiers.remote import Found, Ready, RemoteBackend, room_for
from lms_tiers.resp.link import Link, Place, Refusal, command
from lms_tiers.resp.nodes import LIGHT, WINDOW, Nodes, Request
from lms_tiers.wire.buffers import paged_buffer
from lms_tiers.wire.head import head_of

#: Keys that a node is asked to list at one time.
_PAGE: Final = b"1000"

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
            name = self._name(text)
            frame = put_frame(name, text.encode(), meta, body, self._ttl)
            requests.append(Request(name, frame, partial(put_answer, meta=meta, ttl=self._ttl)))
        return self._failures(requests, "put")

    def _remove(self, texts: Sequence[str]) -> Sequence[StorageUnavailableError]:
        return self._failures(self._requests(texts, b"UNLINK", read=_NUMBER), "remove")

    def _failures(self, requests: Sequence[Request], operation: str) -> list[StorageUnavailableError]:
        self.nodes.run(requests, window=WINDOW if operation == "put" else LIGHT)
        return [error for request in requests if (error := self._failure(request, operation)) is not None]

    def _failure(self, request: Request, operation: str) -> StorageUnavailableError | None:
        answer = request.answer
        if request.fault is not None:
            doubtful = operation if request.sent else ""
            return self._error(f"{'no answer came' if doubtful else 'cannot be asked'}: {request.fault}.", doubtful)
        if not isinstance(answer, Refusal):
            return None
        if answer.code == "OOM":
            told = "is full: raise its `maxmemory`, or let it evict (`maxmemory-policy allkeys-lru`)."
            return StorageFullError(self._where, told)
        return self._error(f"refuses: {answer.text}.")

    # -- reading -----------------------------------------------------------------------------------------------------

    def _fetch(self, texts: Sequence[str], buffer: Any) -> list[Found | None]:
        """Each straight from the socket into its buffer; one round trip a node and window of 32."""
        faults: list[InvalidBufferError] = []

        def room(meta: ChunkMeta) -> Any:
            # The buffers of a batch are held together: none of them is made of memory that was there just now.
            if len(texts) > 1:
                return paged_buffer(meta.length)
            try:
                return room_for(meta, buffer)
            except InvalidBufferError as error:
                faults.append(error)
                return None

        def asked(wanted: Sequence[str], kind: bytes) -> list[Request]:
            requests = self._requests(wanted, *((b"GET",) if kind == b"$" else (b"LRANGE", b"0", b"-1")))
            for text, one in zip(wanted, requests, strict=True):
                one.read = partial(read_chunk, key=text.encode(), room=room, kind=kind)
            return self._ask(requests)

        found = asked(texts, b"$")
        # What is no string is a list: a chunk in pieces.
        lists = [i for i, one in enumerate(found) if isinstance(one.answer, Refusal) and one.answer.code == "WRONGTYPE"]
        if lists:
            for i, one in zip(lists, asked([texts[i] for i in lists], b"*"), strict=True):
                found[i] = one
        chunks = [self._seen(one) for one in found]
        if faults and chunks[0] is not None:
            raise faults[0]
        return chunks

    def _seen(self, request: Request) -> Found | None:
        answer = request.answer
        if isinstance(answer, tuple):
            self._count("bytes_read", answer[0].length)
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

    def _there(self, texts: Sequence[str]) -> list[bool]:
        """One round trip a node."""
        asked = self._ask(self._requests(texts, b"EXISTS", read=_NUMBER), LIGHT)
        self._missed(sum(one.fault is not None or isinstance(one.answer, Refusal) for one in asked))
        return [one.answer == 1 for one in asked]

    # -- listing -----------------------------------------------------------------------------------------------------

    def _text(self, name: bytes) -> str | None:
        try:
            return name[len(self._prefix) :].decode() or None
        except UnicodeDecodeError:
            return None  # nobody here wrote it

    def _listed(self) -> Iterator[str]:
        """By SCAN of every node."""
        self._check()
        seen: set[bytes] = set()
        pattern = re.sub(rb"([\[\]*?\\^-])", rb"\\\1", self._prefix) + b"*"
        for address in self.nodes.primaries():
            cursor = b""
            while cursor != b"0":
                frame = command(b"SCAN", cursor or b"0", b"MATCH", pattern, b"COUNT", _PAGE)
                request = Request(b"", frame, _page, address)
                self._raise(self._failures([request], ""))
                cursor, found = request.answer
                fresh = set(found) - seen
                seen |= fresh
                yield from filter(None, map(self._text, fresh))

    def _metas(self, texts: Sequence[str]) -> list[ChunkMeta | None]:
        """Of the heads alone: those of strings, then those of lists."""
        end = LEAD + max(len(text.encode()) for text in texts)
        asked = self._ask(self._requests(texts, b"GETRANGE", b"0", b"%d" % end), LIGHT)
        lists = [i for i, one in enumerate(asked) if isinstance(one.answer, Refusal)]
        firsts = self._ask(self._requests([texts[i] for i in lists], b"LINDEX", b"0"), LIGHT)
        for i, one in zip(lists, firsts, strict=True):
            asked[i] = one
        return [
            head.meta if isinstance(one.answer, bytes) and (head := head_of(text.encode(), one.answer)) else None
            for text, one in zip(texts, asked, strict=True)
        ]

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _detail(self) -> dict[str, float]:
        nodes = self.nodes
        figures = (nodes.connects, nodes.redirects, nodes.looks, len(nodes.primaries()))
        return dict(zip(DETAIL, map(float, figures), strict=True))

    def _end(self) -> None:
        self.nodes.close()

    def _name(self, text: str) -> bytes:
        return self._prefix + text.encode()

    def _requests(
        self, texts: Sequence[str], word: bytes, *rest: bytes, read: Callable[[Link], Any] = Link.reply
    ) -> list[Request]:
        """A command for each key: its word, the name, and the rest."""
        names = map(self._name, texts)
        return [Request(name, command(word, name, *rest), read) for name in names]


def _page(link: Link) -> Any:
    """The answer to SCAN: where to go on, and keys."""
    page = link.expect(list)
    if isinstance(page, list) and list(map(type, page)) != [bytes, list]:
        raise link.broken("answered a SCAN with something else.")
    return page


def open_backend(location: str, capacity: int | None, options: RedisOptions) -> RedisBackend:
    """A client of the engine at `location`; what it may hold is the engine's business, so `capacity` is the tier's."""
    return RedisBackend(place_of(location, options), options)
