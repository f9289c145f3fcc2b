"""A few connections to one server, shared by threads; after a failed attempt it waits, ever longer, before the next."""

from __future__ import annotations

import random
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from lms_tiers.client.address import Address
from lms_tiers.client.dialect import Dialect
from lms_tiers.client.extended import ExtendedDialect
from lms_tiers.client.link import Link
from lms_tiers.client.plain import PlainDialect
from lms_tiers.errors import BackendClosedError, ProtocolError, StorageUnavailableError
from lms_tiers.messages import ServerReturnCode
from lms_tiers.wire import plain
from lms_tiers.wire.extension import ASKS_MANY, MAX_KEY_BYTES, PINS

_FIRST_DELAY: Final = 0.05
_LAST_DELAY: Final = 5.0


class _Place:
    """One of a pool's places and the connection in it, for the length of a block.

    It is taken while somebody holds this object. So it comes back whatever ends its holder, also an interrupt in the
    middle of giving it back.
    """

    __slots__ = ("__weakref__", "_pool", "_until", "connection")

    def __init__(self, pool: Pool, until: float | None) -> None:
        self._pool, self._until = pool, until
        self.connection: Link | None = None

    def __enter__(self) -> Link:
        try:
            connection = self._pool._take(self, self._until)
        except BaseException:
            self._pool._give_back(self, usable=False)
            raise
        connection.until = self._until
        return connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool._give_back(self, usable=kind is None)


class Pool:
    """Connections, at most `size`, each lent to one thread at a time.

    Parameters
    ----------
    address : Address
    size : int
    connect_timeout, timeout : float
        Seconds.
    tls : ssl.SSLContext or None
    extension : bool
        Whether to ask the server for the extension.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, address: Address, size: int, connect_timeout: float, timeout: float, tls: ssl.SSLContext | None,
        extension: bool, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.address: Final = address
        self._size: Final = size
        self._connect_timeout: Final = connect_timeout
        self._timeout: Final = timeout
        self._tls: Final = tls
        self._extension: Final = extension
        self._clock: Final = clock
        self._free: Final[list[Link]] = []
        self._held: Final[weakref.WeakSet[_Place]] = weakref.WeakSet()
        # Entered itself, not by the condition: an interrupt in the latter's own code would leave it taken.
        self._lock: Final = threading.Lock()
        self._changed: Final = threading.Condition(self._lock)
        self._closed = False
        self._waiting = 0
        self._delay = 0.0
        self._retry_at = float("-inf")
        self._last_fault = ""
        #: The numeric host that was reached last.
        self.peer = ""
        self.connects = 0

    def lend(self, until: float | None = None) -> _Place:
        """A connection for a block; one that the block leaves by an error is closed, not given back.

        Parameters
        ----------
        until : float, optional
            When the block is to be over, in seconds of `time.monotonic`: its calls raise `TimeoutError` then.

        Raises
        ------
        BackendClosedError, StorageUnavailableError
        """
        return _Place(self, until)

    def _take(self, place: _Place, wanted: float | None) -> Link:
        until: float | None = None
        with self._lock:
            while True:
                if self._closed:
                    raise BackendClosedError("the lm:// client")
                while self._free:
                    connection = self._free.pop()
                    if connection.alive:
                        place.connection = connection
                        self._held.add(place)
                        return connection
                    connection.close()
                if len(self._held) < self._size:
                    break
                if until is None:
                    most = self._timeout if wanted is None else min(self._timeout, wanted - time.monotonic())
                    until = self._clock() + most
                left = until - self._clock()
                if left <= 0:
                    raise StorageUnavailableError(str(self.address), "every connection is in use: enlarge the pool.")
                self._waiting += 1
                try:
                    self._changed.wait(left)
                finally:
                    self._waiting -= 1
            if self._clock() < self._retry_at:
                raise StorageUnavailableError(
                    str(self.address), f"not reached lately ({self._last_fault}); retried soon."
                )
            self._held.add(place)
        return self._connect(place, wanted)

    def _connect(self, place: _Place, until: float | None) -> Link:
        try:
            connection = place.connection = self._open(until)
        except OSError as error:
            if until is not None and time.monotonic() >= until:
                raise  # the caller's time was too short: that says nothing of the server
            with self._lock:
                self._last_fault = str(error)
                self._delay = min(_LAST_DELAY, self._delay * 2 or _FIRST_DELAY)
                # Many clients of one server that went away must not all come back in the same moment.
                self._retry_at = self._clock() + self._delay * random.uniform(0.5, 1.0)
            raise StorageUnavailableError(str(self.address), f"cannot be reached: {error}.") from error
        with self._lock:
            self._delay, self._retry_at = 0.0, float("-inf")
            self.peer = connection.peer
            self.connects += 1
            if self._closed:
                raise BackendClosedError("the lm:// client")
        return connection

    def _linked(self, until: float | None) -> Link:
        if until is None:
            return Link(self.address, self._connect_timeout, self._timeout, self._tls)
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        link = Link(self.address, min(self._connect_timeout, left), self._timeout, self._tls, self.peer)
        link.until = until
        return link

    def _open(self, until: float | None) -> Link:
        connection = self._linked(until)
        if not self._extension:
            connection.dialect = PlainDialect(plain.MAX_LENGTH, plain.KEY_BYTES)
            return connection
        try:
            connection.dialect = greet(connection)
        except (ProtocolError, ConnectionError):
            # A server that cannot even answer HEALTH on this key may still serve puts and gets.
            connection.close()
            connection = self._linked(until)
            connection.dialect = PlainDialect(plain.MAX_LENGTH, plain.KEY_BYTES)
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, place: _Place, *, usable: bool) -> None:
        with self._lock:
            self._held.discard(place)
            connection, place.connection = place.connection, None
            if connection is not None and usable and not self._closed:
                self._free.append(connection)
            elif connection is not None:
                connection.close()
            if self._waiting:
                self._changed.notify()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Close every connection; calls that wait on one end with an error. Idempotent."""
        with self._lock:
            self._closed = True
            for connection in self._free:
                connection.close()
            self._free.clear()
            for place in self._held:
                if place.connection is not None:
                    place.connection.abort()
            self._changed.notify_all()


def greet(connection: Link) -> Dialect:
    """Ask which protocol the server speaks.

    Raises
    ------
    OSError, ProtocolError
    """
    connection.send([plain.encode_greeting()])
    reply = plain.decode_reply(connection.read(plain.SERVER_HEADER.size))
    if reply.code == ServerReturnCode.SUCCESS and reply.c == plain.GREETING and reply.d >= 1:
        return ExtendedDialect(reply.e, reply.f or MAX_KEY_BYTES, asks_many=reply.d >= ASKS_MANY, pins=reply.d >= PINS)
    return PlainDialect(plain.MAX_LENGTH, plain.KEY_BYTES)
