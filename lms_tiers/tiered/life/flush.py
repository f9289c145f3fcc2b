"""Getting everything down and clean: `flush`, `drain`, `clear`, `resize`, and the waiting of `close`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Final

from lms_tiers.changes import Deadline
from lms_tiers.errors import (
    BackendClosedError,
    ConfigError,
    LmsTiersError,
    StorageFullError,
    StorageUnavailableError,
)
from lms_tiers.tiered.paths.beyond import Beyond
from lms_tiers.tiered.paths.mover import Mover
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier
from lms_tiers.tiered.watch.events import EventReason

#: How often a chunk is given to the mover before it is left where it is.
_TRIES: Final = 3

#: Chunks looked at in one go: readers need the lock in between.
_STEP: Final = 4096


class Flusher:
    """Drives the movers until a goal is reached."""

    def __init__(self, hierarchy: Hierarchy, movers: Sequence[Mover], beyond: Beyond | None = None) -> None:
        self._h: Final = hierarchy
        self._movers: Final = movers
        self._beyond: Final = beyond

    def flush(self, timeout: float | None) -> None:
        """Bring every chunk present now down to the lowest persistent tier and to the shared one; delete what is stale.

        Raises
        ------
        DeadlineExceededError
        StorageUnavailableError
            A persistent tier, or the shared one, is switched off or failed.
        """
        deadline = Deadline("flush", timeout)
        failed: Exception | None = None
        try:
            self.flush_private(deadline)
        except StorageUnavailableError as error:
            failed = error  # what can be sent is sent all the same
        if self._beyond is not None:
            self._beyond.flush(deadline)
        if failed is not None:
            raise failed

    def flush_private(self, deadline: Deadline) -> None:
        """The same as far as the shared tier has no part in it."""
        lowest = next((tier for tier in reversed(self._h.tiers) if tier.persistent), None)
        failed = self._clean(lowest, deadline) if lowest is not None and lowest.position else 0
        loading = self._h.loading
        if loading is not None and loading.cleared:
            loading.wait(deadline)  # what was cleared is stale, and is known by its listing only
        self.collect(deadline)
        for mover in self._movers:
            self._report_touches(mover, deadline)
        for tier in self._h.tiers:
            if tier.persistent:
                tier.backend.flush(deadline.left())
        if failed and lowest is not None:  # all else is down by now
            raise StorageUnavailableError(lowest.name, f"{failed} chunks could not be brought down.")

    def clear(self, timeout: float | None) -> None:
        """Forget every private chunk, also what is not in the index yet; returns when their bytes are deleted.

        Raises
        ------
        DeadlineExceededError
        StorageUnavailableError
        """
        h = self._h
        deadline = Deadline("clear", timeout)
        with h.lock:
            for text in list(h.index):
                h.forget(text, EventReason.REQUEST)
            if h.edge is not None:
                h.edge.sink()
            loading = h.loading
            if loading is not None:
                loading.clear()
        if loading is not None:
            loading.wait(deadline)
        self.collect(deadline)

    def resize(self, room: Room, name: str | int, capacity: int, timeout: float | None) -> None:
        """Give a tier another capacity; returns when it holds no more than that.

        Raises
        ------
        ConfigError
            No such tier, not a positive size, or more than the backend was opened with.
        DeadlineExceededError
        """
        h = self._h
        names = {tier.name: tier for tier in h.tiers}
        tier = names.get(name) if isinstance(name, str) else dict(enumerate(h.tiers)).get(name)
        if tier is None:
            raise ConfigError(f"the store has no tier {name!r}.", unknown=str(name), known=names)
        if capacity <= 0:
            raise ConfigError(f"tier {tier.name!r}: capacity must be positive, not {capacity}.")
        with h.lock:
            h.resizing[get_ident()] = tier, tier.capacity
            tier.set_capacity(capacity)
            h.fits = {}
            h.told(tier, lambda policy: policy.on_resize(capacity))
            held = list(h.index.values())
        self.fit_anew(held)
        deadline = Deadline("resize", timeout)
        try:
            while not room.make_room(tier, 0, "", deadline.left() or 30.0, outwait=False):
                with h.lock:
                    if h.closing:
                        raise BackendClosedError("the store")
                    change = h.change()
                h.wait(change, deadline.tick())
        except LmsTiersError:
            h.resizing.pop(get_ident(), None)  # the new capacity stands
            raise
        h.resizing.pop(get_ident(), None)

    def fit_anew(self, held: list[Entry]) -> None:
        """What fits where has changed for what was held before; what was put since then was asked anew."""
        h = self._h
        unfit = {length: h.fit(length).unfit for length in {entry.meta.length for entry in held}}
        fits = ~sum(tier.unfit for tier in h.tiers)
        for at in range(0, len(held), _STEP):
            with h.lock:
                for entry in held[at : at + _STEP]:
                    entry.tiers = entry.tiers & fits | unfit[entry.meta.length]

    def drain(self, timeout: float | None) -> None:
        """Return when the movers have nothing left to do.

        Raises
        ------
        DeadlineExceededError
        """
        h = self._h
        deadline = Deadline("drain", timeout)
        with h.lock:
            h.recency.tell()
            for mover in self._movers:
                mover.poke()

        def done() -> bool:
            sending = self._beyond is not None and self._beyond.edge.up and self._beyond.sender.pending()
            return not sending and not any(m.pending() and h.up & m.tier.bit for m in self._movers)

        h.until(done, deadline)

    def collect(self, deadline: Deadline) -> None:
        """Delete the stale bytes there are now."""
        h = self._h
        for tier, mover in zip(h.tiers, self._movers, strict=True):
            with h.lock:
                stale = set(tier.garbage)
            h.until(partial(_deleted, h, mover, stale), deadline)

    def _clean(self, lowest: Tier, deadline: Deadline) -> int:
        """Answers how many chunks could not be read or written."""
        h, mover = self._h, self._movers[lowest.position]
        arrived: set[str] = set()
        failed = 0
        try:
            with h.lock:
                lowest.watchers[get_ident()] = arrived
                lowest.refused.difference_update(lowest.unwritten)  # they are tried again
                lowest.unwritten.clear()
                failures = self._failures(lowest)
                tries = dict.fromkeys(self._dirty(lowest), 0)
            while tries:
                with h.lock:
                    for (text, entry), tried in list(tries.items()):
                        if mover.queued(text):
                            continue
                        if text in arrived or self._settled(text, entry, lowest):
                            del tries[text, entry]
                        elif tried >= _TRIES:
                            del tries[text, entry]
                            # One that found no room is no failure: capacity does not allow it.
                            failed += not entry.tiers & h.up or self._failures(lowest) > failures
                        elif mover.offer(text, entry, None):
                            tries[text, entry] = tried + 1
                        else:
                            break  # the queue is full
                    if tries and h.rests(lowest):
                        raise StorageFullError(lowest.name, f"{len(tries)} chunks could not be written.")
                    if not h.up & lowest.bit and tries:
                        raise StorageUnavailableError(lowest.name, f"{len(tries)} chunks could not be written.")
                    if not tries:
                        break
                    change = h.change()
                h.wait(change, deadline.tick())
        finally:
            with h.lock:
                lowest.watchers.pop(get_ident(), None)
        return failed

    def _failures(self, lowest: Tier) -> int:
        return sum(tier.failures for tier in self._h.tiers[: lowest.position + 1])

    def _settled(self, text: str, entry: Entry, lowest: Tier) -> bool:
        return (
            bool(entry.tiers & (lowest.bit | lowest.below))
            or self._h.index.get(text) is not entry
            or (text in lowest.refused and text not in lowest.unwritten)
        )

    def _dirty(self, lowest: Tier) -> list[tuple[str, Entry]]:
        """What the tier lacks, coldest first: where not all fits, the hottest stays."""
        h = self._h
        lacking = {
            text: entry
            for text, entry in h.index.items()
            if not entry.tiers & (lowest.bit | lowest.below | lowest.unfit)
        }
        ordered: list[tuple[str, Entry]] = []
        for tier in reversed(h.tiers[: lowest.position]):
            if not lacking:
                break
            for text, entry in list(h.victims(tier, max(tier.used, 1))):
                if lacking.pop(text, None) is not None:
                    ordered.append((text, entry))
        return [*ordered, *lacking.items()]

    def _report_touches(self, mover: Mover, deadline: Deadline) -> None:
        h, tier = self._h, mover.tier
        if not tier.touches:
            return
        try:
            with h.lock:
                h.recency.tell()
                batch = tier.touched  # later ones are not waited for
                mover.eager.add(get_ident())

            def told() -> bool:
                waits = (batch and tier.touched is batch) or mover.telling
                if not (waits and h.up & tier.bit) or (tier.touched is not batch and mover.telling is not batch):
                    return True
                mover.poke()
                return False

            h.until(told, deadline)
        finally:
            mover.eager.discard(get_ident())


def _deleted(h: Hierarchy, mover: Mover, stale: set[str]) -> bool:
    """Whether none of `stale` is in the mover's tier any more; its mover goes on with them. The lock is held."""
    tier = mover.tier
    stale &= tier.garbage.keys()
    if not stale:
        return True
    if not h.up & tier.bit:
        raise StorageUnavailableError(tier.name, f"{len(stale)} stale chunks could not be deleted.")
    if mover.refused and h.rests(tier):
        raise StorageFullError(tier.name, f"{len(stale)} stale chunks could not be deleted.")
    mover.poke()
    return False
