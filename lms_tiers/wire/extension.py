"""The extension of the lm:// wire: acknowledged puts, removal, checksums, any key and any metadata.

The client's header has the size of LMCache's, the server's too, so that one loop reads both.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from lms_tiers.errors import FormatError, InvalidChunkError, InvalidKeyError, ProtocolError
from lms_tiers.messages import NAMESPACE_BYTES, ChunkMeta, ServerReturnCode
from lms_tiers.wire.plain import KEY_BYTES, MAX_LENGTH, RETURN_CODES

#: Limits of the variable parts.
MAX_KEY_BYTES: Final = 65535
MAX_META_BYTES: Final = 12 + 8 * 255 + NAMESPACE_BYTES
#: Most bytes of keys in one HELD or PIN.
MAX_ASK_BYTES: Final = 2**20
#: Of a PIN: a client that is gone keeps no chunk for longer.
MAX_PIN_MILLISECONDS: Final = 3_600_000
MAX_HOLDER_BYTES: Final = 1024

#: Argument of a GET.
UNCHECKED: Final = 1

#: Versions of the extension that HELD and PIN came with.
ASKS_MANY: Final = 2
PINS: Final = 3


class XCommand(enum.IntEnum):
    """Requests of the extension; each is answered."""

    PUT = 65
    GET = 66
    EXIST = 67
    LIST = 68
    REMOVE = 69
    FLUSH = 70
    SCAN = 71
    HELD = 72
    PIN = 73


_XCOMMANDS: Final = {command.value: command for command in XCommand}


class XError(enum.IntEnum):
    """Why a request of the extension failed; 0 is a miss."""

    MISS = 0
    INVALID_KEY = 1
    INVALID_CHUNK = 2
    TOO_LARGE = 3
    CAPACITY = 4
    UNAVAILABLE = 5
    UNSUPPORTED = 6
    DEADLINE = 7
    DAMAGED = 8
    SKIPPED = 9
    INTERNAL = 10
    UNKNOWN = 11


class XRequest(NamedTuple):
    """The header of one request of the extension.

    Attributes
    ----------
    command : XCommand
    length : int
        Bytes of chunk that follow key and metadata; of keys, in a HELD or PIN; else 0.
    key_bytes, meta_bytes : int
        In a PIN the key is the holder's name.
    argument : int
        PUT: number of the batch it belongs to, 0 for none. GET: `UNCHECKED` where the bytes may come from a file as
        they lie there, because the client checks them and asks once more. FLUSH: milliseconds, negative for no limit.
        HELD: 1 where only the leading run is wanted. PIN: milliseconds of a lease, 0 to give one back.
    checksum : int
        xxh3_64 of the chunk, or of the keys.
    inline : bytes
        The first 150 bytes of key and metadata.
    """

    command: XCommand
    length: int
    key_bytes: int
    meta_bytes: int
    argument: int
    checksum: int
    inline: bytes

    @property
    def tail_bytes(self) -> int:
        """Bytes of key and metadata that follow the header."""
        return max(0, self.key_bytes + self.meta_bytes - KEY_BYTES)


_XHEADER: Final = struct.Struct(f"<5iQ8x{KEY_BYTES}s")
_XREPLY: Final = struct.Struct("<4iQ12x")


#: The packed form of metadata: the chunks of one model have the same few.
packed: Final = lru_cache(maxsize=4096)(ChunkMeta.pack)


def is_extension(header: bytes | bytearray | memoryview) -> bool:
    """Whether a client header belongs to the extension."""
    return header[0] in _XCOMMANDS and not (header[1] or header[2] or header[3])


def encode_xrequest(
    command: XCommand, key: str = "", meta: ChunkMeta | None = None, *, argument: int = 0, checksum: int = 0,
    length: int = 0,
) -> bytes:  # fmt: skip
    """A request of the extension, key and metadata included; a PUT's chunk follows, or `length` bytes of keys."""
    raw = key.encode()
    both = raw if meta is None else raw + packed(meta)
    if len(raw) > MAX_KEY_BYTES:
        raise InvalidKeyError(key, f"is {len(raw)} bytes long; at most {MAX_KEY_BYTES} are taken.")
    length = length if meta is None else meta.length
    if length > MAX_LENGTH:
        raise InvalidChunkError(key, f"{length} bytes are more than a header can tell.")
    head = _XHEADER.pack(command, length, len(raw), len(both) - len(raw), argument, checksum, both[:KEY_BYTES])
    return head + both[KEY_BYTES:]


