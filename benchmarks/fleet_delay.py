"""A cable that holds every frame for so long each way, for kernels without netem.

    python fleet_delay.py ONE OTHER SECONDS

Frames are taken off one interface and put on the other as they are, with what the kernel notes of checksums and
segments that are left to do.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque
from typing import Final

_ALL: Final = 3
_PACKET: Final = 263
_ADD_MEMBERSHIP, _VNET_HDR, _PROMISC = 1, 15, 1
_OUTGOING: Final = 4
_FRAME: Final = 1 << 17


def tap(name: str) -> socket.socket:
    """All that arrives at an interface, and a way to send there."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    sock.bind((name, _ALL))
    sock.setsockopt(_PACKET, _VNET_HDR, 1)
    sock.setsockopt(
        _PACKET, _ADD_MEMBERSHIP, socket.if_nametoindex(name).to_bytes(4, sys.byteorder) + bytes([_PROMISC]) + bytes(11)
    )
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    sock.setblocking(False)
    return sock


def main() -> None:
    """Forward until killed."""
    one, other = tap(sys.argv[1]), tap(sys.argv[2])
    delay = float(sys.argv[3])
    way = {one: other, other: one}
    held: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        for sock in select.select([one, other], [], [], wait)[0]:
            frame, about = sock.recvfrom(_FRAME)
            if about[2] != _OUTGOING:
                held.append((time.monotonic() + delay, way[sock], frame))
        while held and held[0][0] <= time.monotonic():
            _, target, frame = held.popleft()
            try:
                target.send(frame)
            except BlockingIOError:
                continue  # lost, as on any line that is full
            except OSError as error:
                print(f"a frame of {len(frame)} bytes was lost: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
