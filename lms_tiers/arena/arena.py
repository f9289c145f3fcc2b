"""The arena's table: which chunk holds which pages, who still reads them, and when they may be used again.

It moves no bytes and knows no memory, so the same table serves host and device. Backends copy between `reserve` and
`publish`, and between `lease` and `release`; the lock is never held meanwhile.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from lms_tiers.arena.pages import PageRuns, Run
from lms_tiers.errors import BackendClosedError, CapacityError, ForkedProcessError, ValueTooLargeError
from lms_tiers.messages import ChunkMeta

#: From so many reads on, those that are over are forgotten whenever one is added.
_MANY_READS: Final = 4

#: Something a device finishes later (an event); the arena only asks whether it is done.
Fence: TypeAlias = Any


@dataclass(slots=True, eq=False)
class Chunk:
    """One chunk's place in the arena.

    Attributes
    ----------
    runs : tuple of (first page, pages)
        In the order of the chunk's bytes.
    after : list of fences
        Work on these pages by earlier chunks that a writer must let go first.
    written : fence or None
        The copy that fills the pages, where it may still be under way after `publish`.
    reads : list of fences
        Copies out of the pages that may still be under way.
    """

    key: str
    meta: ChunkMeta
    pages: int
    runs: tuple[Run, ...]
    after: list[Fence] = field(default_factory=list)
    written: Fence | None = None
    reads: list[Fence] = field(default_factory=list)
    _readers: int = 0
    _gone: bool = False


class Arena:
    """Pages for chunks: reserve, fill, publish; read under a lease; give back when nobody reads any more.

    Pages of a removed or overwritten chunk stay its own until its last reader has left. A reservation that fails only
    because of such pages waits for them up to `patience` seconds.

    Parameters
    ----------
    name : str
        For errors.
    capacity : int
        Bytes; whole pages of it are used.
    page_bytes : int
    fence_done : callable
        Whether a fence is passed.
    patience : float
        Seconds.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        page_bytes: int,
        *,
        fence_done: Callable[[Fence], bool] = lambda fence: True,
        patience: float = 1.0,
    ) -> None:
        self.name: Final = name
        self.page_bytes: Final = page_bytes
        self.usable_bytes: Final = capacity // page_bytes * page_bytes
        self._pages: Final = PageRuns(capacity // page_bytes)
        self._table: Final[dict[str, Chunk]] = {}
        self._fence_done: Final = fence_done
        self._patience: Final = patience
        self._lock: Final = threading.Lock()
        self._changed: Final = threading.Condition(self._lock)
        # Pages whose chunk is gone but on which a device still works: free, for a writer that waits for the fences.
        self._fenced: Final[deque[Chunk]] = deque()
        self._fenced_pages = 0
        # Fences of pages that were freed before they passed: every writer waits for them, whichever pages it got.
        self._loose: list[Fence] = []
        self._busy = 0  # leases and reservations not ended
        self._leaving = 0  # pages of chunks that are gone and still read
        # Leases ended where the lock could not be taken (a finaliser may run inside any allocation); see `drop`.
        self._dropped: Final[deque[Chunk]] = deque()
        self._peak = 0
        self.bytes_written = 0
        self.bytes_read = 0
        self._closed = False
        self._pid: Final = os.getpid()

    def check(self) -> None:
        """Raise what a call on a closed or forked arena raises."""
        if self._closed:
            raise BackendClosedError(self.name)
        if os.getpid() != self._pid:
            raise ForkedProcessError(self.name)

    @property
    def forked(self) -> bool:
        """Whether this is a child's copy of a parent's arena."""
        return os.getpid() != self._pid

    def pages_of(self, nbytes: int) -> int:
        """Pages that a chunk of `nbytes` takes."""
        return -(-nbytes // self.page_bytes)

    def get(self, key: str) -> Chunk | None:
        """The chunk published under `key`, without a lease: for its numbers only."""
        return self._table.get(key)

    def chunks(self) -> list[Chunk]:
        """Every chunk published now, in the order of the first put."""
        with self._changed:
            return list(self._table.values())

    def __len__(self) -> int:
        return len(self._table)

    @property
    def used_bytes(self) -> int:
        """Bytes of pages that hold chunks, reservations, or chunks that are gone and still read."""
        return (self._pages.total - self._pages.free - self._fenced_pages) * self.page_bytes

    @property
    def leaving_bytes(self) -> int:
        """The part of `used_bytes` whose chunks are gone and still read."""
        return self._leaving * self.page_bytes

    @property
    def peak_bytes(self) -> int:
        """The most `used_bytes` ever was."""
        return self._peak * self.page_bytes

    @property
    def free_runs(self) -> int:
        """How many pieces the free pages lie in."""
        return self._pages.runs

    # -- writing ---------------------------------------------------------------------------------------------------

    def reserve(self, key: str, meta: ChunkMeta) -> Chunk:
        """Pages for a new chunk, seen by nobody until `publish`; `abandon` gives them back.

        Raises
        ------
        ValueTooLargeError
            The whole arena is smaller.
        CapacityError
            Too few pages are free, and would be if no reader held any.
        """
        pages = self.pages_of(meta.length)
        if pages > self._pages.total:
            raise ValueTooLargeError(key, meta.length, self.usable_bytes, self.name)
        deadline: float | None = None
        collected = False
        with self._changed:
            while True:
                self.check()
                self._settle()
                chunk = self._take(key, meta, pages)
                if chunk is not None:
                    self._busy += 1
                    return chunk
                now = time.monotonic()
                deadline = deadline if deadline is not None else now + self._patience
                available = self._pages.free + self._fenced_pages
                if available + self._leaving < pages or (now >= deadline and collected):
                    raise CapacityError(self.name, pages * self.page_bytes, available * self.page_bytes)
                if now >= deadline - self._patience / 2 and not collected:
                    # A view that a reader left in a reference cycle lives until somebody collects it.
                    collected = True
                    self._collect()
                    continue
                # Bounded steps: a lease dropped by a finaliser that could not take the lock notifies nobody.
                self._changed.wait(min(deadline - now, 0.01))

    def publish(self, chunk: Chunk) -> None:
        """Make a filled reservation the chunk of its key; the one before leaves."""
        with self._changed:
            self._ended()
            if self._closed:
                self._give_back(chunk)
                raise BackendClosedError(self.name)
            old = self._table.get(chunk.key)
            self._table[chunk.key] = chunk
            self.bytes_written += chunk.meta.length
            if old is not None:
                self._leave(old)

    def abandon(self, chunk: Chunk) -> None:
        """Give an unpublished reservation back."""
        with self._changed:
            self._ended()
            self._give_back(chunk)
            self._changed.notify_all()

    def remove(self, key: str) -> None:
        """Forget `key`; an absent one is no error."""
        with self._changed:
            if self._closed:
                raise BackendClosedError(self.name)
            old = self._table.pop(key, None)
            if old is not None:
                self._leave(old)

    # -- reading ---------------------------------------------------------------------------------------------------

    def lease(self, key: str) -> Chunk | None:
        """The chunk of `key`, whose pages stay as they are until `release`, or None."""
        with self._lock:
            if self._closed:
                raise BackendClosedError(self.name)
            chunk = self._table.get(key)
            if chunk is not None:
                chunk._readers += 1
                self._busy += 1
                self.bytes_read += chunk.meta.length
            return chunk

    def release(self, chunk: Chunk, read: Fence | None = None) -> None:
        """End a lease; `read` is a copy out of the pages that may still be under way."""
        with self._lock:
            if read is not None:
                if len(chunk.reads) >= _MANY_READS:
                    chunk.reads = [fence for fence in chunk.reads if not self._fence_done(fence)]
                chunk.reads.append(read)
            self._release(chunk)

    def drop(self, chunk: Chunk) -> None:
        """End a lease from a finaliser, which may run anywhere, also in a thread that holds the lock."""
        self._dropped.append(chunk)
        if self._changed.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._changed.release()

    def close(self) -> bool:
        """Forget every chunk; what is still read stays until its readers leave. Answers whether this call closed it."""
        if self.forked:
            was_open, self._closed = not self._closed, True
            return was_open
        with self._changed:
            was_open, self._closed = not self._closed, True
            for chunk in self._table.values():
                self._leave(chunk)
            self._table.clear()
            self._changed.notify_all()
            return was_open

    def drain(self) -> list[Fence]:
        """After `close`: wait for the calls still running, then answer the fences before which no memory may go."""
        with self._changed:
            while self._busy:
                self._settle()
                self._changed.wait(0.01)
            pending = [fence for chunk in self._fenced for fence in chunk.reads]
            return pending + self._loose

    # -- under the lock --------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        self._changed.release()
        try:
            gc.collect()
        finally:
            self._changed.acquire()

    def _take(self, key: str, meta: ChunkMeta, pages: int) -> Chunk | None:
        if pages > self._pages.free + self._fenced_pages:
            return None
        while pages > self._pages.free:
            self._loose += self._unfence()
        if self._loose:
            self._loose = [fence for fence in self._loose if not self._fence_done(fence)]
        runs = self._pages.take(pages)
        assert runs is not None
        self._peak = max(self._peak, self._pages.total - self._pages.free - self._fenced_pages)
        return Chunk(key, meta, pages, runs, list(self._loose))

    def _unfence(self) -> list[Fence]:
        """Free the pages fenced first; answers their fences."""
        chunk = self._fenced.popleft()
        self._fenced_pages -= chunk.pages
        self._pages.give(chunk.runs)
        return chunk.reads

    def _settle(self) -> None:
        """Note leases that finalisers ended, and free what devices have finished with."""
        while self._dropped:
            self._release(self._dropped.popleft())
        # Fences of one device pass nearly in order: looking at the oldest only keeps this cheap.
        while self._fenced and all(self._fence_done(fence) for fence in self._fenced[0].reads):
            self._unfence()

    def _ended(self) -> None:
        self._busy -= 1
        if self._closed and not self._busy:
            self._changed.notify_all()

    def _release(self, chunk: Chunk) -> None:
        chunk._readers -= 1
        self._ended()
        if chunk._gone and not chunk._readers:
            self._leaving -= chunk.pages
            self._give_back(chunk)
            self._changed.notify_all()

    def _leave(self, chunk: Chunk) -> None:
        chunk._gone = True
        if chunk._readers:
            self._leaving += chunk.pages
        else:
            self._give_back(chunk)
            self._changed.notify_all()

    def _give_back(self, chunk: Chunk) -> None:
        # `chunk.after` need not be kept: those fences bind every writer until they have passed.
        pending = [chunk.written, *chunk.reads]
        chunk.reads = [fence for fence in pending if fence is not None and not self._fence_done(fence)]
        if chunk.reads:
            self._fenced.append(chunk)
            self._fenced_pages += chunk.pages
        else:
            self._pages.give(chunk.runs)
