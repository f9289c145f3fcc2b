"""Many requests on one connection: sent ahead of their answers, which come in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from lms_tiers.client.connection import Buffer, Connection

_T = TypeVar("_T")

#: Requests on their way at one time: enough to hide the round trip, few enough that their answers fit the socket.
WINDOW: Final = 32


def pipeline(connection: Connection, frames: Sequence[Sequence[Buffer]], read: Callable[[int], _T]) -> Iterator[_T]:
    """Send `frames`, at most a window ahead of the answers, and yield what `read` makes of each answer."""
    sent = 0
    for i in range(len(frames)):
        if sent - i <= WINDOW // 2:
            ready = frames[sent : i + WINDOW]
            connection.send([buffer for frame in ready for buffer in frame])
            sent += len(ready)
        yield read(i)
