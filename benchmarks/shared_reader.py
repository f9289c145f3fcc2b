"""One reader of `benchmarks/shared.py`, a process of its own: nobody's heap helps another's.

    python -m benchmarks.shared_reader client | loop | DEVICE  PORT

Each line of standard input is a round: it gets the batch once, checks it, forgets it, and says how many seconds the
getting took.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

import xxhash

from benchmarks.getter_tiers import BLOCK, clock, key
from benchmarks.server_bare import _HEADER, _receive
from lms_tiers import CreateStorageBackend
from lms_tiers.client import Client
from lms_tiers.tiered.store import TieredStore

BATCH: Final = 64


def body(i: int) -> bytearray:
    """What lies under the key of number `i`."""
    return bytearray(xxhash.xxh3_128_digest(i.to_bytes(8, "little")) * (BLOCK // 16))


class Loop:
    """The ceiling: `sendmsg` and `recv_into` fresh buffers, from a server that is no more than that."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def put_many(self, count: int) -> None:
        for i in range(count):
            name = key(i).to_string().encode()
            self._sock.sendall(_HEADER.pack(1, BLOCK, 1, 2, 0, 1, 1, 1, BLOCK, name) + body(i))

    def get_many(self, keys: Sequence[Any]) -> list[bytearray]:
        names = [k.to_string().encode() for k in keys]
        header, found = bytearray(36), []
        half = len(names) // 2
        for i in range(len(names)):
            if i % half == 0:
                asked = [_HEADER.pack(2, 0, 1, 2, 0, 0, 0, 0, 0, name) for name in names[i : i + half]]
                self._sock.sendall(b"".join(asked))
            _receive(self._sock, memoryview(header))
            data = bytearray(int.from_bytes(header[4:8], "little"))
            _receive(self._sock, memoryview(data))
            found.append(data)
        return found

    def close(self) -> None:
        self._sock.close()


def main() -> None:
    what, port = sys.argv[1], int(sys.argv[2])
    subject: Any
    if what == "loop":
        subject = Loop(port)
    elif what == "client":
        subject = Client(f"127.0.0.1:{port}")
    else:
        subject = CreateStorageBackend(what.format(port=port))
    keys, bodies = [key(i) for i in range(BATCH)], [body(i) for i in range(BATCH)]
    print("ready", os.getpid(), flush=True)
    for _ in sys.stdin:
        gc.collect()
        started = clock()
        found = subject.get_many(keys)
        seconds = clock() - started
        for obj, right in zip(found, bodies, strict=True):
            assert (obj.data if what != "loop" else obj) == right
        del found, obj
        if isinstance(subject, TieredStore):
            subject.clear()
        print(seconds, flush=True)
    subject.close()


if __name__ == "__main__":
    main()
