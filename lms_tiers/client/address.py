"""Where a server is: `lm://host:port`, `host:port`, `lm+unix:///path` or `unix:/path`, and how to connect there."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from lms_tiers.client.names import addresses
from lms_tiers.errors import ConfigError

DEFAULT_PORT: Final = 65432


@dataclass(frozen=True, slots=True)
class Address:
    """A server's place.

    Attributes
    ----------
    host, port : str, int
        Empty and 0 for a Unix-domain socket.
    path : str
        Of the Unix-domain socket, else empty.

    Raises
    ------
    ConfigError
        The host or the path is none that a system call takes.
    """

    host: str
    port: int
    path: str = ""

    def __post_init__(self) -> None:
        try:
            self.host.encode("idna")
            os.fsencode(self.path)
        except UnicodeError as error:
            reason = str(error.__cause__ or error)
            raise ConfigError(f"{self.host or self.path!r} cannot be the name of a server: {reason}.") from error

    @staticmethod
    def parse(text: str) -> Address:
        """Read an address.

        Raises
        ------
        ConfigError

        Examples
        --------
        >>> str(Address.parse("[::1]:7000"))
        'lm://[::1]:7000'
        """
        for prefix in ("lm+unix://", "unix://", "unix:"):
            if text.startswith(prefix):
                path = text.removeprefix(prefix)
                if not path:
                    raise ConfigError(f"address {text!r} names no path.")
                return Address("", 0, path)
        rest = text.removeprefix("lm://").rstrip("/")
        if rest.startswith("["):
            host, _, port = rest[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = rest.partition(":")
        if not host or "/" in host or not (port.isdecimal() or port == "") or int(port or 1) > 65535:
            raise ConfigError(f"address {text!r} is not of the form lm://host:port, [ipv6]:port or unix:/path.")
        return Address(host, int(port or DEFAULT_PORT))

    def __str__(self) -> str:
        if self.path:
            return f"lm+unix://{self.path}"
        return f"lm://[{self.host}]:{self.port}" if ":" in self.host else f"lm://{self.host}:{self.port}"

    def connect(self, timeout: float, tls: ssl.SSLContext | None = None, peer: str = "") -> socket.socket:
        """A connected socket, within `timeout` seconds but for TLS, which has as many again; raises `OSError`.

        `peer` is the numeric host that the name stood for lately: nobody waits for a name server then.
        """
        with contextlib.ExitStack() as undo:
            if self.path:
                sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                sock.settimeout(timeout)
                sock.connect(self.path)
            else:
                sock = undo.enter_context(_connected(peer or self.host, self.port, timeout))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_hostname=self.host or None)
            undo.pop_all()
            return sock


def _connected(host: str, port: int, timeout: float) -> socket.socket:
    """A socket connected to the first address of a host that takes it."""
    until = time.monotonic() + timeout
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, at in addresses(host, port, timeout):
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{host} does not answer in time")
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(family, kind, protocol))
                sock.settimeout(left)
                sock.connect(at)
            except OSError as error:
                failure = error
                continue
            undo.pop_all()
            sock.settimeout(timeout)
            return sock
    raise failure


def tls_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """The client's side of TLS; None where neither a CA nor a certificate is given.

    Raises
    ------
    ConfigError
        A file cannot be used.
    """
    if not ca and not cert:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            context.load_cert_chain(cert, key)
    except OSError as error:
        raise ConfigError(f"the TLS files cannot be used: {error}.") from error
    return context
