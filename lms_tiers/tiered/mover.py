"""The movers: one thread per tier that writes chunks into that tier and deletes stale ones from it.

A mover cleans ahead of need: it copies the cold end of the tier above down, so that eviction there only drops.
A stuck tier blocks its own mover only. Nothing here decides what leaves a tier.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from lms_tiers.errors import LmsTiersError
from lms_tiers.messages import CacheEngineKey, LMSMemoryObj, OpaqueKey
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.events import EventKind, EventReason
from lms_tiers.tiered.hierarchy import Hierarchy
from lms_tiers.tiered.index import Entry
from lms_tiers.tiered.reads import DamagedChunkError, whole
from lms_tiers.tiered.room import Room
from lms_tiers.tiered.tier import RECENT_BATCH, Tier, keys_of, stored_bytes

_log = logging.getLogger(__name__)

#: Chunks and bytes moved by one call of a backend.
BATCH_CHUNKS: Final = 64
BATCH_BYTES: Final = 32 << 20

#: Keys deleted by one call.
_DELETE_BATCH: Final = 256

#: Seconds that a promotion waits for clean chunks to leave.
_PROMOTION_PATIENCE: Final = 0.02

#: Seconds before a deletion that failed is tried again.
_RETRY: Final = 0.25

#: Key, generation, its bytes where at hand, length.
Pick = tuple[str, Entry, LMSMemoryObj | None, int]

#: Key, generation, bytes, what is reserved for it, key.
_Ready = tuple[str, Entry, LMSMemoryObj, int, CacheEngineKey]


class Mover:
    """Moves chunks into `tier`.

    Parameters
    ----------
    queue_limit : int
        Bytes that may wait to be moved into the tier.
    back_pressure : float
        Seconds to wait for room in the tier.
    """

    def __init__(self, hierarchy: Hierarchy, room: Room, tier: Tier, *, queue_limit: int, back_pressure: float) -> None:
        self._h: Final = hierarchy
        self._room: Final = room
        self.tier: Final = tier
        self._limit: Final = queue_limit
        self._back_pressure: Final = back_pressure
        self._wake: Final = threading.Condition(hierarchy.lock)
        self._thread: threading.Thread | None = None
        self._queued: set[str] = set()
        self._delete_after = 0.0
        self._singly = 0  # so many chunks are moved one by one, to find the one that makes a batch fail
        self.idle = True
        self.eager = False
        self.stopping = False

    # -- from other threads, with the lock held ----------------------------------------------------------------------

    def poke(self) -> None:
        """There may be work."""
        if self.idle and not self.stopping:
            self.idle = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"lms-tiers-{self.tier.name}", daemon=True)
                self._thread.start()
            else:
                self._wake.notify()

    def offer(self, text: str, entry: Entry, obj: LMSMemoryObj | None) -> bool:
        """Queue a chunk to be moved into the tier, if it is not; False where the queue is full."""
        tier = self.tier
        if text in self._queued:
            return True
        nbytes = entry.meta.length
        if tier.queue and tier.queue_bytes + nbytes > self._limit:
            return False
        self._queued.add(text)
        tier.queue.append((text, entry, obj, nbytes))
        tier.queue_bytes += nbytes
        if tier.queue_bytes > tier.queue_peak:
            tier.queue_peak = tier.queue_bytes
        self.poke()
        return True

    def queued(self, text: str) -> bool:
        """Whether `text` waits to be moved, or is being moved."""
        return text in self._queued

    def stop(self) -> None:
        """Let the thread end after what it does now."""
        self.stopping = True
        self._wake.notify()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False where it is stuck in a backend. The lock is not held."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def pending(self) -> bool:
        """Whether there is work that could be done, now or after a failure."""
        tier = self.tier
        return bool(tier.queue or tier.garbage) or not self.idle

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        h = self._h
        while True:
            with h.lock:
                while True:
                    if self.stopping:
                        self.idle = True
                        h.wake()
                        return
                    job = self._next()
                    if job is not None:
                        break
                    self.idle = True
                    h.wake()
                    self._wake.wait(self._timeout())
                    self.idle = False
            try:
                job()
            except BaseException:
                _log.exception("a mover of tier %r stumbled", self.tier.name)
            del job  # it holds chunks

    def _timeout(self) -> float | None:
        """Seconds until work that has to wait can be done; None without any."""
        tier = self.tier
        if not self._h.up & tier.bit:
            waiting = tier.garbage or any(t.position < tier.position and t.keys for t in self._h.tiers)
            return max(0.01, tier.breaker.retry_at - self._h.clock()) if waiting else None
        return max(0.01, self._delete_after - time.monotonic()) if tier.garbage and self._delete_after else None

    def _next(self) -> Callable[[], None] | None:
        """What to do next, prepared under the lock."""
        h, tier = self._h, self.tier
        probing = not h.up & tier.bit
        if probing:
            self._drop_queue()
            if not tier.breaker.due() or not (tier.garbage or self._candidates(probing)):
                return None
            tier.breaker.probe()
            if h.log.on:
                h.log.add(EventKind.STATE, EventReason.BREAKER_HALF_OPEN, tier.name, "", 0)
        if tier.garbage and time.monotonic() >= self._delete_after:
            stale = list(itertools.islice((k for k in tier.garbage if k not in tier.busy), _DELETE_BATCH))
            if stale:
                tier.busy.update(stale)
                return partial(self._delete, stale)
        picks = self._batch_of_queue() or self._candidates(probing)
        if picks:
            return partial(self._move, picks)
        if tier.touched and (len(tier.touched) >= RECENT_BATCH or self.eager):
            touched, tier.touched = list(tier.touched), {}
            return partial(self._touch, touched)
        return None

    def _drop_queue(self) -> None:
        tier = self.tier
        tier.skipped += len(tier.queue)
        tier.queue.clear()
        self._queued.clear()
        tier.queue_bytes = 0

    def _batch_of_queue(self) -> list[Pick]:
        tier = self.tier
        picks: list[Pick] = []
        nbytes = 0
        limit, most = self._batch_limits()
        while tier.queue and len(picks) < limit and (not picks or nbytes + tier.queue[0][3] <= most):
            pick = tier.queue.popleft()
            tier.queue_bytes -= pick[3]
            nbytes += pick[3]
            picks.append(pick)
        return picks

    def _batch_limits(self, probing: bool = False) -> tuple[int, int]:
        # What a batch reserves cannot make room for itself: it stays a small part of the tier.
        return 1 if self._singly or probing else BATCH_CHUNKS, min(BATCH_BYTES, self.tier.budget // 8)

    def _candidates(self, probing: bool = False) -> list[Pick]:
        """Dirty chunks at the cold end of the tiers above whose next home is this tier."""
        h, tier = self._h, self.tier
        picks: list[Pick] = []
        nbytes = 0
        limit, most = self._batch_limits(probing)
        for source in reversed(h.tiers[: tier.position]):
            slack = source.budget - source.used + source.ahead
            if not source.wanted and slack >= source.window >> 1:
                continue
            cold = 0
            for text, entry in h.victims(source, source.window + source.wanted):
                charge = entry.charges[source.position]
                if not entry.tiers & source.below:
                    home = tier if probing else self._room.target(source, text, entry)
                    if home is tier and text not in tier.busy:
                        picks.append((text, entry, None, entry.meta.length))
                        nbytes += entry.meta.length
                cold += charge
                if len(picks) >= limit or nbytes >= most:
                    break
            source.ahead = cold
            if picks:
                return picks
        return picks

    # -- jobs, without the lock --------------------------------------------------------------------------------------

    def _delete(self, stale: list[str]) -> None:
        if self._room.delete(self.tier, stale):
            self._delete_after = 0.0
        else:
            self._delete_after = time.monotonic() + _RETRY

    def _touch(self, touched: list[str]) -> None:
        tier = self.tier
        error: BaseException | None = None
        try:
            tier.backend.touch(keys_of(touched))
        except BaseException as caught:
            error = caught
        if error is not None:
            with self._h.lock:
                self._h.failed(tier, touched[0], error)

    def _move(self, picks: list[Pick]) -> None:
        """Copy chunks into the tier; publish each only if it is still the newest generation."""
        singly = bool(self._singly)
        self._singly -= singly
        ready: list[_Ready] = []
        rest: list[Pick] = []
        try:
            for i, (text, entry, obj, _) in enumerate(picks):
                item = self._prepare(text, entry, obj, wait=not ready)
                if item is not None:
                    ready.append(item)
                elif ready and self.tier.used + entry.meta.length > self.tier.budget:
                    rest = picks[i:]  # what is ready goes first: it cannot make room for the others
                    break
            if ready:
                self._write(ready, singly)
        finally:
            with self._h.lock:
                self._queued.difference_update(pick[0] for pick in picks)
                for text, entry, obj, _ in rest:
                    self.offer(text, entry, obj)
                self._h.wake()

    def _prepare(self, text: str, entry: Entry, obj: LMSMemoryObj | None, wait: bool) -> _Ready | None:
        """Read a chunk that is still worth moving, reserve its room, become its mutator here."""
        h, tier = self._h, self.tier
        with h.lock:
            granted = entry.tiers & h.up
            if not self._wanted(text, entry) or not granted:
                return None
            context = AccessContext(h.clock(), None, entry.parent, entry.position, self._partial(entry))
            if not h.admits(tier, text, entry.meta.length, context):
                tier.refused.add(text)
                return None
            source = h.tiers[(granted & -granted).bit_length() - 1]
        upward = source.position > tier.position
        need = h.fit(entry.meta.length).needs[tier.position]
        if obj is None:
            obj = self._fetch(source, text, entry)
        if obj is None:
            return None
        patience = (_PROMOTION_PATIENCE if upward else self._back_pressure) if wait else 0.0
        room = need is not None and self._room.make_room(
            tier, need, "", patience, force=wait and not upward, moving=True
        )
        with h.lock:
            if need is None or not room:
                if upward:
                    tier.skipped += 1
                elif wait:
                    tier.refused.add(text)
                return None
            if not self._wanted(text, entry):
                self._room.give_back(tier, need)
                return None
            tier.busy.add(text)
        return text, entry, obj, need, CacheEngineKey.from_string(text)

    def _wanted(self, text: str, entry: Entry) -> bool:
        """Whether the chunk is the newest generation, not held here, and nobody else is at it here."""
        tier = self.tier
        return self._h.index.get(text) is entry and not entry.tiers & tier.bit and text not in tier.busy

    def _partial(self, entry: Entry) -> bool | None:
        parent = self._h.index.get(entry.parent) if entry.parent is not None else None
        return None if parent is None else entry.meta.length < parent.meta.length

    def _fetch(self, source: Tier, text: str, entry: Entry) -> LMSMemoryObj | None:
        """The chunk's bytes from a tier that holds them, if they are still the newest generation's."""
        h = self._h
        epoch = source.epoch
        error: BaseException | None = None
        obj: LMSMemoryObj | None = None
        try:
            obj = whole(source.backend, OpaqueKey(text), entry.meta)
        except BaseException as caught:
            error = caught
        with h.lock:
            stands = h.stands(source, text, entry, epoch)
            if obj is not None:
                if source.breaker.failures:
                    h.worked(source)
                source.bytes_read += entry.meta.length
                return obj if stands else None
            if stands and (error is None or isinstance(error, DamagedChunkError)):
                h.lose(source, text, entry)
            if stands or error is not None:
                h.failed(source, text, error)
        return None

    def _write(self, ready: list[_Ready], singly: bool) -> None:
        h, tier = self._h, self.tier
        error: BaseException | None = None
        charges: list[int] = []
        tier.calls[threading.get_ident()] = time.monotonic()
        started = time.perf_counter_ns()
        try:
            items = [(entry.meta.message(key), obj.data) for _, entry, obj, _, key in ready]
            if len(items) == 1:
                tier.backend.put(*items[0])
            else:
                tier.backend.put_many(items)
            charges = [stored_bytes(tier, key, need) for _, _, _, need, key in ready]
        except BaseException as caught:
            error = caught
        finally:
            tier.calls.pop(threading.get_ident(), None)
        took = time.perf_counter_ns() - started
        with h.lock:
            if error is not None:
                self._failed(ready, error, singly)
                return
            h.worked(tier)
            tier.write_latency.add(took)
            now = h.clock()
            for (text, entry, _, need, _), charge in zip(ready, charges, strict=True):
                tier.used -= need - charge
                tier.bytes_written += entry.meta.length
                tier.used -= tier.garbage.pop(text, 0)  # overwritten
                if h.index.get(text) is entry:
                    self._published(text, entry, charge, now)
                else:
                    tier.garbage[text] = charge
                h.release(tier, text)

    def _published(self, text: str, entry: Entry, charge: int, now: float) -> None:
        h, tier = self._h, self.tier
        upward = bool(entry.tiers & tier.below)
        h.grant(tier, text, entry, charge, AccessContext(now, None, entry.parent, entry.position, self._partial(entry)))
        if upward:
            tier.promoted += 1
        else:
            tier.demoted += 1
        if h.log.on:
            kind = EventKind.PROMOTED if upward else EventKind.DEMOTED
            h.log.add(kind, EventReason.REQUEST if upward else EventReason.CLEANED, tier.name, text, charge)

    def _failed(self, ready: list[_Ready], error: BaseException, singly: bool) -> None:
        """A write failed, of one chunk or of a batch of which nobody knows how much was stored."""
        h, tier = self._h, self.tier
        h.failed(tier, ready[0][0], error)
        for text, _, _, need, _ in ready:
            if len(ready) == 1 and isinstance(error, LmsTiersError):
                tier.used -= need
            else:
                h.doubt(tier, text, need)
            if len(ready) == 1 and h.up & tier.bit:
                # This very chunk is the trouble, or the next failures will switch the tier off.
                tier.refused.add(text)
            h.release(tier, text)
        if len(ready) > 1:
            self._singly = len(ready)
