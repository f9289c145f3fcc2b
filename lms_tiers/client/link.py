"""A connection on which a dialect is spoken, and what a client asks on it: of one chunk, of many, and for leases."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from lms_tiers.buffers import own_bytes
from lms_tiers.client.connection import Buffer, Connection
from lms_tiers.client.dialect import Allocate, Dialect, Missing
from lms_tiers.errors import ConfigError, UnsupportedError
from lms_tiers.messages import ChunkMeta, ClientMetaMessage, key_text
from lms_tiers.wire.extension import MAX_HOLDER_BYTES, MAX_KEY_BYTES, MAX_PIN_MILLISECONDS

_T = TypeVar("_T")

#: Requests on their way at one time: enough to hide the round trip, few enough that their answers fit the socket.
WINDOW: Final = 32

#: Key, metadata, bytes.
Item = tuple[str, ChunkMeta, memoryview]


class Link(Connection):
    """A connection to a server whose protocol is known.

    Attributes
    ----------
    dialect : Dialect
        Set once the server has been asked.
    """

    dialect: Dialect


def item_of(client_meta: ClientMetaMessage, data: Any) -> Item:
    """A chunk to be sent, checked.

    Raises
    ------
    InvalidKeyError, InvalidChunkError
    """
    key = key_text(client_meta.key, MAX_KEY_BYTES)
    view = memoryview(data if isinstance(data, bytes | bytearray) else own_bytes(data))
    return key, ChunkMeta.of(client_meta, len(view)), view


def pipeline(connection: Connection, frames: Sequence[Sequence[Buffer]], read: Callable[[int], _T]) -> Iterator[_T]:
    """Many requests on one connection, whose answers come in the same order: what `read` makes of each answer.

    `frames` are sent at most a window ahead of the answers.
    """
    sent = 0
    for i in range(len(frames)):
        if sent - i <= WINDOW // 2:
            ready = frames[sent : i + WINDOW]
            connection.send([buffer for frame in ready for buffer in frame])
            sent += len(ready)
        yield read(i)


def fetch(connection: Link, text: str, place: Allocate, *, checked: bool = False) -> ChunkMeta | Missing:
    """Ask for one chunk.

    Bytes that do not fit their checksum may have been overwritten on their way, or the server may have taken the
    checksum for that of an older chunk: they are asked for once more, to be checked there.
    """
    dialect = connection.dialect
    connection.send((dialect.get(text, checked=checked),))
    answer = dialect.read_get(connection, text, place)
    if answer is Missing.DAMAGED:
        connection.send((dialect.get(text, checked=True),))
        answer = dialect.read_get(connection, text, place)
    return answer


def ask(connection: Link, texts: Sequence[str], answers: list[bool], *, leading: bool) -> None:
    """Append to `answers` what the server says of the `texts` that have none yet: whether it holds them.

    In one question where it takes many keys, else in a window of questions.

    Parameters
    ----------
    leading : bool
        Stop after the first key that is not held.
    """
    dialect = connection.dialect
    while len(answers) < len(texts) and not (leading and False in answers):
        rest = texts[len(answers) :]
        if len(rest) == 1:
            connection.send((dialect.exists(rest[0]),))
            answers.append(dialect.read_exists(connection, rest[0]))
        elif dialect.asks_many:
            header, body, asked = dialect.held(rest, leading=leading)
            connection.send([header, body])
            answers.extend(dialect.read_held(connection, asked))
        else:
            part = rest[:WINDOW] if leading else rest
            frames: list[list[Buffer]] = [[dialect.exists(text)] for text in part]
            answers.extend(pipeline(connection, frames, partial(_read, connection, part)))


def _read(connection: Link, part: Sequence[str], i: int) -> bool:
    return connection.dialect.read_exists(connection, part[i])


class Leases:
    """Names the holders of one client so that no other client's are called the same."""

    def __init__(self) -> None:
        self._own: Final = secrets.token_hex(8)

    def holder(self, name: str | int) -> str:
        """A holder as the server knows it.

        Raises
        ------
        ConfigError
            The name is too long, or cannot be written in UTF-8.
        """
        holder = f"{self._own}:{name}"
        try:
            short = len(holder.encode()) <= MAX_HOLDER_BYTES
        except UnicodeEncodeError:
            short = False
        if not short:
            most = MAX_HOLDER_BYTES - len(self._own) - 1
            raise ConfigError(f"the name of a holder has {most} bytes of UTF-8 at most.")
        return holder

    @staticmethod
    def milliseconds(seconds: float) -> int:
        """How long a lease lasts, in whole milliseconds and none too short.

        Raises
        ------
        ConfigError
        """
        if not 0 < seconds <= MAX_PIN_MILLISECONDS / 1000:
            raise ConfigError(f"a lease lasts a positive number of seconds, an hour at most, not {seconds!r}.")
        return math.ceil(seconds * 1000)

    @staticmethod
    def ask(connection: Link, texts: Sequence[str], holder: str, milliseconds: int, answers: list[bool]) -> None:
        """Append to `answers` what the server says of `texts`.

        Raises
        ------
        UnsupportedError
            The server, or its storage, keeps no leases.
        """
        dialect = connection.dialect
        if not dialect.pins:
            raise UnsupportedError("this lm:// server", "pin_each")
        while len(answers) < len(texts):
            header, body, asked = dialect.pin(texts[len(answers) :], holder, milliseconds)
            connection.send([header, body])
            answers.extend(dialect.read_held(connection, asked))
