"""What a client can say, whatever the server speaks: every request has exactly one answer, so all can be pipelined."""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Final

from lms_tiers.client.connection import Buffer, Connection
from lms_tiers.errors import LmsTiersError
from lms_tiers.messages import ChunkMeta

#: Gives the places for a chunk of this metadata, one after another, or None to have its bytes skipped.
Allocate = Callable[[ChunkMeta], Sequence[memoryview] | None]

#: Key, metadata (None where the list has none) and stored bytes.
Entry = tuple[str, ChunkMeta | None, int]


class Missing(enum.Enum):
    """Why there is no chunk."""

    MISS = enum.auto()
    DAMAGED = enum.auto()
    FAILED = enum.auto()


class Skipped(LmsTiersError):
    """A put that the server did not try, because one before it in its batch failed."""


class Dialect(abc.ABC):
    """Requests as bytes, answers from a connection.

    A reader leaves the connection at the next answer, or raises `OSError` or `ProtocolError`: then nothing more can
    be read from it. Errors of the taxonomy that the server tells are returned by `read_put`, and raised by the others.

    Parameters
    ----------
    max_chunk, max_key : int
        Bytes that the server takes at most.
    asks_many : bool
        Whether the server takes `held`.
    pins : bool
        Whether it takes `pin`.
    """

    extended: ClassVar[bool]

    def __init__(self, max_chunk: int, max_key: int, *, asks_many: bool = False, pins: bool = False) -> None:
        self.max_chunk: Final = max_chunk
        self.max_key: Final = max_key
        self.asks_many: Final = asks_many
        self.pins: Final = pins

    @abc.abstractmethod
    def put(self, key: str, meta: ChunkMeta, data: memoryview, batch: int) -> list[Buffer]:
        """A request to store; within a batch (not 0) nothing is stored after a failure."""

    @abc.abstractmethod
    def read_put(self, connection: Connection, key: str) -> LmsTiersError | None:
        """Why the chunk was not stored, or None."""

    @abc.abstractmethod
    def get(self, key: str, *, checked: bool = False) -> bytes:
        """A request for a chunk; `checked`: whose bytes the server has compared with their checksum before it sends."""

    @abc.abstractmethod
    def read_get(self, connection: Connection, key: str, allocate: Allocate) -> ChunkMeta | Missing:
        """The chunk's metadata, its bytes being where `allocate` wanted them; or why there is none."""

    @abc.abstractmethod
    def exists(self, key: str) -> bytes:
        """A question whether a chunk is held."""

    @abc.abstractmethod
    def read_exists(self, connection: Connection, key: str) -> bool:
        """The answer."""

    @abc.abstractmethod
    def held(self, keys: Sequence[str], *, leading: bool) -> tuple[bytes, bytearray, int]:
        """A question which of `keys` are held: header, body, and how many of them it asks for."""

    @abc.abstractmethod
    def pin(self, keys: Sequence[str], holder: str, milliseconds: int) -> tuple[bytes, bytearray, int]:
        """A request for leases of `keys`, 0 milliseconds to give them back; answered and read as `held`."""

    @abc.abstractmethod
    def read_held(self, connection: Connection, asked: int) -> list[bool]:
        """The answers."""

    @abc.abstractmethod
    def remove(self, key: str) -> bytes:
        """A request to forget a chunk; `UnsupportedError` where the protocol has none."""

    @abc.abstractmethod
    def flush(self, timeout: float | None) -> bytes | None:
        """A request to flush; None where the protocol has none and there is nothing to wait for."""

    @abc.abstractmethod
    def read_done(self, connection: Connection, key: str) -> None:
        """The answer to `remove` and `flush`."""

    @abc.abstractmethod
    def entries(self, *, with_meta: bool) -> list[Buffer]:
        """A request for the list of chunks."""

    @abc.abstractmethod
    def read_entries(self, connection: Connection) -> Iterator[Entry]:
        """The list."""
