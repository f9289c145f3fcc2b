"""The movers: one thread per tier that writes chunks into that tier and deletes stale ones from it.

A mover cleans ahead of need: it copies the cold end of the tier above down, so that eviction there only drops.
A stuck tier blocks its own mover only. Nothing here decides what leaves a tier.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from lms_tiers.messages import LMSMemoryObj
from lms_tiers.tiered.paths.moves import Moves, Pick
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.paths.worker import Worker
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import TOUCH_BATCH, Tier, keys_of

_log = logging.getLogger(__name__)

#: Chunks and bytes moved by one call of a backend.
BATCH_CHUNKS: Final = 64
BATCH_BYTES: Final = 32 << 20

#: Bytes moved by one call where readers may come at any time.
_QUIET_BYTES: Final = 2 << 20

#: Bytes moved by one call where puts find no room any more: they wait for all of it.
_HURRIED_BYTES: Final = 2 << 20

#: Records of dirty chunks looked at in one go, most of which may be outdated: it takes the lock.
_DIRTY_LOOKS: Final = 256

#: Seconds in which hits below gather before they rise together.
_GATHERING: Final = 0.001

#: Keys deleted by one call.
_DELETE_BATCH: Final = 256

#: Seconds before a deletion that failed is tried again.
_RETRY: Final = 0.25


class Mover(Worker):
    """Moves chunks into `tier`.

    Parameters
    ----------
    queue_limit : int
        Bytes that may wait to be moved into the tier.
    back_pressure : float
        Seconds to wait for room in the tier.
    """

    def __init__(self, hierarchy: Hierarchy, room: Room, tier: Tier, *, queue_limit: int, back_pressure: float) -> None:
        super().__init__(hierarchy, f"lms-tiers-{tier.name}")
        self._room: Final = room
        self.tier: Final = tier
        self._limit: Final = queue_limit
        #: What waits to be moved or is being moved: key → its newest generation there.
        self._queued: dict[str, Entry] = {}
        self._delete_after = 0.0
        self._moves: Final = Moves(hierarchy, room, tier, back_pressure)
        self._gathered = False  # what was hit below is waited for
        self._singly = 0  # so many chunks are moved one by one, to find the one that makes a batch fail
        #: Threads whose flush waits for what was used to be told to the backend, and what is being told now.
        self.eager: Final[set[int]] = set()
        self.telling: dict[str, None] = {}

    # -- from other threads, with the lock held ----------------------------------------------------------------------

    def rouse(self) -> None:
        """There may be work, and an interrupt may have come between any two steps of `poke` or `offer`."""
        tier = self.tier
        tier.queue_bytes = sum(pick[3] for pick in tier.queue)
        self._queued.update((pick[0], pick[1]) for pick in tier.queue)
        super().rouse()

    def offer(self, text: str, entry: Entry, obj: LMSMemoryObj | None) -> bool:
        """Queue a chunk to be moved into the tier, if it is not; False where the queue is full."""
        tier = self.tier
        if self._queued.get(text) is entry:
            return True
        nbytes = entry.meta.length
        if tier.queue and tier.queue_bytes + nbytes > self._limit:
            return False
        tier.queue.append((text, entry, obj, nbytes))
        tier.queue_bytes += nbytes
        self._queued[text] = entry
        if tier.queue_bytes > tier.queue_peak:
            tier.queue_peak = tier.queue_bytes
        self.poke()
        return True

    def queued(self, text: str) -> bool:
        """Whether `text` waits to be moved, or is being moved."""
        return text in self._queued

    def pending(self) -> bool:
        """Whether there is work that could be done, now or after a failure."""
        tier = self.tier
        return bool(tier.queue or tier.garbage) or not self.idle

    @property
    def refused(self) -> bool:
        """Whether the last deletion failed."""
        return self._delete_after > 0.0

    # -- the thread --------------------------------------------------------------------------------------------------

    def _timeout(self) -> float | None:
        """Seconds until work that has to wait can be done; None without any."""
        tier = self.tier
        if not self._h.up & tier.bit:
            # When the time has come and there is nothing to try it with, the next put or garbage wakes us.
            waiting = tier.garbage or any(t.position < tier.position and t.keys for t in self._h.tiers)
            left = tier.retry_at - self._h.clock()
            return left if waiting and left > 0 else None
        return max(0.01, self._delete_after - time.monotonic()) if tier.garbage and self._delete_after else None

    def _next(self) -> Callable[[], None] | None:
        """What to do next, prepared under the lock."""
        h, tier = self._h, self.tier
        probing = not h.up & tier.bit
        if probing or h.rests(tier):
            self._drop_queue()
        picks: list[Pick] = []
        if probing:
            if not tier.due():
                return None
            if not tier.garbage:
                picks = self._candidates(probing)  # once: it notes what is cleaned ahead, and would find nothing more
                if not picks:
                    return None
            tier.probe()
        if tier.garbage and time.monotonic() >= self._delete_after:
            stale = list(itertools.islice((k for k in tier.garbage if k not in tier.busy), _DELETE_BATCH))
            if stale:
                tier.busy.add(*stale)
                return partial(self._delete, stale)
        self._gathered = not self._gathered and self._rises()
        if self._gathered:
            return _gather
        picks = picks or self._batch_of_queue() or self._candidates(probing)
        if picks:
            return partial(self._move, picks)
        if not probing and self._dirty_source() is not None:
            picks = self._dirty()
            return partial(self._move, picks) if picks else _look_again
        if tier.touched and (len(tier.touched) >= TOUCH_BATCH or self.eager):
            self.telling, tier.touched = tier.touched, {}
            return partial(self._touch, list(self.telling))
        return None

    def _rises(self) -> bool:
        """Whether what waits was hit in a private tier below. What comes from the shared one is to be here at once."""
        queue = self.tier.queue
        return bool(queue) and queue[0][2] is not None and bool(queue[0][1].tiers & self._h.all)

    def _drop_queue(self) -> None:
        tier = self.tier
        tier.skipped += len(tier.queue)
        self._leave(tier.queue)
        tier.queue.clear()
        tier.queue_bytes = 0

    def _leave(self, picks: Iterable[Pick]) -> None:
        """`picks` wait here no longer: they have been moved, or will not be."""
        for text, entry, _, _ in picks:
            if self._queued.get(text) is entry:
                del self._queued[text]
            if self._h.edge is not None:
                self._h.edge.risen(text, entry)

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
            # Puts that come meanwhile find so much room; what they want beyond that they wait for.
            batch = min(most, max(slack, source.wanted, _HURRIED_BYTES))
            cold = 0
            for text, entry in h.victims(source, source.window + source.wanted):
                charge = entry.charges[source.position]
                if not entry.tiers & source.below:
                    home = tier if probing else self._room.target(source, text, entry)
                    if home is tier and text not in tier.busy:
                        picks.append((text, entry, None, entry.meta.length))
                        nbytes += entry.meta.length
                cold += charge
                if len(picks) >= limit or nbytes >= batch:
                    break
            source.ahead = cold
            if picks:
                return picks
        return picks

    def _dirty_source(self) -> Tier | None:
        """A tier above that has more dirty chunks than need be, and whose chunks come here next."""
        h = self._h
        if h.rests(self.tier):
            return None
        for source in reversed(h.tiers[: self.tier.position]):
            # A smaller tier would lose what it was given to what it is given next, long before that is needed.
            if source.dirty_bytes > source.dirty_most and self.tier.budget > source.budget:
                lower = next((t for t in h.tiers[source.position + 1 :] if h.up & t.bit), None)
                if lower is self.tier:
                    return source
        return None

    def _dirty(self) -> list[Pick]:
        """Dirty chunks of a tier above, oldest first: bursts of puts then find it clean."""
        h, tier = self._h, self.tier
        source = self._dirty_source()
        picks: list[Pick] = []
        nbytes = 0
        limit, most = self._batch_limits()
        most = min(most, _QUIET_BYTES)
        for _ in range(_DIRTY_LOOKS):
            if source is None or source.dirty_bytes <= source.dirty_most or len(picks) >= limit or nbytes >= most:
                break
            text = source.oldest_dirty()
            entry = h.index.get(text)
            if entry is None or not entry.tiers & source.bit or entry.tiers & source.below or text in tier.busy:
                continue
            # One that is refused now may be wanted when it has grown cold: it is asked for again then.
            if self._room.target(source, text, entry) is tier and self._moves.admitted(text, entry):
                picks.append((text, entry, None, entry.meta.length))
                nbytes += entry.meta.length
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
            tier.inside(tier.backend.touch, keys_of(touched))
        except BaseException as caught:
            error = caught
        with self._h.lock:
            self.telling = {}
            if error is not None:
                tier.failed(touched[0], error)
            self._h.wake()

    def _move(self, picks: list[Pick]) -> None:
        singly = bool(self._singly)
        self._singly -= singly
        rest: list[Pick] = []
        try:
            rest, failed = self._moves.move(picks, singly)
            if failed:
                self._singly = failed
        finally:
            with self._h.lock:
                again = {pick[1] for pick in rest}
                self._leave(pick for pick in picks if pick[1] not in again)
                for text, entry, obj, _ in rest:
                    if self._queued.get(text) is entry:
                        del self._queued[text]
                    if not self.offer(text, entry, obj):
                        self._leave([(text, entry, obj, 0)])
                self._h.wake()


def _gather() -> None:
    """A job that waits for more to rise: each hit below that wakes its mover loses the interpreter's lock to it."""
    time.sleep(_GATHERING)


