"""RESP2 on one connection: commands out as buffers, replies in, bodies straight where they are wanted."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Any, Self

from lms_tiers.client.address import Address
from lms_tiers.client.connection import AHEAD, Buffer, Connection


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine is, and how it is greeted.

    Attributes
    ----------
    seeds : tuple of Address
        Nodes to begin with.
    tls : ssl.SSLContext or None
    username, password : str or None
    db : int
    """

    seeds: tuple[Address, ...]
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0

    def __str__(self) -> str:
        return shown(self.seeds[0])


def shown(address: Address) -> str:
    """An address as errors print it."""
    return str(address).replace("lm", "redis", 1)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply: nothing was done. `code` is its first word, such as ``MOVED`` or ``OOM``."""

    code: str
    text: str

    @staticmethod
    def of(line: bytes) -> Refusal:
        """Read one from the line after the dash."""
        text = line.decode("utf-8", "replace")
        return Refusal(text.partition(" ")[0], text)


def command(*parts: bytes | tuple[Buffer, ...]) -> list[Buffer]:
    """A command as buffers to be sent; a part of several buffers is one argument."""
    frame: list[Buffer] = []
    text = bytearray(b"*%d\r\n" % len(parts))
    for part in parts:
        if isinstance(part, tuple):
            text += b"$%d\r\n" % sum(map(len, part))
            frame += [text, *part]
            text = bytearray(b"\r\n")
        else:
            text += b"$%d\r\n%b\r\n" % (len(part), part)
    return [*frame, text]


class Link(Connection):
    """A connection to one node, which has been greeted. See `Connection` for what it raises."""

    def __init__(self, address: Address, timeout: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(address, timeout, timeout, tls)
        self._patience = timeout
        if tls is None:  # what comes while nothing is asked is the answer to nothing: see `alive`
            self._poll.modify(self._sock, select.POLLIN | select.POLLRDHUP)

    @property
    def alive(self) -> bool:
        """Whether the node has not hung up, and nothing is left to be read of the last answer."""
        return self._begin == self._end and super().alive

    def greet(self, place: Place) -> Self:
        """Say who calls, and choose the database; raises `PermissionError` where the node refuses."""
        frames = []
        if place.password is not None:
            frames.append(
                command(b"AUTH", *([place.username.encode()] if place.username else []), place.password.encode())
            )
        if place.db:
            frames.append(command(b"SELECT", b"%d" % place.db))
        self.send([buffer for frame in frames for buffer in frame])
        for _ in frames:
            answer = self.reply()
            if isinstance(answer, Refusal):
                raise PermissionError(answer.text)
        return self

    def patience(self, seconds: float) -> None:
        """Wait for the node's next bytes so long at most, from now on."""
        if seconds == self._patience:
            return
        self._patience = seconds
        if not self._plain:
            self._sock.settimeout(seconds)
            return
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def line(self) -> bytes:
        """The next line, without its end."""
        while (end := self._ahead.find(b"\r\n", self._begin, self._end)) < 0:
            if self._end - self._begin == AHEAD:
                raise self.broken("sent a line that is none of RESP2.")
            self._read_ahead()
        line = self._ahead[self._begin : end]
        self._begin = end + 2
        return bytes(line)

    def number(self, kind: bytes) -> int | Refusal:
        """The number in the next line, which is of `kind`, or the error in its place."""
        line = self.line()
        if line[:1] == b"-":
            return Refusal.of(line[1:])
        if line[:1] != kind:
            raise self.broken(f"answered {line[:40]!r} where {kind.decode()!r} was due.")
        return int(line[1:])

    def reply(self) -> Any:
        """The next reply: bytes, int, None, `Refusal`, or a list of such."""
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Refusal.of(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$" and int(rest) >= 0:
            body = self.read(int(rest))
            self.line()
            return body
        if kind == b"*" and int(rest) >= 0:
            return [self.reply() for _ in range(int(rest))]
        if line in (b"$-1", b"*-1"):
            return None
        raise self.broken(f"sent {line[:40]!r}, which is none of RESP2.")

    def expect(self, kind: type) -> Any:
        """The next reply, of `kind` or a `Refusal`; nothing else is taken for an answer."""
        reply = self.reply()
        if isinstance(reply, kind | Refusal):
            return reply
        raise self.broken(f"answered {reply!r:.40} where {kind.__name__} was due.")
