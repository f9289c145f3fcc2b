"""A connection's bytes, plain or TLS, with one way to wait: a call stays a moment, then raises `BlockingIOError`."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Final, Protocol

Buffer = bytes | bytearray | memoryview

#: Buffers that one `sendmsg` takes on Linux, with room to spare.
MAX_BUFFERS: Final = 1000
#: Bytes below which the kernel need not wake us while a slow peer's body trickles in.
_LOW_WATER: Final = 65536
#: Bytes of one TLS write; OpenSSL tells of progress only when a write is whole.
_RECORDS: Final = 65536


class Stream(Protocol):
    """What a session needs of its connection."""

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def handshake(self) -> None:
        """Agree on the encryption; raises `BlockingIOError` until done."""

    def recv_into(self, view: memoryview, patient: bool) -> int:
        """Bytes read into `view`, all of them if they come within the linger time; 0 at the end of the stream."""

    def send(self, buffers: Sequence[Buffer], patient: bool) -> int:
        """Bytes sent, all of them if the peer takes them within the linger time."""

    def acknowledge(self) -> None:
        """Let the kernel acknowledge now: the peer may hold back its next bytes until then."""

    def low_water(self, nbytes: int) -> None:
        """While parked, wake for no fewer than about `nbytes`."""

    def close(self) -> None:
        """Close the connection."""


class PlainStream:
    """A blocking socket whose waits the kernel limits (``SO_RCVTIMEO``): one call, one system call, a whole chunk."""

    def __init__(self, sock: socket.socket, linger: float) -> None:
        sock.settimeout(None)
        limit = struct.pack("ll", int(linger), int(linger % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._sock: Final = sock
        self._tcp: Final = sock.family != socket.AF_UNIX
        self._low = 1
        if self._tcp:
            tune_tcp(sock)

    def fileno(self) -> int:
        """See `Stream`."""
        return self._sock.fileno()

    def handshake(self) -> None:
        """Nothing to agree on."""

    def recv_into(self, view: memoryview, patient: bool) -> int:
        """See `Stream`."""
        flags = socket.MSG_WAITALL if patient else socket.MSG_DONTWAIT
        return self._sock.recv_into(view, 0, flags)

    def send(self, buffers: Sequence[Buffer], patient: bool) -> int:
        """See `Stream`."""
        return self._sock.sendmsg(buffers[:MAX_BUFFERS], (), 0 if patient else socket.MSG_DONTWAIT)

    def acknowledge(self) -> None:
        """See `Stream`; Linux forgets the option after a while, so it is set again each time."""
        if self._tcp:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def low_water(self, nbytes: int) -> None:
        """See `Stream`."""
        nbytes = max(1, min(nbytes, _LOW_WATER))
        if self._tcp and nbytes != self._low:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
            self._low = nbytes

    def close(self) -> None:
        """See `Stream`."""
        self._sock.close()


class TlsStream:
    """A TLS connection over a non-blocking socket; `poll` limits the waits."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, linger: float) -> None:
        if sock.family != socket.AF_UNIX:
            tune_tcp(sock)
        sock.setblocking(False)
        self._sock: Final = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._linger_ms: Final = max(1, int(linger * 1000))
        self._poll = select.poll()

    def fileno(self) -> int:
        """See `Stream`."""
        return self._sock.fileno()

    def handshake(self) -> None:
        """See `Stream`; never waits, so that a silent peer costs no thread."""
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None

    def recv_into(self, view: memoryview, patient: bool) -> int:
        """See `Stream`; one record a call."""
        while True:
            try:
                return self._sock.recv_into(view)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if not patient or not self._ready(select.POLLIN):
                    raise BlockingIOError from None
            except ssl.SSLZeroReturnError:
                return 0

    def send(self, buffers: Sequence[Buffer], patient: bool) -> int:
        """See `Stream`; small parts leave as one record."""
        first = buffers[0]
        if len(first) < 4096 and len(buffers) > 1:
            first = bytes(first) + memoryview(buffers[1]).cast("B")[:16000]
        sent = 0
        view = memoryview(first).cast("B")
        while sent < len(view):
            try:
                sent += self._sock.send(view[sent : sent + _RECORDS])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                # OpenSSL was told to accept a moving buffer: the retry may bring the same bytes from elsewhere.
                if not patient or not self._ready(select.POLLOUT):
                    if sent:
                        break
                    raise BlockingIOError from None
        return sent

    def _ready(self, event: int) -> bool:
        self._poll.register(self._sock.fileno(), event)
        return bool(self._poll.poll(self._linger_ms))

    def acknowledge(self) -> None:
        """See `Stream`."""
        if self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def low_water(self, nbytes: int) -> None:
        """Records decide when a TLS stream can go on, not bytes."""

    def close(self) -> None:
        """See `Stream`; no farewell record, which could block."""
        self._sock.close()


def tune_tcp(sock: socket.socket) -> None:
    """No Nagle, quick acknowledgements, and probes that find dead peers."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
