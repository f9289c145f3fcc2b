"""The program that holds Mooncake's client, a process of its own: it carries out requests and knows no chunks.

Started by `client.py` by its path, so it imports nothing of this project. Each lane is a stream socket and a part of
one shared memory: a request names objects and places in that part, the answer is the engine's own numbers. It ends
when its parent does, and is killed when it is late.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading
from typing import Any

_SIZE = struct.Struct("<I")


def send(lane: socket.socket, message: object) -> None:
    """One message on a lane."""
    data = json.dumps(message).encode()
    lane.sendall(_SIZE.pack(len(data)) + data)


def _exactly(lane: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = lane.recv(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Engine:
    """The store, and what may be asked of it; `at` is the address of the lane's part of the memory."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self, at: int, names: list[str], places: list[int], sizes: list[int]) -> Any:
        """Read whole objects: the bytes of each, or its error."""
        return self._store.batch_get_into(names, [at + place for place in places], sizes)

    def leads(self, at: int, names: list[str], places: list[int], sizes: list[int]) -> Any:
        """Read the first bytes of objects."""
        zeros = [[0] for _ in names]
        got = self._store.get_into_ranges([at], [names], [[[p] for p in places]], [zeros], [[[size] for size in sizes]])
        return [found[0] for found in got[0]]

    def write(self, at: int, names: list[str], places: list[int], sizes: list[int]) -> Any:
        """Write whole objects under names that are free: for each its number, 0 where it is stored, and if it may be.

        The engine's `put` cannot be used: of a name that is taken it answers 0, and writes nothing.
        """
        answers = [(code, False) for code in self._store.batch_put_session_start(names, sizes)]
        begun = [i for i, (code, _) in enumerate(answers) if code == 0]
        if not begun:
            return answers
        given = [[at + places[i]] for i in begun], [[sizes[i]] for i in begun], [[0]] * len(begun)
        moved = self._store.batch_put_from_multi_buffer_ranges([names[i] for i in begun], *given)
        failed = [(i, code) for i, code in zip(begun, moved, strict=True) if code < 0]
        if failed:
            revoked = self._store.batch_put_session_revoke([names[i] for i, _ in failed])
            for (i, code), undone in zip(failed, revoked, strict=True):
                answers[i] = code, undone != 0
        whole = [i for i, code in zip(begun, moved, strict=True) if code >= 0]
        ended = self._store.batch_put_session_end([names[i] for i in whole]) if whole else []
        for i, code in zip(whole, ended, strict=True):
            answers[i] = code, code != 0
        return answers

    def seize(self, at: int, names: list[str], places: list[int], sizes: list[int]) -> Any:
        """The same under names that somebody began to write and, as it seems, will not end."""
        codes = self._store.batch_upsert_from(names, [at + place for place in places], sizes)
        return [(code, code != 0) for code in codes]

    def exist(self, at: int, names: list[str]) -> Any:
        """1 where there is such an object, and it is complete."""
        return self._store.batch_is_exist(names)

    def remove(self, at: int, names: list[str]) -> Any:
        """Remove objects, also those that somebody read a moment ago."""
        return self._store.batch_remove(names, True)

    def serve(self, lane: socket.socket, at: int) -> None:
        """Answer what comes on a lane, until it ends."""
        try:
            send(lane, 0)
            while True:
                asked, *arguments = json.loads(_exactly(lane, *_SIZE.unpack(_exactly(lane, _SIZE.size))))
                send(lane, getattr(self, asked)(at, *arguments))
        finally:
            os._exit(0)  # the parent is gone, or something that nobody here can mend has happened


def main() -> None:
    """Connect, then serve every lane until the parent ends."""
    told = json.loads(sys.argv[1])
    parent = os.getppid()
    lanes = [socket.socket(fileno=fd) for fd in told["lanes"]]
    fault = ""
    memory = mmap.mmap(told["memory"], told["room"] * len(lanes))
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    try:
        from mooncake.store import MooncakeDistributedStore

        store = MooncakeDistributedStore()
        code = store.setup(told["host"], told["metadata"], 0, 0, told["protocol"], told["device"], told["master"])
        fault = f"its client cannot be set up ({code})" if code else ""
        if not fault and (code := store.register_buffer(at, len(memory))):
            fault = f"it registers no buffer ({code})"
    except ImportError as error:
        fault = str(error)
    if fault:
        for lane in lanes:
            send(lane, fault)
        os._exit(1)
    engine = Engine(store)
    for i, lane in enumerate(lanes):
        threading.Thread(target=engine.serve, args=(lane, at + i * told["room"]), daemon=True).start()
    while os.getppid() == parent and not select.select([0], [], [], 1)[0]:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
