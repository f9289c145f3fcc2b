"""One connection: whole buffers out, whole frames in, each call within the time limit. One thread at a time."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
import weakref
from collections.abc import Sequence
from typing import Final

import xxhash

from lms_tiers.client.address import Address
from lms_tiers.errors import ProtocolError
from lms_tiers.wire.buffers import drop_sent

Buffer = bytes | bytearray | memoryview

_MAX_BUFFERS: Final = 1000
_SKIP_BYTES: Final = 65536
#: Bytes read ahead: a short answer, its chunk included, comes by one system call; of a long one so much is copied.
AHEAD: Final = 16 * 1024
#: Bytes that are received at a time where they are checked: few enough to be in the processor's cache still.
_PIECE: Final = 256 * 1024
#: How much longer a call may wait than it should, so that the limit need not be set for each of a batch.
_SLACK: Final = 1.05


class Connection:
    """A connection to a server.

    Parameters
    ----------
    address : Address
    connect_timeout, timeout : float
        Seconds to connect, and seconds without progress after which a transfer fails.
    tls : ssl.SSLContext, optional
    peer : str
        See `Address.connect`.

    Attributes
    ----------
    until : float or None
        When whoever uses it now wants an answer, in seconds of `time.monotonic`; None: while there is progress.

    Raises
    ------
    OSError
        The server cannot be reached.
    """

    def __init__(
        self, address: Address, connect_timeout: float, timeout: float, tls: ssl.SSLContext | None = None,
        peer: str = "",
    ) -> None:  # fmt: skip
        self.address: Final = address
        self._sock: Final = address.connect(connect_timeout, tls, peer)
        # A client that is forgotten without a close goes quietly: a socket that nobody closed would warn.
        weakref.finalize(self, self._sock.close).atexit = False
        self.until: float | None = None
        self._timeout: Final = timeout
        self._tcp: Final = not address.path
        self._plain: Final = tls is None
        #: What was read ahead lies in `_ahead` from `_begin` to `_end`.
        self._ahead: Final = bytearray(AHEAD)
        self._view: Final = memoryview(self._ahead)
        self._begin = self._end = 0
        self._recv_flags: Final = socket.MSG_WAITALL if self._plain else 0
        try:
            # A server that turns a client away after the handshake may have hung up by now.
            self.peer: Final = "" if address.path else str(self._sock.getpeername()[0])
            if self._plain:
                self._sock.settimeout(None)
            self._wait(timeout)
            self._poll: Final = select.poll()
            self._poll.register(self._sock, select.POLLRDHUP)
        except BaseException:
            self._sock.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the server has not hung up while the connection lay idle."""
        return not self._poll.poll(0)

    def _wait(self, seconds: float) -> None:
        """Let a call wait so long."""
        self._waits = seconds
        if self._plain:
            # The kernel limits the waits: one system call for a whole chunk, where `settimeout` would poll each time.
            limit = struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1e6)))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        else:
            self._sock.settimeout(seconds)

    def _in_time(self) -> None:
        """Let the next call wait for no longer than its caller does; `TimeoutError` when that time is over."""
        wanted = self._timeout
        if self.until is not None:
            wanted = min(wanted, self.until - time.monotonic())
            if wanted <= 0:
                raise TimeoutError("the deadline has passed")
        # A little too long rather than set anew for each call.
        if not wanted <= self._waits <= wanted * _SLACK:
            self._wait(wanted * (_SLACK + 1) / 2)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of `buffers`, the first ones in one packet; raises `OSError`, `TimeoutError` included."""
        if self._plain:
            left = self._send_some(buffers)
            for buffer in buffers:
                left -= buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
            if not left:
                return
            self._send_rest(buffers, left)
        else:
            for buffer in buffers:
                self._in_time()
                self._sock.sendall(buffer)

    def _send_some(self, buffers: Sequence[Buffer]) -> int:
        self._in_time()
        try:
            return self._sock.sendmsg(buffers[:_MAX_BUFFERS])
        except BlockingIOError:
            raise TimeoutError("the server takes no bytes") from None

    def _send_rest(self, buffers: Sequence[Buffer], left: int) -> None:
        """Send the last bytes of `buffers`, minus `left` of them."""
        pending = [memoryview(b).cast("B") for b in buffers if len(b)]
        sent = sum(map(len, pending)) + left
        while True:
            drop_sent(pending, sent)
            if not pending:
                return
            sent = self._send_some(pending)

    def read_into(self, view: memoryview, digest: xxhash.xxh3_64 | None = None) -> None:
        """Fill `view`; raises `OSError`, `TimeoutError` included, and `ConnectionResetError` at the end.

        A `digest` is fed with what arrives, piece by piece.
        """
        got = min(self._end - self._begin, len(view))
        if got:
            view[:got] = self._view[self._begin : self._begin + got]
            self._begin += got
            if digest is not None:
                digest.update(view[:got])
        while got < len(view):
            part = view[got:] if digest is None else view[got : got + _PIECE]
            now = self._receive(part, self._recv_flags)
            if digest is not None:
                digest.update(part[:now])
            got += now

    def _receive(self, view: memoryview, flags: int) -> int:
        self._in_time()
        try:
            now = self._sock.recv_into(view, 0, flags)
        except BlockingIOError:
            raise TimeoutError("the server does not answer") from None
        if not now:
            raise ConnectionResetError("the server closed the connection")
        return now

    def read(self, nbytes: int) -> bytes:
        """The next `nbytes` bytes."""
        if nbytes > AHEAD:
            buffer = bytearray(nbytes)
            self.read_into(memoryview(buffer))
            return bytes(buffer)
        begin = self._begin
        if self._end - begin < nbytes:
            while self._end - self._begin < nbytes:
                self._read_ahead()
            begin = self._begin
        self._begin = begin + nbytes
        return bytes(self._view[begin : self._begin])

    def _read_ahead(self) -> None:
        """Add what has come to what was read ahead, of which there must be less than `AHEAD` bytes."""
        begin, have = self._begin, self._end - self._begin
        if begin:
            self._ahead[:have] = self._ahead[begin : self._end]
            self._begin, self._end = 0, have
        self._end += self._receive(self._view[have:], 0)

    def acknowledge(self, expected: int) -> None:
        """Let the kernel acknowledge now, where the `expected` bytes are not all there.

        LMCache's server holds a small body back until its header is acknowledged.
        """
        if self._tcp and self._end - self._begin < expected:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def skip(self, nbytes: int) -> None:
        """Read and forget `nbytes` bytes."""
        scratch = memoryview(bytearray(min(nbytes, _SKIP_BYTES)))
        while nbytes > 0:
            part = min(nbytes, len(scratch))
            self.read_into(scratch[:part])
            nbytes -= part

    def broken(self, reason: str) -> ProtocolError:
        """The error to raise when the server sends what it must not."""
        return ProtocolError(str(self.address), reason)

    def abort(self) -> None:
        """End the calls that wait on this connection in other threads; whoever uses it closes it."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close; only for the thread that uses the connection, or when nobody does."""
        self._sock.close()
