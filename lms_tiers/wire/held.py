"""The bodies of HELD and PIN, which are of many keys at one time, and of their answers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import xxhash

from lms_tiers.errors import InvalidKeyError, ProtocolError
from lms_tiers.wire.extension import MAX_ASK_BYTES, XCommand, encode_xrequest

_NAME: Final = struct.Struct("<I")


def encode_held(keys: Iterable[str], *, leading: bool) -> tuple[bytes, bytearray, int]:
    """A question for many keys.

    Parameters
    ----------
    keys : iterable of str
    leading : bool
        Whether only the leading run that is held is wanted; the server may stop at the first gap then.

    Returns
    -------
    header : bytes
    body : bytearray
        Of as many keys as one question takes.
    asked : int
        How many those are.
    """
    body, asked, checksum = _body(keys)
    header = encode_xrequest(XCommand.HELD, argument=int(leading), checksum=checksum, length=len(body))
    return header, body, asked


def encode_pin(keys: Iterable[str], *, holder: str, milliseconds: int) -> tuple[bytes, bytearray, int]:
    """A request for a lease of each of many keys; 0 milliseconds give one back. Answers as `encode_held`."""
    body, asked, checksum = _body(keys)
    header = encode_xrequest(XCommand.PIN, holder, argument=milliseconds, checksum=checksum, length=len(body))
    return header, body, asked


def _body(keys: Iterable[str]) -> tuple[bytearray, int, int]:
    """As many of `keys` as one request takes, how many those are, and their checksum."""
    body = bytearray()
    asked = 0
    for key in keys:
        raw = key.encode()
        if len(body) + _NAME.size + len(raw) > MAX_ASK_BYTES:
            break
        body += _NAME.pack(len(raw))
        body += raw
        asked += 1
    return body, asked, xxhash.xxh3_64_intdigest(body)


def decode_asked(body: bytes | bytearray) -> list[str]:
    """The keys in the body of a HELD or PIN.

    Raises
    ------
    InvalidKeyError
        One is not UTF-8, or the body ends within one.
    """
    keys: list[str] = []
    at = 0
    while at < len(body):
        end = at + _NAME.size
        end += _NAME.unpack_from(body, at)[0] if end <= len(body) else 1
        if end > len(body):
            raise InvalidKeyError("", "is not whole: the body ends within it.")
        raw = bytes(body[at + _NAME.size : end])
        try:
            keys.append(raw.decode())
        except UnicodeDecodeError as error:
            raise InvalidKeyError(ascii(raw), f"is not UTF-8: {error.reason}.") from None
        at = end
    return keys


def encode_bits(held: Sequence[bool]) -> bytes:
    """The body of an answer: a bit a key, the first one the lowest bit of the first byte."""
    body = bytearray((len(held) + 7) // 8)
    for i, bit in enumerate(held):
        body[i >> 3] |= bit << (i & 7)
    return bytes(body)


def decode_bits(body: bytes, count: int) -> list[bool]:
    """Read the body of an answer.

    Raises
    ------
    ProtocolError
        It is not of as many bits as were asked for.
    """
    if len(body) != (count + 7) // 8:
        raise ProtocolError("server", f"{len(body)} bytes of answers to {count} questions.")
    return [bool(body[i >> 3] >> (i & 7) & 1) for i in range(count)]
