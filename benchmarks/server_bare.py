"""The ceiling of `benchmarks/server.py`: a thread per connection, `recv_into`, `sendmsg`, a dictionary, no checks."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from typing import Final

_HEADER: Final = struct.Struct("<9i150s")
_REPLY: Final = struct.Struct("<9i")


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


def _serve(sock: socket.socket, chunks: dict[bytes, tuple[bytes, bytearray]]) -> None:
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


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
    chunks: dict[bytes, tuple[bytes, bytearray]] = {}
    print("listening", flush=True)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve, args=(sock, chunks), daemon=True).start()


if __name__ == "__main__":
    main()
