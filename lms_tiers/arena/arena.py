"""The arena's table: which chunk holds which pages, who still reads them, and when they may be used again.

It moves no bytes and knows no memory, so the same table serves host and device. Backends copy between `reserve` and
`publish`, and between `lease` and `release`; the lock is never held meanwhile.

An interrupt may come between any two steps. So which pages are free is never believed after one: it is worked out anew
from the chunks that are published, reserved, leaving or fenced, each of which is noted before the step it is noted for.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

from lms_tiers.arena.chunk import Chunk, Fence
from lms_tiers.arena.pages import PageRuns
from lms_tiers.changes import Changes
from lms_tiers.errors import BackendClosedError, CapacityError, ForkedProcessError, ValueTooLargeError
from lms_tiers.messages import ChunkMeta

#: From so many reads on, those that are over are forgotten whenever one is added.
_MANY_READS: Final = 4


class Arena:
    """Pages for chunks: reserve, fill, publish; read under a lease; give back when nobody reads any more.

    Pages of a removed or overwritten chunk stay its own until its last reader has left. A reservation that fails only
    because of such pages waits for them up to `patience` seconds; no other waits for the same readers again, so that
    who can let another chunk leave does so at once as long as a view is held.

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
        self._changes: Final = Changes()
        #: Reservations, and the thread whose call has each.
        self._reserved: Final[dict[Chunk, int]] = {}
        #: Chunks that are gone, or about to go, and whose pages were not given back.
        self._left: Final[set[Chunk]] = set()
        # Pages whose chunk is gone but on which a device still works: free, for a writer that waits for the fences.
        self._fenced: Final[deque[Chunk]] = deque()
        # Fences of pages that were freed before they passed: every writer waits for them, whichever pages it got.
        self._loose: list[Fence] = []
        self._fenced_pages = 0
        #: Whether somebody is at the pages, or was interrupted at them.
        self._torn = False
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
        with self._lock:
            return list(self._table.values())

    def __len__(self) -> int:
        return len(self._table)

    @property
    def used_bytes(self) -> int:
        """Bytes of pages that hold chunks, reservations, or chunks that are gone and still read."""
        with self._lock:
            self._settle()
            return (self._pages.total - self._pages.free - self._fenced_pages) * self.page_bytes

    @property
    def leaving_bytes(self) -> int:
        """The part of `used_bytes` whose chunks are gone and still read."""
        with self._lock:
            self._settle()
            return self._leaving() * self.page_bytes

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
            Too few pages are free, and would be if no reader held any; or readers held them too long.
        """
        pages = self.pages_of(meta.length)
        if pages > self._pages.total:
            raise ValueTooLargeError(key, meta.length, self.usable_bytes, self.name)
        deadline: float | None = None
        awaited: list[Chunk] = []
        collected = False
        while True:
            with self._lock:
                self.check()
                self._settle()
                chunk = self._take(key, meta, pages)
                if chunk is not None:
                    return chunk
                now = time.monotonic()
                if deadline is None:
                    deadline, awaited = now + self._patience, list(self._left)
                late = now >= deadline and collected
                for old in awaited if late else ():
                    old.outstayed = True
                available = self._pages.free + self._fenced_pages
                if late or available + sum(old.pages for old in self._left if not old.outstayed) < pages:
                    raise CapacityError(self.name, pages * self.page_bytes, available * self.page_bytes)
                change = self._changes.next()
            if now >= deadline - self._patience / 2 and not collected:
                # A view that a reader left in a reference cycle lives until somebody collects it.
                collected = True
                gc.collect()
            else:
                # Bounded steps: a holder that dies tells nobody.
                self._changes.wait(change, min(deadline - now, 0.01))

    def publish(self, chunk: Chunk) -> None:
        """Make a filled reservation the chunk of its key; the one before leaves."""
        with self._lock:
            self._repair()
            if self._closed:
                self._abandon(chunk)
                raise BackendClosedError(self.name)
            self._torn = True
            old = self._table.get(chunk.key)
            if old is not None:
                self._left.add(old)
            self._table[chunk.key] = chunk
            self._reserved.pop(chunk, None)
            self._torn = False
            self.bytes_written += chunk.meta.length
            if old is not None:
                self._leave(old)

    def abandon(self, chunk: Chunk) -> None:
        """Give an unpublished reservation back; nothing happens where that is done."""
        with self._lock:
            self._repair()
            self._abandon(chunk)

    def remove(self, key: str) -> None:
        """Forget `key`; an absent one is no error."""
        with self._lock:
            self._repair()
            if self._closed:
                raise BackendClosedError(self.name)
            old = self._table.get(key)
            if old is not None:
                self._torn = True
                self._left.add(old)
                del self._table[key]
                self._torn = False
                self._leave(old)

    # -- reading ---------------------------------------------------------------------------------------------------

    def lease(self, key: str) -> Chunk | None:
        """The chunk of `key`, whose pages stay as they are until `release`, or None."""
        with self._lock:
            if self._closed:
                raise BackendClosedError(self.name)
            chunk = self._table.get(key)
            if chunk is not None:
                if len(chunk.readers) >= _MANY_READS:
                    chunk.forget_dead()
                chunk.readers.append(get_ident())
                self.bytes_read += chunk.meta.length
            return chunk

    def lend(self, chunk: Chunk, holder: Any) -> None:
        """Let a lease of this thread last until `holder` dies. Nobody has to end it."""
        with self._lock:
            chunk.readers.append(weakref.ref(holder))
            chunk.readers.remove(get_ident())

    def release(self, chunk: Chunk, read: Fence | None = None) -> None:
        """End a lease of this thread; `read` is a copy out of the pages that may still be under way."""
        with self._lock:
            if read is not None:
                if len(chunk.reads) >= _MANY_READS:
                    chunk.reads = [fence for fence in chunk.reads if not self._fence_done(fence)]
                chunk.reads.append(read)
            if get_ident() in chunk.readers:
                chunk.readers.remove(get_ident())
            if chunk in self._left:
                self._repair()
                self._leave(chunk)

    def mend(self) -> None:
        """End every lease and reservation of this thread, and find out anew which pages are free.

        After a call of this thread was interrupted, which may have come between a step and the note of it. Whoever
        calls this sees to it that no device is at the pages any more.
        """
        thread = get_ident()
        with self._lock:
            self._torn = True
            for chunk in [chunk for chunk, owner in self._reserved.items() if owner == thread]:
                self._left.add(chunk)  # published ones do not stay in there
                del self._reserved[chunk]
            for chunk in [*self._table.values(), *self._left]:
                chunk.readers = [reader for reader in chunk.readers if reader != thread]
            self._settle()
            self._changes.wake()

    def close(self) -> bool:
        """Forget every chunk; what is still read stays until its readers leave. Answers whether this call closed it."""
        if self.forked:
            was_open, self._closed = not self._closed, True
            return was_open
        with self._lock:
            self._repair()
            was_open, self._closed = not self._closed, True
            self._torn = True
            self._left.update(self._table.values())
            self._table.clear()
            self._torn = False
            self._settle()
            self._changes.wake()
            return was_open

    def drain(self) -> list[Fence]:
        """After `close`: wait for the calls still running, then answer the fences before which no memory may go."""
        while True:
            with self._lock:
                self._settle()
                if not self._left and not self._reserved:
                    pending = [fence for chunk in self._fenced for fence in chunk.reads]
                    return pending + self._loose
                change = self._changes.next()
            self._changes.wait(change, 0.01)

    # -- under the lock --------------------------------------------------------------------------------------------

    def _leaving(self) -> int:
        """Pages of chunks that are gone and still read."""
        return sum(chunk.pages for chunk in self._left)

    def _take(self, key: str, meta: ChunkMeta, pages: int) -> Chunk | None:
        if pages > self._pages.free + self._fenced_pages:
            return None
        self._torn = True
        while pages > self._pages.free:
            self._loose += self._fenced[0].reads  # before the pages are free
            self._unfence()
        if self._loose:
            self._loose = [fence for fence in self._loose if not self._fence_done(fence)]
        runs = self._pages.take(pages)
        assert runs is not None
        chunk = Chunk(key, meta, pages, runs, list(self._loose))
        self._reserved[chunk] = get_ident()
        self._torn = False
        self._peak = max(self._peak, self._pages.total - self._pages.free - self._fenced_pages)
        return chunk

    def _unfence(self) -> None:
        """Free the pages fenced first."""
        chunk = self._fenced[0]
        self._fenced_pages -= chunk.pages
        self._pages.give(chunk.runs)
        self._fenced.popleft()

    def _settle(self) -> None:
        """Give back what dead holders held, and free what devices have finished with."""
        self._repair()
        for chunk in list(self._left) if self._left else ():
            chunk.forget_dead()
            self._leave(chunk)
        # Fences of one device pass nearly in order: looking at the oldest only keeps this cheap.
        while self._fenced and all(self._fence_done(fence) for fence in self._fenced[0].reads):
            self._torn = True
            self._unfence()
            self._torn = False

    def _repair(self) -> None:
        """Where somebody was interrupted at the pages: find out anew which are free."""
        if not self._torn:
            return
        live = set(self._table.values())
        for chunk in [chunk for chunk in self._reserved if chunk in live]:
            del self._reserved[chunk]
        fenced = list(dict.fromkeys(chunk for chunk in self._fenced if chunk not in live))
        self._fenced.clear()
        self._fenced.extend(fenced)
        self._fenced_pages = sum(chunk.pages for chunk in fenced)
        self._left.difference_update(live, fenced)
        used = {*live, *fenced, *self._left, *self._reserved}
        self._pages.rebuild(run for chunk in used for run in chunk.runs)
        self._torn = False

    def _abandon(self, chunk: Chunk) -> None:
        if chunk in self._reserved:
            self._torn = True
            self._left.add(chunk)
            del self._reserved[chunk]
            self._torn = False
            self._leave(chunk)

    def _leave(self, chunk: Chunk) -> None:
        """Give the pages of a chunk that has left back, unless it is still read."""
        if chunk.readers or chunk not in self._left:
            return
        # `chunk.after` need not be kept: those fences bind every writer until they have passed.
        pending = [chunk.written, *chunk.reads]
        chunk.reads = [fence for fence in pending if fence is not None and not self._fence_done(fence)]
        self._torn = True
        if chunk.reads:
            self._fenced.append(chunk)
            self._fenced_pages += chunk.pages
        else:
            self._pages.give(chunk.runs)
        self._left.discard(chunk)
        self._torn = False
        self._changes.wake()
