"""LMCache's protocol as its server speaks it. A PUT has no answer there, so an EXIST follows each one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

from lms_tiers.client.connection import Buffer, Connection
from lms_tiers.client.dialect import Allocate, Dialect, Entry, Missing
from lms_tiers.errors import LmsTiersError, StorageUnavailableError, UnsupportedError
from lms_tiers.messages import ChunkMeta, ClientCommand, ServerReturnCode
from lms_tiers.wire import plain

#: A key that nobody stores: its EXIST answers FAIL, which tells a missing LIST answer from an empty list.
_ABSENT: Final = "lms-tiers.absent@1@0@0@half"


class PlainDialect(Dialect):
    """Requests and answers of LMCache's protocol."""

    extended: ClassVar[bool] = False

    def put(self, key: str, meta: ChunkMeta, data: memoryview, batch: int) -> list[Buffer]:
        """See `Dialect`; a batch goes on after a failure, which this protocol cannot tell in time."""
        head = plain.encode_request(ClientCommand.PUT, key, meta)
        return [head, data, plain.encode_request(ClientCommand.EXIST, key)]

    def read_put(self, connection: Connection, key: str) -> LmsTiersError | None:
        """See `Dialect`."""
        if self.read_exists(connection, key):
            return None
        return StorageUnavailableError(
            str(connection.address), f"the server did not keep {key!r}; its log may say why."
        )

    def get(self, key: str, *, checked: bool = False) -> bytes:
        """See `Dialect`; this protocol checks nothing."""
        return plain.encode_request(ClientCommand.GET, key)

    def read_get(self, connection: Connection, key: str, allocate: Allocate) -> ChunkMeta | Missing:
        """See `Dialect`."""
        reply = plain.decode_reply(connection.read(plain.SERVER_HEADER.size))
        if reply.code != ServerReturnCode.SUCCESS:
            return Missing.MISS
        meta = plain.reply_meta(reply)
        connection.acknowledge(meta.length)
        places = allocate(meta)
        if places is None:
            connection.skip(meta.length)
        for place in places or ():
            connection.read_into(place)
        return meta

    def exists(self, key: str) -> bytes:
        """See `Dialect`."""
        return plain.encode_request(ClientCommand.EXIST, key)

    def read_exists(self, connection: Connection, key: str) -> bool:
        """See `Dialect`."""
        reply = plain.decode_reply(connection.read(plain.SERVER_HEADER.size))
        if reply.length:
            raise connection.broken("an answer to EXIST with a body.")
        return reply.code == ServerReturnCode.SUCCESS

    def held(self, keys: Sequence[str], *, leading: bool) -> tuple[bytes, bytearray, int]:
        """Not in this protocol."""
        raise UnsupportedError("LMCache's lm:// server", "contains_many")

    def pin(self, keys: Sequence[str], holder: str, milliseconds: int) -> tuple[bytes, bytearray, int]:
        """Not in this protocol."""
        raise UnsupportedError("LMCache's lm:// server", "pin_each")

    def read_held(self, connection: Connection, asked: int) -> list[bool]:
        """Not in this protocol."""
        raise UnsupportedError("LMCache's lm:// server", "contains_many")

    def remove(self, key: str) -> bytes:
        """Not in this protocol."""
        raise UnsupportedError("LMCache's lm:// server", "remove")

    def flush(self, timeout: float | None) -> bytes | None:
        """Nothing to wait for: each put was confirmed, and the server keeps memory only."""
        return None

    def read_done(self, connection: Connection, key: str) -> None:
        """Not in this protocol."""
        raise UnsupportedError("LMCache's lm:// server", "remove")

    def entries(self, *, with_meta: bool) -> list[Buffer]:
        """See `Dialect`."""
        return [plain.encode_request(ClientCommand.LIST, _ABSENT), plain.encode_request(ClientCommand.EXIST, _ABSENT)]

    def read_entries(self, connection: Connection) -> Iterator[Entry]:
        """See `Dialect`; `UnsupportedError` where the server leaves LIST unanswered, as LMCache's does."""
        reply = plain.decode_reply(connection.read(plain.SERVER_HEADER.size))
        if reply.code != ServerReturnCode.SUCCESS:
            raise UnsupportedError("LMCache's lm:// server", "list_keys")
        body = connection.read(reply.length)
        self.read_exists(connection, _ABSENT)
        for text in body.decode(errors="strict").split("\n") if body else ():
            yield text, None, 0
