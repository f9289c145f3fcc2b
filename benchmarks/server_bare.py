"""The ceilings of `benchmarks/server.py`: `recv_into`, `sendmsg` and a dictionary, no checks, no limits, no answers
to errors. Every chunk is received into a fresh bytearray and kept, as a server must.

    python benchmarks/server_bare.py PORT [threads | selector]

`threads` is one thread a connection, `selector` one thread for all of them.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Final

_HEADER: Final = struct.Struct("<9i150s")
_REPLY: Final = struct.Struct("<9i")

Chunks = dict[bytes, tuple[bytes, bytearray]]
#: What a connection does next: fill a buffer, or send some.
Step = tuple[int, list[memoryview]]


# -- a thread for each connection: straight-line code, as lean as it gets


def _receive(sock: socket.socket, view: memoryview) -> bool:
    while len(view):
        got = sock.recv_into(view, 0, socket.MSG_WAITALL)
        if not got:
            return False
        view = view[got:]
    return True


def _send(sock: socket.socket, buffers: list[memoryview]) -> None:
    while buffers:
        sent = sock.sendmsg(buffers)
        while buffers and sent >= len(buffers[0]):
            sent -= len(buffers.pop(0))
        if sent:
            buffers[0] = buffers[0][sent:]


def _serve(sock: socket.socket, chunks: Chunks) -> None:
    header = bytearray(_HEADER.size)
    with sock:
        while _receive(sock, memoryview(header)):
            command, length, fmt, dtype, location, *shape, key = _HEADER.unpack(header)
            if command == 1:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                body = bytearray(length)
                if not _receive(sock, memoryview(body)):
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                chunks[key] = _REPLY.pack(200, length, fmt, dtype, *shape, location), body
                continue
            held = chunks.get(key)
            if held is None or command != 2:
                answer = [memoryview(_REPLY.pack(400 if held is None else 200, 0, 1, 2, 0, 0, 0, 0, 0))]
            else:
                answer = [memoryview(held[0]), memoryview(held[1])]
            _send(sock, answer)


def threads(listener: socket.socket) -> None:
    """A thread for each connection."""
    chunks: Chunks = {}
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve, args=(sock, chunks), daemon=True).start()


# -- one thread for all: the same steps, cut where they would have to wait


def conversation(sock: socket.socket, chunks: Chunks) -> Iterator[Step]:
    """What to read and what to send, without the waiting."""
    header = bytearray(_HEADER.size)
    while True:
        yield selectors.EVENT_READ, [memoryview(header)]
        command, length, fmt, dtype, location, *shape, key = _HEADER.unpack(header)
        if command == 1:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            body = bytearray(length)
            yield selectors.EVENT_READ, [memoryview(body)]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            chunks[key] = _REPLY.pack(200, length, fmt, dtype, *shape, location), body
            continue
        held = chunks.get(key)
        if held is None or command != 2:
            reply = _REPLY.pack(400 if held is None else 200, 0, 1, 2, 0, 0, 0, 0, 0)
            yield selectors.EVENT_WRITE, [memoryview(reply)]
        else:
            yield selectors.EVENT_WRITE, [memoryview(held[0]), memoryview(held[1])]


def advance(sock: socket.socket, event: int, buffers: list[memoryview]) -> bool:
    """One system call towards the end of a step; False when the peer has gone."""
    if event == selectors.EVENT_READ:
        done = sock.recv_into(buffers[0])
        if not done:
            return False
    else:
        done = sock.sendmsg(buffers)
    while buffers and done >= len(buffers[0]):
        done -= len(buffers.pop(0))
    if done:
        buffers[0] = buffers[0][done:]
    return True


class _Connection:
    def __init__(self, sock: socket.socket, chunks: Chunks) -> None:
        self.sock = sock
        self.steps = conversation(sock, chunks)
        self.event, self.buffers = next(self.steps)

    def run(self) -> bool:
        """Go on as far as possible without waiting; False at the end."""
        while True:
            try:
                if not advance(self.sock, self.event, self.buffers):
                    return False
            except BlockingIOError:
                return True
            if not self.buffers:
                self.event, self.buffers = next(self.steps)


def selector(listener: socket.socket) -> None:
    """One thread that waits for all connections."""
    chunks: Chunks = {}
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setblocking(False)
                waiting.register(sock, selectors.EVENT_READ, _Connection(sock, chunks))
                continue
            connection = key.data
            if not connection.run():
                waiting.unregister(connection.sock)
                connection.sock.close()
            elif connection.event != key.events:
                waiting.modify(connection.sock, connection.event, connection)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
    print("listening", flush=True)
    {"threads": threads, "selector": selector}[sys.argv[2] if len(sys.argv) > 2 else "threads"](listener)


if __name__ == "__main__":
    main()
