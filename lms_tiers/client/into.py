"""Where a chunk that is read goes: a caller's buffers, if it is the one that is wanted and they can take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lms_tiers.buffers import room_for
from lms_tiers.errors import InvalidBufferError
from lms_tiers.messages import ChunkMeta


class Into:
    """Writable buffers, one after another, for a chunk that is just as `expected`, where that is given.

    Attributes
    ----------
    lent : bool
        Whether something may have been written into the buffers.
    """

    __slots__ = ("_buffers", "_expected", "lent")

    def __init__(self, buffers: Sequence[Any], expected: ChunkMeta | None = None) -> None:
        self._buffers = buffers
        self._expected = expected
        self.lent = False

    def __call__(self, meta: ChunkMeta) -> list[memoryview] | None:
        """The buffers for a chunk of this metadata; None: it is not wanted, or they cannot take it."""
        if self._expected not in (None, meta):
            return None
        try:
            found = room_for(self._buffers, meta.length)
        except InvalidBufferError:
            return None
        self.lent = True
        return found
