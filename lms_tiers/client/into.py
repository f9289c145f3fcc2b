"""Where a chunk that is read goes: memory of its own, or a caller's buffers, if it is wanted and they can take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lms_tiers.buffers import room_for
from lms_tiers.errors import InvalidBufferError
from lms_tiers.messages import ChunkMeta
from lms_tiers.wire.buffers import paged_buffer


class Into:
    """Writable buffers, one after another, for a chunk that is just as `expected`, where that is given.

    Attributes
    ----------
    lent : bool
        Whether something may have been written into the buffers.
    fault : InvalidBufferError or None
        Why they cannot take the chunk.
    """

    __slots__ = ("_buffers", "_expected", "fault", "lent")

    def __init__(self, buffers: Sequence[Any], expected: ChunkMeta | None = None) -> None:
        self._buffers = buffers
        self._expected = expected
        self.lent = False
        self.fault: InvalidBufferError | None = None

    def __call__(self, meta: ChunkMeta) -> list[memoryview] | None:
        """The buffers for a chunk of this metadata; None: it is not wanted, or they cannot take it."""
        if self._expected not in (None, meta):
            return None
        try:
            found = room_for(self._buffers, meta.length)
        except InvalidBufferError as error:
            self.fault = error.with_traceback(None)  # which keeps this frame
            return None
        self.lent = True
        return found


class Fresh:
    """Memory of its own: `data`, once the chunk is there."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def __call__(self, meta: ChunkMeta) -> list[memoryview]:
        """Memory for a chunk of this metadata."""
        self.data = paged_buffer(meta.length)
        return [memoryview(self.data)]
