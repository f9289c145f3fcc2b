"""A tier that writes into its callers' buffers by itself, a little at a time, as a disk does: what it tears is seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lms_tiers.messages import CacheEngineKey, ChunkMeta
from tests.tiered.conftest import Weighed


class Straight(Weighed):
    """Weighed memory that is read piece by piece from where it lies.

    Attributes
    ----------
    asked : list of int
        How many chunks each call of `get_many_into` asked for.
    damaged : set of str
        Chunks of which half is written, and then the damage seen.
    before, middle : callable
        Called before each chunk is written, and when its first bytes are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.damaged: set[str] = set()
        self.before: Callable[[CacheEngineKey], None] = lambda key: None
        self.middle: Callable[[CacheEngineKey], None] = lambda key: None

    def get_many_into(
        self, requests: Iterable[tuple[CacheEngineKey, Sequence[Any]]], **wanted: Any
    ) -> list[ChunkMeta | None]:
        assert not wanted, "a backend of before there was more"
        asked = list(requests)
        self.asked.append(len(asked))
        return [self._read(key, buffers) for key, buffers in asked]

    def _read(self, key: CacheEngineKey, buffers: Sequence[memoryview]) -> ChunkMeta | None:
        self.before(key)
        found = self._open().get(key.to_string())
        if found is None or len(found[0]) > sum(map(len, buffers)):
            return None
        _, meta = found
        at = 0
        for buffer in buffers:
            for begin in range(0, min(len(buffer), meta.length - at), 16):
                data, _ = self._chunks.get(key.to_string(), found)  # what is there at this moment
                piece = data[at + begin : at + min(begin + 16, len(buffer))]
                buffer[begin : begin + len(piece)] = piece
                if not at + begin:
                    self.middle(key)
                time.sleep(0)
                if key.to_string() in self.damaged:
                    self._chunks.pop(key.to_string(), None)
                    return None
            at += len(buffer)
        return meta
