"""Reading a chunk: from the highest tier granted, without a lock but for the look afterwards that it still stands.

A reader looks up, reads, and checks that the grant it used is still good; otherwise it looks up again. A drop implies
a granted lower copy or a real eviction, so this ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from lms_tiers.buffers import copy_bytes, writable_bytes
from lms_tiers.errors import BackendClosedError, InvalidBufferError
from lms_tiers.interface import ChunkInFile, ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj, OpaqueKey, key_text, over
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry, Load
from lms_tiers.tiered.state.tier import Tier
from lms_tiers.tiered.state.uses import MOST_NOTED, Chains

_clock_ns = time.perf_counter_ns

T = TypeVar("T")

#: How a chunk is asked of a backend: the backend, the key, the expected metadata → what was read, or None.
Ask = Callable[[LMSBackendInterface, Any, ChunkMeta], "T | None"]


class DamagedChunkError(Exception):
    """A backend answered something else than what it was given; never leaves the store."""


def whole(backend: LMSBackendInterface, key: CacheEngineKey, meta: ChunkMeta) -> LMSMemoryObj | None:
    """The chunk as a memory object, lengths checked."""
    obj = backend.get(key)
    if obj is not None and not obj.length == meta.length == memoryview(obj.data).nbytes:
        raise DamagedChunkError
    return obj


def fetch(h: Hierarchy, source: Tier, text: str, entry: Entry) -> LMSMemoryObj | None:
    """The chunk's bytes from a tier that holds them, if they are still the newest generation's."""
    epoch = source.epoch
    error: BaseException | None = None
    obj: LMSMemoryObj | None = None
    try:
        obj = whole(source.backend, OpaqueKey(text), entry.meta)
    except BaseException as caught:
        error = caught.with_traceback(None)  # which keeps this frame
    with h.lock:
        stands = h.stands(source, text, entry, epoch)
        if obj is not None:
            if source.failing:
                source.worked()
            source.bytes_read += entry.meta.length
            return obj if stands else None
        if stands and (error is None or isinstance(error, DamagedChunkError)):
            h.lose(source, text, entry)
        # Another length may be that of a newer chunk which is just being written.
        if stands or not (error is None or isinstance(error, DamagedChunkError)):
            source.failed(text, error)
    return None


class Reader:
    """Reads through the tiers of `hierarchy`.

    Parameters
    ----------
    patience : float
        Seconds to wait for the writer of a chunk that is being overwritten.
    deadline : float or None
        Seconds a read below the top may take.
    """

    def __init__(
        self, hierarchy: Hierarchy, chains: Chains, clock: Callable[[], float], patience: float,
        deadline: float | None = None,
    ) -> None:  # fmt: skip
        self.h: Final = hierarchy
        self._chains: Final = chains
        self._clock: Final = clock
        self._patience: Final = patience
        self.deadline: Final = deadline
        self._top: Final = hierarchy.tiers[0]
        self.shares: Final = len(hierarchy.tiers) > 1 or hierarchy.edge is not None
        self.misses = 0

    # -- one chunk ---------------------------------------------------------------------------------------------------

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        """The newest chunk, or None. Concurrent calls for one chunk of a lower tier share one read.

        In one piece, as `read` and `_attempt` say it in several: most gets end here, and each function and object they
        touch is a line of cache that a busy server lacks. A chunk below the top, a tier that is not well, and whatever
        does not come out plainly are left to them.
        """
        h = self.h
        try:
            text = key.to_string()
            entry = h.index.get(text)
        except (AttributeError, TypeError):
            entry = None  # said better by `key_text`
        if entry is None:
            text = key_text(key)
            h.settle(text)
            return self.get_one(key, text, self._chains.next(self._clock(), text))
        context = self._chains.next(self._clock(), text)
        bits = entry.tiers & h.up
        bit = bits & -bits
        tier = self._top
        if bit != 1 or tier.failing:
            return self.get_one(key, text, context)
        epoch = tier.epoch
        started = _clock_ns()
        obj: LMSMemoryObj | None = None
        error: BaseException | None = None
        try:
            obj = tier.backend.get(key)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as caught:
            error = caught.with_traceback(None)  # which keeps this frame
        took = _clock_ns() - started
        # As `Hierarchy.stands`, in the order that it needs without the lock.
        if (
            obj is not None
            and obj.length == entry.meta.length == memoryview(obj.data).nbytes
            and entry.tiers & 1
            and text not in tier.writing
            and tier.epoch == epoch
            and h.index.get(text) is entry
        ):
            noted = h.noted
            noted.append((tier, text, entry, context, took, None))
            if len(noted) >= MOST_NOTED:
                h.tell()
            return obj if type(obj.data) is not bytearray else self.shared(obj)
        if obj is not None and not obj.length == entry.meta.length == memoryview(obj.data).nbytes:
            obj, error = None, DamagedChunkError()
        found, sick = self._judged(tier, text, entry, epoch, context, obj, error, took)
        return found or self.get_one(key, text, context, tier.bit if sick else 0)

    def get_one(
        self, key: CacheEngineKey, text: str, context: AccessContext | float, tried: int = 0
    ) -> LMSMemoryObj | None:
        """As `get`, for a key whose text was checked, from tiers that were not `tried`."""
        if type(context) is float:
            context = AccessContext(context)
        obj = self.read(key, text, context, whole, shared=True, tried=tried)  # type: ignore[arg-type]  # no float
        return None if obj is None else self.shared(obj)

    def read(
        self, key: CacheEngineKey, text: str, context: AccessContext, ask: Ask[T], shared: bool = False, tried: int = 0
    ) -> T | None:
        """Read by `ask` from the highest tier that can, of those not `tried`; see the module."""
        h = self.h
        while True:
            entry = h.index.get(text)
            if entry is None:
                self.miss()
                return None
            tier = self._pick(text, entry, tried)
            if tier is None:
                if h.index.get(text) is not entry:
                    continue  # replaced meanwhile, and not unreachable
                self.miss()
                return None
            if tier.position and shared:
                load = Load(entry)
                leader = tier.loads.setdefault(text, load)
                if leader is not load:
                    done = leader.wait(tier.stall, h.lock)
                    if done and leader.entry is entry and leader.result is not None:
                        with h.lock:
                            h.recency.hit(tier, text, entry, context)
                        return leader.result  # type: ignore[no-any-return]  # what `ask` of the same kind answered
                    if not done:
                        tried |= tier.bit
                    continue
                try:
                    found = self._attempt(tier, key, text, entry, context, ask)
                    load.result = found[0]
                finally:
                    tier.loads.pop(text, None)
                    load.finish()
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
                return tier if h.wait_for(lambda: text not in tier.writing, self._patience) else None
            if tier.calls:
                with h.lock:
                    tier.look()
                if not h.up & tier.bit:
                    return self._pick(text, entry, tried)
            return tier
        return h.probe(granted) if granted else None

    def _attempt(
        self, tier: Tier, key: CacheEngineKey, text: str, entry: Entry, context: AccessContext, ask: Ask[T]
    ) -> tuple[T | None, bool]:
        """One try in one tier: what was found, and whether the tier should not be asked again."""
        epoch = tier.epoch
        started = _clock_ns()
        error: BaseException | None = None
        found: T | None = None
        try:
            if not tier.position:
                found = ask(tier.backend, key, entry.meta)
            elif self.deadline is None or ask is not whole:
                found = tier.inside(ask, tier.backend, key, entry.meta)
            else:  # by another thread, which is left behind when the time is over
                found = tier.askers.ask(partial(tier.inside, ask, tier.backend, key, entry.meta), self.deadline)
        except (KeyboardInterrupt, SystemExit, InvalidBufferError):
            raise
        except BaseException as caught:
            error = caught.with_traceback(None)  # which keeps this frame, and what `ask` was given
        return self._judged(tier, text, entry, epoch, context, found, error, _clock_ns() - started)

    def _judged(
        self, tier: Tier, text: str, entry: Entry, epoch: int, context: AccessContext | float, found: T | None,
        error: BaseException | None, took: int,
    ) -> tuple[T | None, bool]:  # fmt: skip
        """What a tier answered, if it stands, and whether to leave the tier out for the rest of this read."""
        h = self.h
        with h.lock:
            tier.read_latency.add(took)
            stands = h.stands(tier, text, entry, epoch)
            if found is not None:
                if tier.failing:
                    tier.worked()
                if stands:
                    tier.bytes_read += entry.meta.length
                    h.recency.hit(tier, text, entry, context, found if isinstance(found, LMSMemoryObj) else None)
                return found if stands else None, False
            if error is not None and not isinstance(error, DamagedChunkError):
                tier.failed(text, error)
                return None, True
            if stands:
                # A backend answers None for a damaged chunk as for a sick medium: the breaker tells them apart.
                h.lose(tier, text, entry)
                tier.failed(text, error)
            return None, False

    def miss(self, count: int = 1) -> None:
        """Count chunks that no tier has."""
        with self.h.lock:
            if self.h.closing:
                raise BackendClosedError("the store")
            self.misses += count
            for tier in self.h.tiers:
                tier.misses += count

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
            return ChunkMeta.of_obj(key, obj)

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

    @contextmanager
    def in_file(self, key: CacheEngineKey, text: str, context: AccessContext) -> Iterator[ChunkInFile | None]:
        """Where the top tier has a chunk in a file. None, of which nothing is counted, where `get` knows better."""
        h, tier = self.h, self._top
        entry, epoch = h.index.get(text), tier.epoch
        if entry is None or not entry.tiers & h.up & tier.bit or tier.failing:
            yield None
            return
        with ExitStack() as stack:
            started = _clock_ns()
            try:
                found = stack.enter_context(tier.backend.in_file(key))
            except Exception:
                found = None  # `get` meets the same, and makes of it what it is
            took = _clock_ns() - started
            with h.lock:
                stands = h.stands(tier, text, entry, epoch)
            if found is None or not stands or found.meta.length != entry.meta.length:
                yield None
                return
            h.noted.append((tier, text, entry, context, took, None))
            if len(h.noted) >= MOST_NOTED:
                h.tell()
            yield found

    def shared(self, obj: LMSMemoryObj) -> LMSMemoryObj:
        """`obj` as a caller gets it."""
        if self.shares and type(obj.data) is bytearray:
            # The tier above and other readers may hold the same buffer: nobody writes to it.
            view: Any = memoryview(obj.data).toreadonly()
            return over(obj, view)
        return obj