def decode_xrequest(header: bytes | bytearray | memoryview) -> XRequest:
    """Read the header of a request of the extension.

    Raises
    ------
    ProtocolError
        Where the next header starts cannot be known any more.
    """
    if len(header) != _XHEADER.size:
        raise ProtocolError("client", f"a header has {_XHEADER.size} bytes, got {len(header)}.")
    number, length, key_bytes, meta_bytes, argument, checksum, inline = _XHEADER.unpack(header)
    command = _XCOMMANDS.get(number)
    if command is None:
        raise ProtocolError("client", f"unknown command {number}.")
    if not 0 <= key_bytes <= MAX_KEY_BYTES or not 0 <= meta_bytes <= MAX_META_BYTES or length < 0:
        raise ProtocolError("client", f"parts of {key_bytes}, {meta_bytes} and {length} bytes.")
    if command is XCommand.HELD and (length > MAX_ASK_BYTES or key_bytes or meta_bytes):
        raise ProtocolError("client", f"HELD with parts of {key_bytes}, {meta_bytes} and {length} bytes.")
    if command is XCommand.PIN and (
        length > MAX_ASK_BYTES
        or key_bytes > MAX_HOLDER_BYTES
        or meta_bytes
        or not 0 <= argument <= MAX_PIN_MILLISECONDS
    ):
        raise ProtocolError("client", f"PIN of {argument} ms with parts of {key_bytes}, {meta_bytes}, {length} bytes.")
    if command not in (XCommand.PUT, XCommand.HELD, XCommand.PIN) and length:
        raise ProtocolError("client", f"{command.name} with a body of {length} bytes.")
    return XRequest(command, length, key_bytes, meta_bytes, argument, checksum, inline)


def decode_xnames(request: XRequest, tail: bytes | bytearray | memoryview) -> tuple[str, ChunkMeta | None]:
    """Key and metadata of a request of the extension, from its header and the bytes after it.

    Raises
    ------
    InvalidKeyError
        Not UTF-8.
    InvalidChunkError
        A PUT without valid metadata.
    """
    both = request.inline[: request.key_bytes + request.meta_bytes] + bytes(tail)
    raw = both[: request.key_bytes]
    try:
        key = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidKeyError(ascii(raw), f"is not UTF-8: {error.reason}.") from None
    if request.command is not XCommand.PUT:
        return key, None
    try:
        meta, used = ChunkMeta.unpack(both[request.key_bytes :])
    except FormatError:
        raise InvalidChunkError(key, "its metadata are damaged.") from None
    if used != request.meta_bytes or meta.length != request.length or min(meta.shape, default=0) < 0:
        raise InvalidChunkError(key, "its metadata do not belong to its bytes.")
    return key, meta


def encode_xreply(
    code: ServerReturnCode, length: int = 0, *, meta: bytes = b"", error: int = 0, checksum: int = 0
) -> bytes:
    """The answer to a request of the extension, metadata included; `length` bytes follow."""
    return _XREPLY.pack(code, length, len(meta), error, checksum) + meta


class XReply(NamedTuple):
    """The header of an answer of the extension; `meta_bytes` of metadata and `length` bytes follow."""

    code: int
    length: int
    meta_bytes: int
    error: int
    checksum: int


def decode_xreply(header: bytes | bytearray | memoryview) -> XReply:
    """Read the header of an answer of the extension.

    Raises
    ------
    ProtocolError
        Wrong size, unknown code, or a part's size that cannot be.
    """
    if len(header) != _XREPLY.size:
        raise ProtocolError("server", f"a header has {_XREPLY.size} bytes, got {len(header)}.")
    reply = XReply(*_XREPLY.unpack(header))
    if reply.code not in RETURN_CODES:
        raise ProtocolError("server", f"unknown code {reply.code}.")
    if reply.length < 0:
        raise ProtocolError("server", f"a body of {reply.length} bytes.")
    if not 0 <= reply.meta_bytes <= MAX_META_BYTES:
        raise ProtocolError("server", f"metadata of {reply.meta_bytes} bytes.")
    return reply


_ENTRY: Final = struct.Struct("<IIQ")


def encode_entries(entries: Iterable[tuple[str, bytes, int]]) -> bytearray:
    """The body of LIST and SCAN: key, packed metadata (empty in a LIST) and stored bytes of each chunk."""
    out = bytearray()
    for key, meta, stored in entries:
        raw = key.encode()
        out += _ENTRY.pack(len(raw), len(meta), stored)
        out += raw
        out += meta
    return out


def decode_entries(body: bytes | bytearray) -> Iterator[tuple[str, ChunkMeta | None, int]]:
    """Read the body of LIST and SCAN.

    Raises
    ------
    ProtocolError
        The body ends within an entry, or holds a key or metadata that cannot be read.
    """
    at = 0
    while at < len(body):
        try:
            key_bytes, meta_bytes, stored = _ENTRY.unpack_from(body, at)
            at += _ENTRY.size
            end = at + key_bytes + meta_bytes
            if end > len(body):
                raise ProtocolError("server", "a list that ends within an entry.")
            key = bytes(body[at : at + key_bytes]).decode()
            meta = ChunkMeta.unpack(bytes(body[at + key_bytes : end]))[0] if meta_bytes else None
        except (struct.error, UnicodeDecodeError, FormatError) as error:
            raise ProtocolError("server", f"a list that cannot be read: {error}.") from None
        yield key, meta, stored
        at = end
