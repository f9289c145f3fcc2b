"""A peer that speaks plain lm:// by hand, so that tests can also speak it wrongly; and polling instead of sleeping."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable

from lms_tiers.messages import MemoryFormat
from lms_tiers.server.server import Server

PUT, GET, EXIST, LIST, HEALTH = 1, 2, 3, 4, 5
SUCCESS, FAIL = 200, 400
#: The 36 bytes that LMCache's server sends for a miss.
MISS = struct.pack("<9i", FAIL, 0, 1, 2, 0, 0, 0, 0, 0)
FOUND = struct.pack("<9i", SUCCESS, 0, 1, 2, 0, 0, 0, 0, 0)


def header(
    command: int, key: bytes | str, length: int = 0, fmt: int = 1, dtype: int = 2,
    shape: tuple[int, int, int, int] = (0, 0, 0, 0), location: int = 0,
) -> bytes:  # fmt: skip
    """A client header, of any numbers, valid or not."""
    raw = key.encode() if isinstance(key, str) else key
    return struct.pack("<9i150s", command, length, fmt, dtype, location, *shape, raw.ljust(150))


class Peer:
    """One raw connection."""

    def __init__(self, server: Server, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> None:
        path = server.settings.unix
        sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        sock.settimeout(60)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            sock.connect(path or ("127.0.0.1", server.port))
            self.sock = tls.wrap_socket(sock, server_hostname="localhost") if tls else sock
        except BaseException:
            sock.close()
            raise

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, nbytes: int) -> bytes:
        out, done = memoryview(bytearray(nbytes)), 0
        while done < nbytes:
            part = self.sock.recv_into(out[done:])
            if not part:
                raise ConnectionError(f"closed after {done} of {nbytes} bytes")
            done += part
        return bytes(out)

    def put(self, key: bytes | str, body: bytes, shape: tuple[int, int, int, int] | None = None, fmt: int = 1) -> None:
        self.send(header(PUT, key, len(body), fmt, 6, shape or (1, 1, 1, len(body))) + body)

    def get(self, key: bytes | str) -> bytes | None:
        self.send(header(GET, key))
        reply = struct.unpack("<9i", self.read(36))
        return self.read(reply[1]) if reply[0] == SUCCESS else None

    def exists(self, key: bytes | str) -> bool:
        self.send(header(EXIST, key))
        return self.read(36) == FOUND

    def closed(self) -> bool:
        """Whether the server has hung up; waits for it."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Leave without a farewell."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll `condition`; fail when it is still false after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition never came true"
        time.sleep(0.002)


def healthy(server: Server) -> bool:
    """Whether a client that does nothing wrong is served."""
    with Peer(server) as peer:
        body = bytes(range(256))
        peer.put("healthy", body)
        return peer.exists("healthy") and peer.get("healthy") == body and not peer.exists("absent")


KV = MemoryFormat.KV_2LTD
