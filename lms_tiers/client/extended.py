"""The extension: acknowledged puts, checksums, removal, flush, and errors that come back as what they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final

import xxhash

from lms_tiers.client.connection import Buffer, Connection
from lms_tiers.client.dialect import Allocate, Dialect, Entry, Missing, Skipped
from lms_tiers.errors import (
    CapacityError,
    DeadlineExceededError,
    FormatError,
    InvalidChunkError,
    InvalidKeyError,
    LmsTiersError,
    OutcomeUnknownError,
    StorageUnavailableError,
    UnsupportedError,
    ValueTooLargeError,
)
from lms_tiers.messages import ChunkMeta, ServerReturnCode
from lms_tiers.wire import extension
from lms_tiers.wire.extension import MAX_ASK_BYTES, UNCHECKED, XCommand, XError, XReply
from lms_tiers.wire.held import decode_bits, encode_held, encode_pin
from lms_tiers.wire.plain import SERVER_HEADER

_Told = dict[str, Any]
_MAX_ERROR_BYTES: Final = 2**20
#: A chunk that is still in the processor's cache when it is there.
_SHORT: Final = 64 * 1024

_ERRORS: Final[dict[int, Callable[[str, str, _Told], LmsTiersError]]] = {
    XError.INVALID_KEY: lambda where, key, told: InvalidKeyError(key, str(told.get("reason", told["message"]))),
    XError.INVALID_CHUNK: lambda where, key, told: InvalidChunkError(key, str(told.get("reason", told["message"]))),
    XError.TOO_LARGE: lambda where, key, told: ValueTooLargeError(key, int(told["size"]), int(told["limit"]), where),
    XError.CAPACITY: lambda where, key, told: CapacityError(where, int(told["needed"]), int(told["free"])),
    XError.UNSUPPORTED: lambda where, key, told: UnsupportedError(where, str(told["operation"])),
    XError.UNKNOWN: lambda where, key, told: OutcomeUnknownError(where, str(told["operation"]), str(told["message"])),
    XError.DEADLINE: lambda where, key, told: DeadlineExceededError(str(told["operation"]), float(told["seconds"])),
}


class ExtendedDialect(Dialect):
    """Requests and answers of the extension."""

    extended: ClassVar[bool] = True

    def put(self, key: str, meta: ChunkMeta, data: memoryview, batch: int) -> list[Buffer]:
        """See `Dialect`."""
        checksum = xxhash.xxh3_64_intdigest(data)
        return [extension.encode_xrequest(XCommand.PUT, key, meta, argument=batch, checksum=checksum), data]

    def read_put(self, connection: Connection, key: str) -> LmsTiersError | None:
        """See `Dialect`."""
        reply = _read_header(connection)
        return None if reply.code == ServerReturnCode.SUCCESS else _read_error(connection, reply, key)

    def get(self, key: str, *, checked: bool = False) -> bytes:
        """See `Dialect`."""
        return extension.encode_xrequest(XCommand.GET, key, argument=0 if checked else UNCHECKED)

    def read_get(self, connection: Connection, key: str, allocate: Allocate) -> ChunkMeta | Missing:
        """See `Dialect`; bytes whose checksum is wrong are `DAMAGED`."""
        reply = _read_header(connection)
        if reply.code != ServerReturnCode.SUCCESS:
            if reply.error == XError.MISS:
                return Missing.MISS
            error = _read_error(connection, reply, key)
            if isinstance(error, InvalidKeyError):
                raise error
            return Missing.FAILED
        try:
            meta, used = ChunkMeta.unpack(connection.read(reply.meta_bytes))
        except FormatError:
            raise connection.broken("metadata that cannot be read.") from None
        if used != reply.meta_bytes or meta.length != reply.length:
            raise connection.broken("metadata that do not belong to their bytes.")
        places = allocate(meta)
        if places is None:
            connection.skip(meta.length)
            return meta
        if len(places) == 1 and meta.length <= _SHORT:
            connection.read_into(places[0])
            checksum = xxhash.xxh3_64_intdigest(places[0])
        else:
            digest = xxhash.xxh3_64()
            for place in places:
                connection.read_into(place, digest)
            checksum = digest.intdigest()
        return meta if checksum == reply.checksum else Missing.DAMAGED

    def exists(self, key: str) -> bytes:
        """See `Dialect`."""
        return extension.encode_xrequest(XCommand.EXIST, key)

    def read_exists(self, connection: Connection, key: str) -> bool:
        """See `Dialect`."""
        reply = _read_header(connection)
        if reply.code == ServerReturnCode.SUCCESS:
            return True
        if reply.error == XError.MISS:
            return False
        raise _read_error(connection, reply, key)

    def held(self, keys: Sequence[str], *, leading: bool) -> tuple[bytes, bytearray, int]:
        """See `Dialect`."""
        return encode_held(keys, leading=leading)

    def pin(self, keys: Sequence[str], holder: str, milliseconds: int) -> tuple[bytes, bytearray, int]:
        """See `Dialect`."""
        return encode_pin(keys, holder=holder, milliseconds=milliseconds)

    def read_held(self, connection: Connection, asked: int) -> list[bool]:
        """See `Dialect`."""
        reply = _read_header(connection)
        if reply.code != ServerReturnCode.SUCCESS:
            raise _read_error(connection, reply, "")
        if reply.length > MAX_ASK_BYTES:
            raise connection.broken(f"answers of {reply.length} bytes.")
        return decode_bits(connection.read(reply.length), asked)

    def remove(self, key: str) -> bytes:
        """See `Dialect`."""
        return extension.encode_xrequest(XCommand.REMOVE, key)

    def flush(self, timeout: float | None) -> bytes | None:
        """See `Dialect`."""
        return extension.encode_xrequest(XCommand.FLUSH, argument=-1 if timeout is None else int(timeout * 1000))

    def read_done(self, connection: Connection, key: str) -> None:
        """See `Dialect`."""
        reply = _read_header(connection)
        if reply.code != ServerReturnCode.SUCCESS:
            raise _read_error(connection, reply, key)

    def entries(self, *, with_meta: bool) -> list[Buffer]:
        """See `Dialect`."""
        return [extension.encode_xrequest(XCommand.SCAN if with_meta else XCommand.LIST)]

    def read_entries(self, connection: Connection) -> Iterator[Entry]:
        """See `Dialect`."""
        reply = _read_header(connection)
        if reply.code != ServerReturnCode.SUCCESS:
            raise _read_error(connection, reply, "")
        yield from extension.decode_entries(connection.read(reply.length))


def _read_header(connection: Connection) -> XReply:
    return extension.decode_xreply(connection.read(SERVER_HEADER.size))


def _read_error(connection: Connection, reply: XReply, key: str) -> LmsTiersError:
    if reply.length > _MAX_ERROR_BYTES:
        raise connection.broken(f"an error of {reply.length} bytes.")
    body = connection.read(reply.length)
    where = str(connection.address)
    if reply.error == XError.SKIPPED:
        return Skipped("skipped")
    if reply.error == XError.DAMAGED:
        return StorageUnavailableError(where, f"the bytes of {key!r} were damaged on their way.")
    try:
        told = json.loads(body)
        make = _ERRORS.get(reply.error)
        if make is not None:
            return make(where, key, told)
        reason = str(told["message"])
    except (ValueError, KeyError, TypeError):
        raise connection.broken("an error that cannot be read.") from None
    return StorageUnavailableError(where, f"the server failed: {reason}")
