"""A connection's bytes, plain or TLS, with one way to wait: a call stays a moment, then raises `BlockingIOError`."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final, Protocol

Buffer = bytes | bytearray | memoryview

#: Buffers that one `sendmsg` takes on Linux, with room to spare.
MAX_BUFFERS: Final = 1000
#: Bytes below which the kernel need not wake us while a slow peer's body trickles in.
_LOW_WATER: Final = 65536
#: Bytes of one TLS write; OpenSSL tells of progress only when a write is whole.
_RECORDS: Final = 65536
#: What is smaller is copied in front of up to so many bytes of what follows, which makes one record.
_SMALL: Final = 4096
_RECORD: Final = 12000


class Stream(Protocol):
    """What a session needs of its connection.

    Attributes
    ----------
    sends_files : bool
        Whether the kernel can send from a file: what is encrypted here passes through this process.
    """

    sends_files: ClassVar[bool]

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def handshake(self) -> None:
        """Agree on the encryption; raises `BlockingIOError` until done."""

    def recv_into(self, view: memoryview, patient: bool) -> int:
        """Bytes read into `view`, all of them if they come within the linger time; 0 at the end of the stream."""

    def send(self, buffers: Sequence[Buffer], patient: bool) -> int:
        """Bytes sent, all of them if the peer takes them within the linger time."""

    def send_file(self, head: Buffer, fd: int, offset: int, nbytes: int) -> int:
        """As a patient `send`, of `head` and then `nbytes` bytes of a file. Where `sends_files` only.

        Raises
        ------
        OSError
            The file ends before them.
        """

    def acknowledge(self) -> None:
        """Let the kernel acknowledge now: the peer may hold back its next bytes until then."""

    def low_water(self, nbytes: int) -> None:
        """While parked, wake for no fewer than about `nbytes`."""

    def close(self) -> None:
        """Close the connection."""


class PlainStream:
    """A blocking socket whose waits the kernel limits (``SO_RCVTIMEO``): one call, one system call, a whole chunk."""

    sends_files: ClassVar[bool] = True

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

    def send_file(self, head: Buffer, fd: int, offset: int, nbytes: int) -> int:
        """See `Stream`."""
        sent = self._sock.sendmsg((head,), (), socket.MSG_MORE) if head else 0
        if sent < len(head) or not nbytes:
            return sent
        try:
            now = os.sendfile(self._sock.fileno(), fd, offset, nbytes)
        except BlockingIOError:
            return sent
        if not now:
            raise OSError(errno.EIO, "a file ends before the chunk that lies there")
        return sent + now

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

    sends_files: ClassVar[bool] = False

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, linger: float) -> None:
        if sock.family != socket.AF_UNIX:
            tune_tcp(sock)
        sock.setblocking(False)
        self._sock: Final = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._linger: Final = linger
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
                if not patient or not self._ready(select.POLLIN, self._linger):
                    raise BlockingIOError from None
            except ssl.SSLZeroReturnError:
                return 0

    def send(self, buffers: Sequence[Buffer], patient: bool) -> int:
        """See `Stream`; a small first part leaves in one record with what follows it."""
        sent = 0
        until = time.monotonic() + self._linger
        view = memoryview(b"")
        try:
            for view in _records(buffers):
                while view:
                    try:
                        now = self._sock.send(view)
                    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                        # OpenSSL was told to accept a moving buffer: the retry may bring the same bytes from elsewhere.
                        if not patient or not self._ready(select.POLLOUT, until - time.monotonic()):
                            if sent:
                                return sent
                            raise BlockingIOError from None
                        continue
                    sent += now
                    view = view[now:]
        finally:
            # An error's traceback would keep the bytes borrowed while the backend takes its buffers back.
            view.release()
        return sent

    def send_file(self, head: Buffer, fd: int, offset: int, nbytes: int) -> int:
        """Not by the kernel: see `sends_files`."""
        raise NotImplementedError

    def _ready(self, event: int, seconds: float) -> bool:
        self._poll.register(self._sock.fileno(), event)
        return seconds > 0 and bool(self._poll.poll(max(1, int(seconds * 1000))))

    def acknowledge(self) -> None:
        """See `Stream`."""
        if self._sock.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def low_water(self, nbytes: int) -> None:
        """Records decide when a TLS stream can go on, not bytes."""

    def close(self) -> None:
        """See `Stream`; no farewell record, which could block."""
        self._sock.close()


def _records(buffers: Sequence[Buffer]) -> Iterator[memoryview]:
    """The bytes of `buffers` in parts for one TLS write each.

    From any byte on the first part is at least as long as it would have been from the start: what OpenSSL could not
    write is to be offered again, and no less of it.
    """
    views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    if len(views) > 1 and len(views[0]) < _SMALL:
        views[:2] = [memoryview(bytes(views[0]) + views[1][:_RECORD]), views[1][_RECORD:]]
    for view in views:
        for at in range(0, len(view), _RECORDS):
            yield view[at : at + _RECORDS]


def tune_tcp(sock: socket.socket) -> None:
    """No Nagle, quick acknowledgements, and probes that find dead peers."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
