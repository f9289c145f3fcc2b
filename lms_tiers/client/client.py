"""`Client`: a remote lm:// server as a backend. Reads of a sick server are misses and counters; writes are errors."""

from __future__ import annotations

import contextlib
import itertools
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, Final, List, Optional

from lms_tiers.buffers import writable_bytes
from lms_tiers.client.address import Address
from lms_tiers.client.calls import Calls
from lms_tiers.client.connection import Buffer
from lms_tiers.client.dialect import Allocate, Missing, Skipped
from lms_tiers.client.into import Fresh, Into
from lms_tiers.client.link import Item, Leases, Link, ask, fetch, item_of, pipeline
from lms_tiers.client.pool import Pool
from lms_tiers.errors import (
    LmsTiersError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.request import RequestContext
from lms_tiers.wire.extension import MAX_KEY_BYTES
from lms_tiers.wire.plain import KEY_BYTES, MAX_LENGTH


class Client(LMSBackendInterface):
    """A client of one lm:// server, usable from many threads.

    With this project's server every operation of the contract works. With LMCache's own server `remove` and
    `list_keys` are unsupported, and keys and metadata must fit its header.

    Parameters
    ----------
    url : str
        ``lm://host:port``, ``host:port`` or ``lm+unix:///path``.
    timeout : float
        Seconds without progress after which a request fails.
    connect_timeout : float
        Seconds in which a connection must be made.
    connections : int
        Most connections at one time.
    tls : ssl.SSLContext, optional
        For a server with TLS.
    extension : bool
        False speaks LMCache's protocol even with this project's server.
    lazy : bool
        True opens even when the server cannot be reached now.

    Raises
    ------
    ConfigError
        `url` is not an address.
    StorageUnavailableError
        The server cannot be reached, unless `lazy`.
    """

    #: What this project's server offers. The place of a client is its server: what was flushed is there again after
    #: connecting again, also after this process crashed (`persistent`), unless the server let it go (`evicts`); others
    #: write there too (`shared`). Whether it outlives the server's own end is for the server's device to say. An open
    #: client declares the server's limits.
    capabilities: ClassVar[Capabilities] = Capabilities(
        remove=True, persistent=True, evicts=True, shared=True, max_key_bytes=MAX_KEY_BYTES, max_value_bytes=MAX_LENGTH
    )

    def __init__(
        self, url: str, *, timeout: float = 5.0, connect_timeout: float = 1.0, connections: int = 4,
        tls: ssl.SSLContext | None = None, extension: bool = True, lazy: bool = False,
    ) -> None:  # fmt: skip
        self._address: Final = Address.parse(url)
        self._pool: Final = Pool(self._address, connections, connect_timeout, timeout, tls, extension)
        self._calls: Final = Calls(self._pool)
        self._batches: Final = itertools.count(1)
        self._leases: Final = Leases()
        offered = type(self).capabilities
        if not lazy:
            try:
                with self._pool.lend() as connection:
                    takes = connection.dialect
                    extension = takes.extended
                    offered = replace(offered, max_key_bytes=takes.max_key, max_value_bytes=takes.max_chunk)
            except BaseException:
                self._pool.close()
                raise
        if not extension:
            offered = Capabilities(
                evicts=True, shared=True, batch_stops=False, max_key_bytes=KEY_BYTES, max_value_bytes=MAX_LENGTH
            )
        # What a server offers is known only now.
        object.__setattr__(self, "capabilities", offered)

    # -- the five methods ----------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk; returns when the server has it. See `LMSBackendInterface.put`.

        Raises
        ------
        OutcomeUnknownError
            The connection was lost, or no answer came in time: the server may have the chunk, or get it still.
        """
        self._calls.check()
        key, meta, data = item_of(client_meta, kv_chunk_bytes)

        def put(connection: Link) -> LmsTiersError | None:
            try:
                frame = self._frame(connection, key, meta, data, 0)
            except LmsTiersError as error:
                return error
            connection.send(frame)
            return connection.dialect.read_put(connection, key)

        failure = self._calls.write(put, "put")
        if failure is not None:
            raise failure
        self._calls.count("bytes_written", meta.length)

    def contains(self, key: CacheEngineKey) -> bool:
        """Whether the server holds the key; False where it cannot be asked."""
        return self.contains_prefix([key]) == 1

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk; None where the server has none, cannot be asked, or its bytes arrived damaged."""
        self._calls.check()
        fresh = Fresh()
        meta = self._chunk(key_text(key, MAX_KEY_BYTES), fresh)
        return None if meta is None else meta.memory_obj(fresh.data)

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key of the server, whoever stored it.

        Raises
        ------
        UnsupportedError
            LMCache's server does not answer this.
        StorageUnavailableError, BackendClosedError
        """
        return [CacheEngineKey.from_string(text) for text, _, _ in self._entries(with_meta=False)]

    def close(self) -> None:
        """Close the connections; the server and its chunks stay."""
        self._calls.close()

    # -- what this backend does better than the defaults ---------------------------------------------------------

    def remove(self, key: CacheEngineKey) -> None:
        """Forget the key on the server; `UnsupportedError` with LMCache's own."""
        self.remove_many([key])

    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Forget the keys, the requests all on their way at one time; see `put` for what cannot be known."""
        self._calls.check()
        texts = [key_text(key, MAX_KEY_BYTES) for key in keys]

        def remove(connection: Link) -> None:
            dialect = connection.dialect
            frames: list[list[Buffer]] = [[dialect.remove(text)] for text in texts]
            for _ in pipeline(connection, frames, lambda i: dialect.read_done(connection, texts[i])):
                pass

        self._calls.write(remove, "remove")

    def put_many(
        self, items: Sequence[tuple[ClientMetaMessage, bytearray]], *, context: RequestContext | None = None
    ) -> None:
        """Put in order, many on their way at one time; after a failure the server skips the rest.

        A `context` is taken, as a store's batch calls take it, and not sent: the wire has no place for it.
        """
        self._calls.check()
        ready: list[Item] = []
        late: LmsTiersError | None = None
        for client_meta, data in items:
            try:
                ready.append(item_of(client_meta, data))
            except LmsTiersError as error:
                late = error
                break
        failure = self._calls.write(lambda connection: self._put(connection, ready), "put") or late
        if failure is not None:
            raise failure

    def _put(self, connection: Link, items: Sequence[Item]) -> LmsTiersError | None:
        """Why the first item that failed did; the items before it are stored, those after it are not."""
        dialect = connection.dialect
        batch = next(self._batches) % 2**31 if len(items) > 1 else 0
        frames: list[list[Buffer]] = []
        late: LmsTiersError | None = None
        for key, meta, data in items:
            try:
                frames.append(self._frame(connection, key, meta, data, batch))
            except LmsTiersError as error:
                late = error
                break
        answers = list(pipeline(connection, frames, lambda i: dialect.read_put(connection, items[i][0])))
        stored = sum(items[i][1].length for i, answer in enumerate(answers) if answer is None)
        self._calls.count("bytes_written", stored)
        return next((a for a in answers if a is not None and not isinstance(a, Skipped)), late)

    def _frame(self, connection: Link, key: str, meta: ChunkMeta, data: memoryview, batch: int) -> list[Buffer]:
        dialect = connection.dialect
        if meta.length > dialect.max_chunk:
            raise ValueTooLargeError(key, meta.length, dialect.max_chunk, str(self._address))
        return dialect.put(key, meta, data, batch)

    def get_many(
        self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None
    ) -> list[LMSMemoryObj | None]:
        """The chunks in order, the requests all on their way at one time."""
        self._calls.check()
        wanted = [(key_text(key, MAX_KEY_BYTES), Fresh()) for key in keys]
        found = self._chunks(wanted)
        return [
            None if meta is None else meta.memory_obj(fresh.data)
            for meta, (_, fresh) in zip(found, wanted, strict=True)
        ]  # fmt: skip

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read a chunk from the socket straight into the caller's buffer. See `LMSBackendInterface.get_into`."""
        self._calls.check()
        into = Into((buffer,))
        writable_bytes(buffer, 0)
        found = self._chunk(key_text(key, MAX_KEY_BYTES), into)
        if into.fault is not None:
            raise into.fault
        return found

    def get_many_into(
        self, requests: Iterable[tuple[CacheEngineKey, Sequence[Any]]], *,
        expected: Sequence[ChunkMeta | None] | None = None, spoiled: set[int] | None = None,
    ) -> list[ChunkMeta | None]:  # fmt: skip
        """Read chunks from the socket straight into their buffers, the requests all on their way at one time."""
        self._calls.check()
        wanted = [
            (key_text(key, MAX_KEY_BYTES), Into(buffers, expected[i] if expected else None))
            for i, (key, buffers) in enumerate(requests)
        ]
        found = self._chunks(wanted)
        if spoiled is not None:
            spoiled.update(i for i, (_, into) in enumerate(wanted) if into.lent and found[i] is None)
        return [meta if into.lent else None for meta, (_, into) in zip(found, wanted, strict=True)]

    def _chunk(self, text: str, place: Allocate) -> ChunkMeta | None:
        """One chunk, in the place that is allocated for it."""
        tries = itertools.count()

        def get(connection: Link) -> ChunkMeta | Missing:
            # After a lost connection as after damage: the server may have hung up within a file.
            return fetch(connection, text, place, checked=next(tries) > 0)

        return self._seen(self._calls.read(get, Missing.MISS))

    def _chunks(self, wanted: Sequence[tuple[str, Allocate]]) -> list[ChunkMeta | None]:
        """Chunks in the places that are allocated for each, the requests all on their way at one time; see `fetch`."""
        answers: list[ChunkMeta | Missing] = []
        tries = itertools.count()
        checked: set[int] = set()

        def get(connection: Link) -> None:
            # After a lost connection the next one goes on where the answers ended.
            dialect, begin, careful = connection.dialect, len(answers), next(tries) > 0
            frames: list[list[Buffer]] = [[dialect.get(text, checked=careful)] for text, _ in wanted[begin:]]
            answers.extend(pipeline(connection, frames, lambda i: dialect.read_get(connection, *wanted[begin + i])))
            for i, answer in enumerate(answers):
                if answer is Missing.DAMAGED and i not in checked:
                    checked.add(i)
                    answers[i] = fetch(connection, *wanted[i], checked=True)

        self._calls.read(get, None)
        answers += [Missing.MISS] * (len(wanted) - len(answers))
        return list(map(self._seen, answers))

    def _seen(self, answer: ChunkMeta | Missing) -> ChunkMeta | None:
        if isinstance(answer, ChunkMeta):
            self._calls.count("bytes_read", answer.length)
            return answer
        if answer is not Missing.MISS:
            self._calls.count("corrupt" if answer is Missing.DAMAGED else "failures")
        return None

    def contains_prefix(self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None) -> int:
        """Length of the leading run the server holds; one round trip to a server of ours."""
        answers = self._ask(keys, leading=True)
        return answers.index(False) if False in answers else len(answers)

    def contains_many(self, keys: Sequence[CacheEngineKey], *, context: RequestContext | None = None) -> list[bool]:
        """Which keys the server holds; one round trip to a server of ours. False where it cannot be asked."""
        answers = self._ask(keys, leading=False)
        return answers + [False] * (len(keys) - len(answers))

    def _ask(self, keys: Sequence[CacheEngineKey], *, leading: bool) -> list[bool]:
        self._calls.check()
        texts = [key_text(key, MAX_KEY_BYTES) for key in keys]
        answers: list[bool] = []
        # After a lost connection the next one goes on where the answers ended.
        self._calls.read(lambda connection: ask(connection, texts, answers, leading=leading), None)
        return answers

    def pin_each(self, keys: Sequence[CacheEngineKey], seconds: float, *, holder: str | int = "") -> list[bool]:
        """Keep each of `keys` that is present, as `TieredStore.pin_each`: an hour at most, by a holder of this client.

        False too where the server cannot be asked; a lease that it gave all the same ends by its time.

        Raises
        ------
        ConfigError, InvalidKeyError, UnsupportedError
            The last one where the server, or its storage, keeps no leases.
        """
        return self._lease(keys, holder, self._leases.milliseconds(seconds))

    def unpin_each(self, keys: Sequence[CacheEngineKey], *, holder: str | int = "") -> list[bool]:
        """Give back one lease of each of `keys`; answers of which `holder` had one. See `pin_each`."""
        return self._lease(keys, holder, 0)

    def _lease(self, keys: Sequence[CacheEngineKey], holder: str | int, milliseconds: int) -> list[bool]:
        self._calls.check()
        texts = [key_text(key, MAX_KEY_BYTES) for key in keys]
        name = self._leases.holder(holder)
        answers: list[bool] = []
        with contextlib.suppress(StorageUnavailableError):  # asked once: twice could be two leases
            self._calls.write(lambda connection: self._leases.ask(connection, texts, name, milliseconds, answers))
        return answers + [False] * (len(texts) - len(answers))

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk of the server with its metadata, in one answer; its length for what it takes.

        What it takes there, in one tier or several, encoded or not, is in its server's figures.
        """
        if not self.capabilities.remove:
            yield from super().scan()
            return
        for text, meta, _ in self._entries(with_meta=True):
            if meta is not None:
                yield ChunkInfo(CacheEngineKey.from_string(text), meta, self.reserve_bytes(meta.length))

    def _entries(self, *, with_meta: bool) -> list[tuple[str, ChunkMeta | None, int]]:
        self._calls.check()

        def ask(connection: Link) -> list[tuple[str, ChunkMeta | None, int]]:
            connection.send(connection.dialect.entries(with_meta=with_meta))
            return list(connection.dialect.read_entries(connection))

        return self._calls.write(ask)

    def flush(self, timeout: float | None = None) -> None:
        """Let the server flush its storage; with LMCache's own there is nothing to wait for."""
        self._calls.check()

        def flush(connection: Link) -> None:
            frame = connection.dialect.flush(timeout)
            if frame is not None:
                connection.send([frame])
                connection.dialect.read_done(connection, "")

        self._calls.write(flush)

    def stats(self) -> BackendStats:
        """Counters of this client; it asks the server nothing."""
        self._calls.check()
        counts = self._calls.counts()
        return BackendStats(
            bytes_written=counts.get("bytes_written", 0), bytes_read=counts.get("bytes_read", 0),
            failures=counts.get("failures", 0), corrupt=counts.get("corrupt", 0),
            detail={"connects": float(self._pool.connects)},
        )  # fmt: skip

    def within(self, seconds: float) -> AbstractContextManager[None] | None:
        """See `LMSBackendInterface.within`; None before the server was reached: its name may have to be looked up."""
        return self._calls.within(seconds)
