"""A tier whose backend lists what it holds no faster than it is told to, taken over in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import ChunkMeta, OpaqueKey


class Slow:
    """What a backend over weighed memory that outlives its store lists no faster than it is told to.

    Its chunks carry `first` and the numbers after it.
    """

    def __init__(self, bench: Any, chunks: int, size: int = 100, first: int = 0) -> None:
        backend: Any = bench.weighed()
        backend.__class__ = type(
            "Slow", (type(backend),),
            {
                "capabilities": replace(backend.capabilities, persistent=True),
                "held": lambda self: (len(self._held), sum(self._held.values())),
                "locate": lambda _, key: self.locate(key),
                "contains": lambda _, key: self.locate(key) is not None,
                "iter_keys": lambda self: iter(self.list_keys()),
                "scan": lambda _: self.scan(),
                "save_state": lambda _, state: setattr(self, "state", state),
                "load_state": lambda _: self.state,
                "close": lambda self: None,
            },
        )  # fmt: skip
        self.backend = backend
        self.state: bytes | None = None
        self.located: list[str] = []
        self.sick: BaseException | None = None
        self.before_answer: Callable[[], None] | None = None
        self._allowed = threading.Semaphore(0)
        self.told = 0
        for i in range(chunks):
            bench.put(backend, i, first + i, size)

    def _info(self, text: str) -> ChunkInfo | None:
        obj = self.backend.get(OpaqueKey(text))
        if obj is None:
            return None
        meta = ChunkMeta(obj.length, obj.fmt, str(obj.dtype).removeprefix("torch."), tuple(obj.shape))
        return ChunkInfo(OpaqueKey(text), meta, obj.length)

    def locate(self, key: Any) -> ChunkInfo | None:
        self.located.append(key.to_string())
        if self.sick is not None:
            raise self.sick
        info = self._info(key.to_string())
        if self.before_answer is not None:
            self.before_answer()
        return info

    def scan(self) -> Iterator[ChunkInfo]:
        for text in list(self.backend._held):
            assert self._allowed.acquire(timeout=60), "nobody lets the listing go on"
            if self.sick is not None:
                raise self.sick
            info = self._info(text)
            if info is not None:
                yield info
            self.told += 1

    def allow(self, chunks: int = 1 << 10) -> None:
        """Let so many more chunks be listed."""
        self._allowed.release(chunks)


def loaded(bench: Any, store: Any) -> None:
    bench.until(lambda: not store.loading)


def order(store: Any, tier: int = -1) -> list[int]:
    """The chunks of a tier, the first to leave first."""
    h = store._h
    with h.lock:
        return [int(text.split("@")[3], 16) for text, _ in h.victims(h.tiers[tier], 1 << 40)]
