"""Reading a chunk: from the highest tier granted, without a lock but for the look afterwards that it still stands.

A reader looks up, reads, and checks that the grant it used is still good; otherwise it looks up again. A drop implies
a granted lower copy or a real eviction, so this ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from lms_tiers.buffers import copy_bytes, writable_bytes
from lms_tiers.errors import BackendClosedError, DeadlineExceededError, InvalidBufferError
from lms_tiers.interface import ChunkView, LMSBackendInterface
from lms_tiers.keys import dtype_name
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj, described, over
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.hierarchy import Hierarchy
from lms_tiers.tiered.index import Entry
from lms_tiers.tiered.tier import Load, Tier

T = TypeVar("T")

#: How a chunk is asked of a backend: the backend, the key, the expected metadata → what was read, or None.
Ask = Callable[[LMSBackendInterface, Any, ChunkMeta], "T | None"]

_clock_ns = time.perf_counter_ns


class DamagedChunkError(Exception):
    """A backend answered something else than what it was given; never leaves this module."""


def whole(backend: LMSBackendInterface, key: CacheEngineKey, meta: ChunkMeta) -> LMSMemoryObj | None:
    """The chunk as a memory object, lengths checked."""
    obj = backend.get(key)
    if obj is not None and not (obj.length == meta.length == memoryview(obj.data).nbytes):
        raise DamagedChunkError
    return obj


def noted(tier: Tier, ask: Ask[T], key: Any, meta: ChunkMeta) -> T | None:
    """Ask, on record as being inside the backend: if it gets stuck, others are warned off."""
    with tier.inside():
        return ask(tier.backend, key, meta)


def in_time(tier: Tier, ask: Ask[T], key: Any, meta: ChunkMeta, deadline: float) -> T | None:
    """Ask in a thread of its own, and leave it behind when the time is over."""
    answer: list[T | None] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(noted(tier, ask, key, meta))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"lms-tiers-read-{tier.name}", daemon=True)
    thread.start()
    thread.join(deadline)
    if answer:
        return answer[0]
    raise errors[0] if errors else DeadlineExceededError(f"a read of tier {tier.name!r}", deadline)


class Reader:
    """Reads through the tiers of `hierarchy`.

    Parameters
    ----------
    promote : callable
        ``(text, entry, tier, obj or None)``: a chunk was hit below the top. Called with the lock held.
    """

    def __init__(
        self, hierarchy: Hierarchy, promote: Callable[[str, Entry, Tier, LMSMemoryObj | None], None], patience: float,
        deadline: float | None = None,
    ) -> None:  # fmt: skip
        self.h: Final = hierarchy
        self._promote: Final = promote
        self._patience: Final = patience
        self.deadline: Final = deadline
        self._top: Final = hierarchy.tiers[0]
        self.shares: Final = len(hierarchy.tiers) > 1
        self.hits = 0
        self.misses = 0

    # -- one chunk ---------------------------------------------------------------------------------------------------

    def get(self, key: CacheEngineKey, text: str, context: AccessContext) -> LMSMemoryObj | None:
        """The newest chunk, or None. Concurrent calls for one chunk of a lower tier share one read."""
        h = self.h
        top = self._top
        entry = h.index.get(text)
        if entry is None or not entry.tiers & h.up & 1:
            return self._get(key, text, context)
        # The same as `read` and `_attempt`, in one piece: most gets end here.
        epoch = top.epoch
        started = _clock_ns()
        obj: LMSMemoryObj | None = None
        error: BaseException | None = None
        try:
            obj = whole(top.backend, key, entry.meta)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as caught:
            error = caught
        took = _clock_ns() - started
        with h.lock:
            top.read_latency.add(took)
            if (
                obj is not None
                and text not in top.writing
                and top.epoch == epoch
                and h.index.get(text) is entry
                and entry.tiers & 1
                and not top.breaker.failures
            ):
                top.bytes_read += entry.meta.length
                self.hits += 1
                h.hit(top, text, entry, context)
                return obj if not self.shares or type(obj.data) is not bytearray else self.shared(obj)
            again = obj is not None or not self._blame(top, text, entry, epoch, error)
        return self._get(key, text, context, 0 if again else top.bit)

    def _get(self, key: CacheEngineKey, text: str, context: AccessContext, tried: int = 0) -> LMSMemoryObj | None:
        obj = self.read(key, text, context, whole, shared=True, tried=tried)
        return None if obj is None else self.shared(obj)

    def read(
        self, key: CacheEngineKey, text: str, context: AccessContext, ask: Ask[T], shared: bool = False, tried: int = 0
    ) -> T | None:
        """Read by `ask` from the highest tier that can, of those not `tried`; see the module."""
        h = self.h
        while True:
            entry = h.index.get(text)
            if entry is None:
                self._miss()
                return None
            tier = self._pick(text, entry, tried)
            if tier is None:
                if h.index.get(text) is not entry:
                    continue  # replaced meanwhile, and not unreachable
                self._miss()
                return None
            if tier.position and shared:
                load = Load(entry, threading.Event())
                leader = tier.loads.setdefault(text, load)
                if leader is not load:
                    if self._follow(leader, tier) and leader.entry is entry and leader.result is not None:
                        with h.lock:
                            self.hit(tier, text, entry, context)
                        return leader.result  # type: ignore[no-any-return]  # what `ask` of the same kind answered
                    if not leader.done.is_set():
                        tried |= tier.bit
                    continue
                try:
                    found = self._attempt(tier, key, text, entry, context, ask)
                    load.result = found[0]
                finally:
                    tier.loads.pop(text, None)
                    load.done.set()
            else:
                found = self._attempt(tier, key, text, entry, context, ask)
            if found[0] is not None:
                return found[0]
            if found[1]:
                tried |= tier.bit

    def _pick(self, text: str, entry: Entry, tried: int) -> Tier | None:
        """The highest tier to ask for `entry`."""
        h = self.h
        granted = entry.tiers & h.all & ~tried
        mask = granted & h.up
        if mask:
            tier = h.tiers[(mask & -mask).bit_length() - 1]
            if text in tier.writing:
                # Being overwritten in place. A copy below is still the newest generation; else wait for the writer.
                lower = mask & ~tier.bit
                if lower:
                    return h.tiers[(lower & -lower).bit_length() - 1]
                deadline = time.monotonic() + self._patience
                while True:
                    with h.lock:
                        if text not in tier.writing:
                            return tier
                        change = h.change()
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return None
                    h.wait(change, left)
            if tier.calls:
                with h.lock:
                    h.check_stall(tier)
                if not h.up & tier.bit:
                    return self._pick(text, entry, tried)
            return tier
        return h.probe(granted) if granted else None

    def _attempt(
        self, tier: Tier, key: CacheEngineKey, text: str, entry: Entry, context: AccessContext, ask: Ask[T]
    ) -> tuple[T | None, bool]:
        """One try in one tier: what was found, and whether the tier should not be asked again."""
        h = self.h
        epoch = tier.epoch
        started = _clock_ns()
        if tier.position:
            h.read_at = started
        error: BaseException | None = None
        found: T | None = None
        try:
            if not tier.position:
                found = ask(tier.backend, key, entry.meta)
            elif self.deadline is None or ask is not whole:
                found = noted(tier, ask, key, entry.meta)
            else:
                found = in_time(tier, ask, key, entry.meta, self.deadline)
        except (KeyboardInterrupt, SystemExit, InvalidBufferError):
            raise
        except BaseException as caught:
            error = caught
        ended = _clock_ns()
        if tier.position:
            h.read_at = ended
        with h.lock:
            tier.read_latency.add(ended - started)
            if found is None:
                return None, self._blame(tier, text, entry, epoch, error)
            if tier.breaker.failures:
                h.worked(tier)
            if not h.stands(tier, text, entry, epoch):
                return None, False
            tier.bytes_read += entry.meta.length
            self.hit(tier, text, entry, context, found)
            return found, False

    def _blame(self, tier: Tier, text: str, entry: Entry, epoch: int, error: BaseException | None) -> bool:
        """A tier answered nothing, or raised: whether to leave it out for the rest of this read. The lock is held."""
        h = self.h
        if error is not None and not isinstance(error, DamagedChunkError):
            h.failed(tier, text, error)
            return True
        if h.stands(tier, text, entry, epoch):
            # A backend answers None for a damaged chunk as for a sick medium: the breaker tells them apart.
            h.lose(tier, text, entry)
            h.failed(tier, text, error)
        return False

    def _follow(self, leader: Load, tier: Tier) -> bool:
        return leader.done.wait(self.h.stall)

    def hit(self, tier: Tier, text: str, entry: Entry, context: AccessContext, found: Any = None) -> None:
        """`tier` served `text`: count it, tell the policies, offer it to the tiers above. The lock is held."""
        self.hits += 1
        position = tier.position
        if not position:
            self.h.hit(tier, text, entry, context)
            return
        for above in self.h.tiers[:position]:
            above.misses += 1
        if entry.tiers & tier.bit and self.h.index.get(text) is entry:
            self.h.hit(tier, text, entry, context)
            self._promote(text, entry, tier, found if type(found) is LMSMemoryObj else None)

    def _miss(self) -> None:
        with self.h.lock:
            if self.h.closing:
                raise BackendClosedError("the store")
            self.misses += 1
            for tier in self.h.tiers:
                tier.misses += 1

    # -- other shapes ------------------------------------------------------------------------------------------------

    def get_into(self, key: CacheEngineKey, text: str, context: AccessContext, buffer: Any) -> ChunkMeta | None:
        """Read into the caller's buffer."""
        if self.deadline is not None:
            # A late backend must not write into a buffer that its caller has got back.
            obj = self.read(key, text, context, whole)
            if obj is None:
                return None
            writable = writable_bytes(buffer, obj.length)
            copy_bytes(writable[: obj.length], memoryview(obj.data).cast("B"))
            dtype, shape = described(obj)
            return ChunkMeta(obj.length, obj.fmt, dtype_name(dtype), tuple(shape))

        def ask(backend: LMSBackendInterface, key: CacheEngineKey, meta: ChunkMeta) -> ChunkMeta | None:
            writable_bytes(buffer, meta.length)
            found = backend.get_into(key, buffer)
            if found is not None and found.length != meta.length:
                raise DamagedChunkError
            return found

        return self.read(key, text, context, ask)

    @contextmanager
    def view(self, key: CacheEngineKey, text: str, context: AccessContext) -> Iterator[ChunkView | None]:
        """Borrow a chunk from the tier that holds it."""
        opened: list[Any] = []

        def ask(backend: LMSBackendInterface, key: CacheEngineKey, meta: ChunkMeta) -> ChunkView | None:
            while opened:
                opened.pop().__exit__(None, None, None)
            block = backend.view(key)
            view = block.__enter__()
            opened.append(block)
            if view is not None and not (view.meta.length == meta.length == sum(b.nbytes for b in view.buffers)):
                raise DamagedChunkError
            return view

        try:
            yield self.read(key, text, context, ask)
        finally:
            while opened:
                opened.pop().__exit__(None, None, None)

    def shared(self, obj: LMSMemoryObj) -> LMSMemoryObj:
        """`obj` as a caller gets it."""
        if self.shares and type(obj.data) is bytearray:
            # The tier above and other readers may hold the same buffer: nobody writes to it.
            view: Any = memoryview(obj.data).toreadonly()
            return over(obj, view)
        return obj
