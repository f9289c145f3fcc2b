"""The lm:// server: listens, admits peers, and serves one backend. Knows nothing of tiers or policies."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Final, Self

from lms_tiers.errors import ConfigError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.server import extended, plain
from lms_tiers.server.budget import ReceiveBudget
from lms_tiers.server.checksums import Checksums
from lms_tiers.server.counters import Counters
from lms_tiers.server.listening import BACKLOG, Listener
from lms_tiers.server.reactor import Reactor
from lms_tiers.server.session import Session, Steps
from lms_tiers.server.settings import ServerSettings
from lms_tiers.server.stream import PlainStream, Stream, TlsStream
from lms_tiers.wire.buffers import receive_buffer
from lms_tiers.wire.extension import is_extension

_log = logging.getLogger(__name__)

#: Connections taken in one go; more wait in the kernel's queue, so that a storm does not hold a thread for ever.
_ACCEPTS: Final = 64


class Server:
    """One listening socket, its connections, and the backend they read and write.

    The backend stays the caller's: `close` neither flushes nor closes it.

    Parameters
    ----------
    backend : LMSBackendInterface
    settings : ServerSettings, optional
    allocate : callable
        Makes the buffer a chunk is received into.

    Raises
    ------
    StorageUnavailableError
        The address cannot be listened on.
    ConfigError
        A TLS file cannot be used.

    Examples
    --------
    >>> from lms_tiers import CreateStorageBackend
    >>> with CreateStorageBackend("cpu") as backend, Server(backend, ServerSettings(port=0)) as server:
    ...     server.address.startswith("lm://127.0.0.1:")
    True
    """

    def __init__(
        self, backend: LMSBackendInterface, settings: ServerSettings | None = None,
        allocate: Callable[[int], bytearray] = receive_buffer,
    ) -> None:  # fmt: skip
        self.backend: Final = backend
        self._allocate: Final = allocate
        self.settings: Final = settings or ServerSettings()
        self.counters: Final = Counters()
        self.budget: Final = ReceiveBudget(self.settings.receive_budget)
        self._checksums: Final = Checksums()
        self._closed = False
        self._tls = tls_context(self.settings)
        self._accepting: Final = threading.Lock()
        self._listener: Listener | None = Listener(self.settings)
        with contextlib.ExitStack() as undo:
            undo.callback(self._listener.close)
            undo.callback(self._listener.unlink)
            self._bound: Final = self._listener.sock.getsockname()
            self._reactor: Final = Reactor(self.settings.threads, self.counters)
            undo.callback(self._reactor.stop)
            self._reactor.start()
            self._reactor.listen(self._listener.sock.fileno(), self._accept)
            undo.pop_all()

    @property
    def address(self) -> str:
        """Where clients find it, as LMCache's `remote_url` wants it."""
        if self.settings.unix:
            return f"lm+unix://{self.settings.unix}"
        host = f"[{self._bound[0]}]" if ":" in self._bound[0] else self._bound[0]
        return f"lm://{host}:{self.port}"

    @property
    def port(self) -> int:
        """The port listened on; 0 for a Unix-domain socket."""
        return 0 if self.settings.unix else int(self._bound[1])

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._reactor.connections

    @property
    def accepting(self) -> bool:
        """Whether new connections are taken."""
        return self._listener is not None

    def _accept(self) -> None:
        with self._accepting:
            if self._listener is not None:
                self._accept_from(self._listener.sock, _ACCEPTS)

    def _accept_from(self, listener: socket.socket, most: int) -> None:
        for _ in range(most):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            self.counters.add("connections_opened")
            peer = _peer_name(address)
            if self._reactor.connections >= self.settings.max_connections:
                self.counters.add("connections_refused")
                _log.warning("refused a connection: too many", extra={"peer": peer})
                sock.close()
            elif not self._allowed(address):
                self.counters.add("connections_refused")
                _log.warning("refused a connection: its address is not allowed", extra={"peer": peer})
                sock.close()
            else:
                self._open(sock, peer)

    def _allowed(self, address: object) -> bool:
        if not self.settings.allow or not isinstance(address, tuple):
            return True
        ip = ipaddress.ip_address(address[0].partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        return any(mapped in network for network in self.settings.allow)

    def _open(self, sock: socket.socket, peer: str) -> None:
        linger, tls = self.settings.linger, self._tls
        try:
            stream: Stream = TlsStream(sock, tls, linger) if tls else PlainStream(sock, linger)
            descriptor = stream.fileno()
        except OSError as error:
            # The peer has gone before it was looked at.
            _log.debug("connection lost", extra={"peer": peer, "fault": str(error)})
            sock.close()
            return
        with contextlib.ExitStack() as undo:
            undo.callback(stream.close)
            session = Session(
                stream, self.backend, self.settings, self.budget, self.counters, peer,
                self._reactor.spare, lambda _: self._reactor.wake(descriptor), answer,
                self._allocate, self._checksums,
            )  # fmt: skip
            self._reactor.adopt(descriptor, session)
            undo.pop_all()

    def use_tls(self, context: ssl.SSLContext | None) -> None:
        """Serve new connections with the certificates of `context`; open ones go on with theirs."""
        self._tls = context

    def stop_accepting(self) -> None:
        """Close the listening socket; open connections go on, those too that nobody has taken yet.

        What such a peer has sent would be lost otherwise: closing the listener resets its connection.
        """
        with self._accepting:
            listener, self._listener = self._listener, None
            if listener is None:
                return
            self._reactor.unlisten(listener.sock.fileno())
            listener.unlink()
            try:
                self._accept_from(listener.sock, BACKLOG)
            except OSError as error:
                _log.warning("cannot accept the last connections", extra={"fault": str(error)})
            listener.close()

    def drain(self, timeout: float) -> int:
        """Stop accepting and let running requests finish.

        Returns
        -------
        int
            Connections that had not finished after `timeout` seconds; `close` cuts them.
        """
        self.stop_accepting()
        return self._reactor.drain(timeout)

    def close(self) -> None:
        """Stop at once; a request that is being served by the backend is waited for. Idempotent."""
        self.stop_accepting()
        if not self._closed:
            self._closed = True
            self._reactor.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer(session: Session, header: bytearray) -> Steps | None:
    """Serve one request of either protocol, or return the steps that are left; see `Session`."""
    return extended.answer(session, header) if is_extension(header) else plain.answer(session, header)


def _peer_name(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """The TLS side of the settings; None for a plain server."""
    if not settings.tls_cert or not settings.tls_key:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if settings.tls_client_ca:
            context.load_verify_locations(settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ConfigError(f"the TLS files cannot be used: {error}.") from error
    return context