def _look_again() -> None:
    """A job that does nothing: what was looked at was outdated, and the lock is free between two looks."""


def promoting(hierarchy: Hierarchy, movers: Sequence[Mover]) -> Callable[[str, Entry, Tier, LMSMemoryObj | None], None]:
    """What offers a chunk that was hit in a tier to the one above that it fits; called with the lock held.

    Where something would have to leave for it, that takes a second hit: a scan moves nothing.
    """

    def promote(text: str, entry: Entry, tier: Tier, obj: LMSMemoryObj | None) -> None:
        for above in hierarchy.tiers[: tier.position]:
            if entry.tiers & above.bit:
                return
            if hierarchy.up & above.bit and not entry.tiers & above.unfit:
                if entry.tiers & hierarchy.again or above.used + above.queue_bytes + entry.meta.length <= above.budget:
                    entry.tiers &= ~hierarchy.again
                    if not movers[above.position].offer(text, entry, obj):
                        above.skipped += 1
                else:
                    entry.tiers |= hierarchy.again
                return

    return promote


def writing_through(movers: Sequence[Mover]) -> Callable[[Tier, str, Entry], None]:
    """What gives a chunk just put to the movers of the tiers below that want it at once; called with the lock held."""

    def written(tier: Tier, text: str, entry: Entry) -> None:
        for mover in movers[tier.position + 1 :]:
            if mover.tier.through and not entry.tiers & mover.tier.unfit:
                mover.offer(text, entry, None)

    return written
