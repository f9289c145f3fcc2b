"""LMCache's own headers (0.3.3 to 0.5.6): what its clients send and expect, byte for byte."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from lms_tiers.errors import InvalidChunkError, InvalidKeyError, ProtocolError
from lms_tiers.messages import ChunkMeta, ClientCommand, MemoryFormat, ServerReturnCode

KEY_BYTES: Final = 150
CLIENT_HEADER: Final = struct.Struct(f"<9i{KEY_BYTES}s")
SERVER_HEADER: Final = struct.Struct("<9i")
MAX_LENGTH: Final = 2**31 - 1

#: dtype names by wire number; LMCache reads 1 and 2 as float16 and writes 2.
_DTYPES: Final = (
    None, "float16", "float16", "bfloat16", "float32", "float64", "uint8", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
_DTYPE_CODES: Final = {name: code for code, name in enumerate(_DTYPES)}
_WHOLE_SHAPE: Final = (MemoryFormat.BINARY, MemoryFormat.BINARY_BUFFER)
_LOCATIONS: Final = range(3)

#: "LMST" in the first dimension of a HEALTH request asks for the extension; LMCache's server ignores it.
GREETING: Final = int.from_bytes(b"LMST", "little")
#: The newest version of the extension: 2 asks for many keys at one time (`XCommand.HELD`).
EXTENSION: Final = 3
#: A key that LMCache's server can parse, so that a greeting does not end its connection.
GREETING_KEY: Final = "lms-tiers@1@0@0@half"

#: Of answers of either protocol.
RETURN_CODES: Final = frozenset(int(code) for code in ServerReturnCode)
_COMMANDS: Final = {command.value: command for command in ClientCommand}


class Request(NamedTuple):
    """One plain request.

    Attributes
    ----------
    command : ClientCommand
    length : int
        Bytes of body that follow; 0 unless a PUT.
    key : str or None
        None where the key field holds no usable key.
    meta : ChunkMeta or None
        Of a PUT; None where a field has no meaning.
    fault : str
        Why `key` or `meta` is None.
    greeting : bool
        Whether the client asks for the extension.
    """

    command: ClientCommand
    length: int
    key: str | None
    meta: ChunkMeta | None
    fault: str
    greeting: bool


class Reply(NamedTuple):
    """One server header, undecoded: the nine integers in order."""

    code: int
    length: int
    a: int
    b: int
    c: int
    d: int
    e: int
    f: int
    g: int


def decode_request(header: bytes | bytearray | memoryview) -> Request:
    """Read a plain client header.

    Raises
    ------
    ProtocolError
        Where the next header starts cannot be known any more: wrong size, unknown command, negative length.
    """
    if len(header) != CLIENT_HEADER.size:
        raise ProtocolError("client", f"a header has {CLIENT_HEADER.size} bytes, got {len(header)}.")
    number, length, fmt, dtype, location, s0, s1, s2, s3, raw = CLIENT_HEADER.unpack(header)
    command = _COMMANDS.get(number)
    if command is None:
        raise ProtocolError("client", f"unknown command {number}.")
    fault = ""
    key: str | None = None
    try:
        key = decode_key(raw)
    except InvalidKeyError as error:
        fault = error.reason
    if command is not ClientCommand.PUT:
        return Request(command, 0, key, None, fault, s0 == GREETING and command is ClientCommand.HEALTH)
    if length < 0:
        raise ProtocolError("client", f"a PUT of {length} bytes.")
    meta = _meta(length, fmt, dtype, location, (s0, s1, s2, s3))
    if isinstance(meta, str):
        return Request(command, length, key, None, fault or meta, False)
    return Request(command, length, key, meta, fault, False)


def decode_key(raw: bytes) -> str:
    """The key of a 150-byte key field: UTF-8 without the trailing blanks.

    Raises
    ------
    InvalidKeyError
        Empty, not UTF-8, or full to the last byte and not ASCII: LMCache's client counts characters and cuts bytes,
        so such a field may be the common head of several keys.
    """
    text = raw.rstrip(b" ")
    try:
        key = text.decode()
    except UnicodeDecodeError as error:
        raise InvalidKeyError(ascii(text), f"is not UTF-8: {error.reason}.") from None
    if not key:
        raise InvalidKeyError(key, "is empty.")
    if len(text) == KEY_BYTES and not key.isascii():
        raise InvalidKeyError(key, "fills its field and may have been cut.")
    return key


@lru_cache(maxsize=4096)
def _meta(length: int, fmt: int, dtype: int, location: int, dims: tuple[int, ...]) -> ChunkMeta | str:
    if not 0 <= dtype < len(_DTYPES):
        return f"unknown dtype {dtype}."
    try:
        layout = MemoryFormat(fmt)
    except ValueError:
        return f"unknown format {fmt}."
    if location not in _LOCATIONS:
        return f"unknown location {location}."
    if min(dims) < 0:
        return f"negative dimension in {dims}."
    if layout not in _WHOLE_SHAPE:
        end = 4
        while end > 1 and dims[end - 1] == 0:
            end -= 1
        dims = dims[:end]
    return ChunkMeta(length, layout, _DTYPES[dtype], dims)


def encode_request(command: ClientCommand, key: str, meta: ChunkMeta | None = None) -> bytes:
    """A plain client header, as LMCache's own client writes it.

    Raises
    ------
    InvalidKeyError
        The field cannot hold the key: more than 150 bytes, or blanks at its end.
    InvalidChunkError
        LMCache's header cannot hold the metadata.
    """
    length, fmt, dtype, dims = (0, 1, 2, (0, 0, 0, 0)) if meta is None else _plain_fields(key, meta)
    return CLIENT_HEADER.pack(command, length, fmt, dtype, 0, *dims, encode_key(key))


def encode_greeting() -> bytes:
    """A HEALTH request that asks for the extension."""
    dims = (GREETING, EXTENSION, 0, 0)
    return CLIENT_HEADER.pack(ClientCommand.HEALTH, 0, 1, 2, 0, *dims, encode_key(GREETING_KEY))


def encode_key(key: str) -> bytes:
    """A key field; see `encode_request` for what is refused."""
    raw = key.encode()
    if len(raw) > KEY_BYTES:
        raise InvalidKeyError(key, f"is {len(raw)} bytes long; LMCache's header holds {KEY_BYTES}.")
    if key[-1:] in ("", " "):
        raise InvalidKeyError(key, "is empty or ends in a blank, which LMCache's header cannot hold.")
    if len(raw) == KEY_BYTES and not key.isascii():
        raise InvalidKeyError(key, "fills LMCache's header and is not ASCII.")
    return raw.ljust(KEY_BYTES)


def _plain_fields(key: str, meta: ChunkMeta) -> tuple[int, int, int, tuple[int, ...]]:
    if meta.namespace is not None:
        raise InvalidChunkError(key, "belongs to a namespace, which LMCache's header cannot hold.")
    dtype = _DTYPE_CODES.get(meta.dtype)
    if dtype is None:
        raise InvalidChunkError(key, f"dtype {meta.dtype} has no number in LMCache's header.")
    dims = (*meta.shape, 0, 0, 0, 0)[: max(4, len(meta.shape))]
    if meta.length > MAX_LENGTH or len(dims) > 4 or max(dims) > MAX_LENGTH:
        raise InvalidChunkError(key, f"{meta.length} bytes of shape {meta.shape} do not fit into LMCache's header.")
    if _meta(meta.length, meta.fmt.value, dtype, 0, dims) != meta:
        raise InvalidChunkError(key, f"shape {meta.shape} does not survive LMCache's header.")
    return meta.length, meta.fmt.value, dtype, dims


@lru_cache(maxsize=4096)
def encode_reply(code: ServerReturnCode, meta: ChunkMeta | None = None) -> bytes:
    """A plain server header; without metadata the one LMCache sends for a miss, EXIST and HEALTH.

    Raises
    ------
    InvalidChunkError
        The header cannot hold the metadata.
    """
    length, fmt, dtype, dims = (0, 1, 2, (0, 0, 0, 0)) if meta is None else _plain_fields("", meta)
    return SERVER_HEADER.pack(code, length, fmt, dtype, *dims, 0)


def encode_list_reply(length: int) -> bytes:
    """The server header before `length` bytes of newline-joined keys."""
    return SERVER_HEADER.pack(ServerReturnCode.SUCCESS, length, 1, 2, 0, 0, 0, 0, 0)


def encode_greeting_reply(max_chunk: int, max_key: int = 0) -> bytes:
    """The HEALTH answer that offers the extension and tells the longest chunk and key the server takes, in bytes.

    A `max_key` of 0 tells nothing, as servers did before they told it.
    """
    return SERVER_HEADER.pack(ServerReturnCode.SUCCESS, 0, 1, 2, GREETING, EXTENSION, max_chunk, max_key, 0)


def decode_reply(header: bytes | bytearray | memoryview) -> Reply:
    """Read a server header.

    Raises
    ------
    ProtocolError
        Wrong size, unknown code, negative length.
    """
    if len(header) != SERVER_HEADER.size:
        raise ProtocolError("server", f"a header has {SERVER_HEADER.size} bytes, got {len(header)}.")
    reply = Reply(*SERVER_HEADER.unpack(header))
    if reply.code not in RETURN_CODES:
        raise ProtocolError("server", f"unknown code {reply.code}.")
    if reply.length < 0:
        raise ProtocolError("server", f"a body of {reply.length} bytes.")
    return reply


def reply_meta(reply: Reply) -> ChunkMeta:
    """The metadata in the header of a plain GET's answer.

    Raises
    ------
    ProtocolError
        A field has no meaning.
    """
    meta = _meta(reply.length, reply.a, reply.b, reply.g, reply[4:8])
    if isinstance(meta, str):
        raise ProtocolError("server", meta)
    return meta
