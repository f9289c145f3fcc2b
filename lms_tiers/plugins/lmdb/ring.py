"""Buffers of batches that are used again once nobody but this holds them: the first touch of fresh memory is dear.

They are bytearrays, so that whoever is given one may take it over without a copy.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import Final

from lms_tiers.messages import ChunkMeta
from lms_tiers.wire.buffers import receive_buffer

#: Shorter ones come from the allocator, which keeps them warm by itself.
_SMALLEST: Final = 32 << 10
_ALONE: Final = 2  # references to an object that only a container holds, as `sys.getrefcount` counts them


class Ring:
    """Hands out bytearrays; of those it remembers, `limit` bytes together, the oldest of its length is the next one."""

    def __init__(self, limit: int) -> None:
        self._limit: Final = limit
        self._lock: Final = threading.Lock()
        self._handed: Final[dict[int, deque[bytearray]]] = {}
        self._nbytes = 0

    def lend(self, meta: ChunkMeta) -> list[memoryview]:
        """Memory for a chunk of this metadata, of any content: a target of reads, which fill it or throw it away."""
        nbytes = meta.length
        if nbytes < _SMALLEST:
            return [memoryview(receive_buffer(nbytes))]
        with self._lock:
            handed = self._handed.setdefault(nbytes, deque())
            if handed and sys.getrefcount(handed[0]) == _ALONE:
                handed.rotate(-1)
                return [memoryview(handed[-1])]
            fresh = receive_buffer(nbytes)
            handed.append(fresh)
            self._nbytes += nbytes
            while self._nbytes > self._limit:
                oldest = next(iter(self._handed))  # of the length that was first asked for
                self._nbytes -= oldest
                self._handed[oldest].popleft()
                if not self._handed[oldest]:
                    del self._handed[oldest]
            return [memoryview(fresh)]
