"""The process that holds a library: it serves the lanes of `lms_tiers.apart.process.Apart`.

Started by its path, so that it imports nothing of this project, with one argument, JSON: what the library is told, and
``program`` (the path of a file), ``memory`` (a descriptor), ``room`` (bytes of a lane's part of it) and ``lanes``
(descriptors of stream sockets). That file's ``start(told, memory)`` answers an object whose methods are what may be
asked, or raises why it cannot serve. Each is called with the lane's part of the memory and where that begins.

On each lane comes first 0, or that reason; then for each message what was answered, alone in a list, or why there is
nothing. A message is its length (``<I``) and JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import runpy
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

_SIZE = struct.Struct("<I")
#: Bytes that are asked of a socket at one time: most messages are shorter.
_AT_ONCE = 1 << 16


def pack(message: object) -> bytes:
    """A message as it crosses a lane."""
    data = json.dumps(message).encode()
    return _SIZE.pack(len(data)) + data


def hear(receive: Callable[[int], bytes]) -> Any:
    """The next message: there is never more than one on its way. `receive` is a socket's `recv`."""
    data, size = b"", _SIZE.size
    while len(data) < size:
        if not (part := receive(_AT_ONCE)):
            raise ConnectionResetError("killed, crashed or late")
        data += part
        if len(data) >= _SIZE.size:
            size = _SIZE.size + _SIZE.unpack_from(data)[0]
    return json.loads(data[_SIZE.size :])


def _serve(library: Any, lane: socket.socket, memory: memoryview, at: int) -> None:
    """Answer what comes on a lane, until it ends."""
    try:
        lane.sendall(pack(0))
        while True:
            asked, *arguments = hear(lane.recv)
            try:
                answer: Any = [getattr(library, asked)(memory, at, *arguments)]
            except OSError as error:
                answer = str(error)
            lane.sendall(pack(answer))
    finally:
        os._exit(0)  # the parent is gone, or something that nobody here can mend has happened


def main() -> None:
    """Open the library, then serve every lane until the parent ends."""
    told = json.loads(sys.argv[1])
    parent, room = os.getppid(), told["room"]
    lanes = [socket.socket(fileno=fd) for fd in told["lanes"]]
    memory = memoryview(mmap.mmap(told["memory"], room * len(lanes)))
    try:
        library, at = runpy.run_path(told["program"])["start"](told, memory)
    except Exception as error:
        for lane in lanes:
            lane.sendall(pack(str(error) or type(error).__name__))
        os._exit(1)
    for i, lane in enumerate(lanes):
        part = memory[i * room : (i + 1) * room]
        threading.Thread(target=_serve, args=(library, lane, part, at + i * room), daemon=True).start()
    while os.getppid() == parent and not select.select([0], [], [], 1)[0]:
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
