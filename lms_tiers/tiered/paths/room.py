"""Making room in a tier: reserve before writing, and drop what the policy names until the reservation fits.

Eviction does no I/O beyond deleting: what it drops is clean, or has nowhere to go. Only where puts outrun the movers
does it wait, up to a deadline, and then it drops a chunk nobody else holds, and counts that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from operator import methodcaller
from threading import get_ident
from typing import Final

from lms_tiers.errors import BackendClosedError, StorageFullError
from lms_tiers.policies.base import RemoveReason
from lms_tiers.tiered.state.edge import Edge, Unsent
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import DROPS, Tier, keys_of
from lms_tiers.tiered.watch.events import EventKind, EventReason


@dataclass(slots=True)
class Leaving:
    """Keys whose stale bytes are to be deleted, by the caller, who is their mutator now.

    None of them: nothing can leave as yet. `worth_waiting` tells whether that may change by itself: what others have
    reserved or are writing can leave, or is given back.
    """

    texts: list[str]
    worth_waiting: bool = True


class Room:
    """Reservations in the tiers of `hierarchy`."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._h: Final = hierarchy

    def take(self, tier: Tier, need: int, text: str = "", force: bool = False) -> Leaving | None:
        """Reserve `need` bytes, for `text`. The lock is held.

        Nobody waits for room while it is the mutator of a key: what waits could be what has to leave.

        Returns
        -------
        None
            It is reserved.
        Leaving
            What to `delete` before the next try.
        """
        excess = tier.used + need - tier.budget
        if excess > 0 and tier.cools:
            self._take_in(tier)
            excess = tier.used + need - tier.budget
        if excess <= 0:
            tier.reserve(need)
            if tier.budget - tier.used + tier.ahead < tier.window >> 1 or tier.dirty_bytes > tier.dirty_most:
                self.clean_ahead(tier)
            return None
        going: list[str] = []
        for stale, nbytes in tier.garbage.items():
            if excess <= 0:
                break
            if stale not in tier.busy:
                going.append(stale)
                excess -= nbytes
        dirty = False
        if excess > 0:
            entries, dirty = self._choose(tier, excess, text, need, force)
            for victim, entry in entries:
                self._drop(tier, victim, entry)
                going.append(victim)
        tier.busy.add(*going)
        return Leaving(going, worth_waiting=dirty or bool(tier.busy or tier.reserved) or self._h.loads(tier))

    def _take_in(self, tier: Tier) -> None:
        """Charge what the backend made smaller with what it takes now. The lock is held."""
        h, position = self._h, tier.position
        for text, nbytes in tier.backend.shrunk().items():
            entry = h.index.get(text)
            # What is being written or deleted is charged when that is done.
            if entry is None or not entry.tiers & tier.bit or text in tier.busy:
                continue
            saved = entry.charges[position] - nbytes
            if saved > 0:
                entry.charges = h.charges.changed(entry.charges, position, nbytes)
                tier.used -= saved
                h.told(tier, methodcaller("on_shrink", text, nbytes))

    def make_room(
        self, tier: Tier, need: int, text: str, patience: float, leaving: Leaving | None = None,
        force: bool = True, moving: bool = False, outwait: bool = True,
    ) -> bool:  # fmt: skip
        """Reserve `need` bytes, as `take`; wait up to `patience` seconds for movers. Takes the lock.

        After that, chunks nobody else holds leave if `force`, as soon as there are any: at the start of a store they
        have to be taken into the index first, which is waited for beyond that (`outwait`). Movers go on while the store
        closes.
        """
        h = self._h
        deadline = time.monotonic() + patience
        thread = get_ident()
        try:
            while True:
                if leaving is not None and leaving.texts and not self.delete(tier, leaving.texts):
                    return False
                with h.lock:
                    if h.closing and not moving:
                        return False
                    left = deadline - time.monotonic()
                    late = left <= 0
                    leaving = self.take(tier, need, text, force=late and force)
                    if leaving is None:
                        return True
                    if leaving.texts:
                        continue
                    if not leaving.worth_waiting or (late and not (force and outwait and h.loads(tier))):
                        return False
                    tier.wanting.setdefault(thread, need + max(0, tier.used - tier.budget))
                    self.clean_ahead(tier)
                    for lower in h.tiers[tier.position + 1 :]:
                        lower.look()
                    change = h.change()
                h.wait(change, 0.1 if late else min(left, 0.1))
        finally:
            tier.wanting.pop(thread, None)

    def spare(self, tier: Tier, need: int) -> bool:
        """Let chunks of `need` bytes leave: the backend had less room than the bytes reserved in it. Takes the lock.

        False where nothing left. What a full medium refuses to delete makes no room, so no more leaves for it.
        """
        with self._h.lock:
            if tier.garbage and self._h.rests(tier):
                return False
            # What is free by our books is not there: it takes that much more.
            need = min(need + max(0, tier.budget - tier.used), tier.budget)
        if not self.make_room(tier, need, "", 0.0, moving=True):
            return False
        with self._h.lock:
            self.give_back(tier, need)
        return True

    def give_back(self, tier: Tier, need: int) -> None:
        """Undo a reservation. The lock is held."""
        tier.settle(need, 0)
        self._h.wake()

    def remove(self, text: str) -> Unsent | None:
        """Forget a key, and delete the bytes that the top tier has of it; the change to be sent on. Takes the lock.

        Raises
        ------
        BackendClosedError
            Nobody would delete the bytes that lower tiers have of it.
        """
        h = self._h
        top = h.tiers[0]
        with h.lock:
            if h.closing:
                raise BackendClosedError("the store")
            change = h.edge.changed(text, None) if h.edge is not None else None
            h.forget(text, EventReason.REQUEST)
            mine = text in top.garbage and text not in top.busy
            if mine:
                top.busy.add(text)
        if mine:
            self.delete(top, [text])
        return change

    def delete(self, tier: Tier, texts: list[str]) -> bool:
        """Delete stale bytes, whose mutator the caller is until then. Takes the lock."""
        h = self._h
        error: BaseException | None = None
        try:
            tier.call(tier.backend.remove_many, keys_of(texts))
        except (KeyboardInterrupt, SystemExit):
            raise  # whoever catches it outside finds them by their claims
        except BaseException as caught:
            error = caught
        with h.lock:
            if error is None:
                for text in texts:
                    tier.used -= tier.garbage.pop(text, 0)
                if tier.failing:
                    tier.worked()
            elif isinstance(error, StorageFullError):
                h.rest(tier)
                h.poke(tier)
            else:
                tier.failed(texts[0], error)
                h.poke(tier)  # its mover tries again later
            tier.busy.discard(*texts)
            h.wake()
        return error is None

    def target(self, tier: Tier, text: str, entry: Entry) -> Tier | Edge | None:
        """The tier below that should take the chunk when it grows cold, None where there is none. The lock is held."""
        h = self._h
        for lower in h.tiers[tier.position + 1 :]:
            fits = h.up & lower.bit and not entry.tiers & lower.unfit
            if fits and text not in lower.refused and not h.rests(lower):
                return lower
        return h.edge if h.edge is not None and h.edge.waits(text) else None

    def _choose(
        self, tier: Tier, excess: int, own: str, need: int, force: bool
    ) -> tuple[list[tuple[str, Entry]], bool]:
        """Chunks to drop for `excess` bytes: the coldest clean ones, or just the coldest where forced.

        None at all where they do not suffice; and whether dirty chunks stand in the way. An older copy of the chunk to
        be written (`own`) needs no cleaning where there is no room for both.
        """
        entries: list[tuple[str, Entry]] = []
        dirty = False
        # Dirty chunks are passed over, but not so far that hot clean ones leave in their place.
        reach = excess if force else excess + tier.window
        for text, entry in self._h.victims(tier, reach):
            charge = entry.charges[tier.position]
            droppable = force or entry.tiers & tier.below or (text == own and need + charge > tier.budget)
            if droppable or self.target(tier, text, entry) is None:
                entries.append((text, entry))
                excess -= charge
                if excess <= 0:
                    break
            else:
                dirty = True
        if dirty and not force:
            tier.ahead = 0
        return (entries if excess <= 0 else []), dirty

    def _drop(self, tier: Tier, text: str, entry: Entry) -> None:
        h = self._h
        charge = entry.charges[tier.position]
        why = self._why(tier, text, entry)
        tier.evicted[why] += 1
        tier.ahead = max(0, tier.ahead - charge)
        for other in h.tiers:
            other.refused.discard(text)
        h.log.add(EventKind.DROPPED if why in DROPS else EventKind.EVICTED, why, tier.name, text, charge)
        h.ungrant(tier, text, entry, RemoveReason.EVICTED, why)

    def _why(self, tier: Tier, text: str, entry: Entry) -> EventReason:
        """The reason, of `EVICTIONS`, for which a chunk leaves `tier`."""
        h = self._h
        if entry.tiers & tier.below:
            return EventReason.CLEANED
        if entry.tiers & h.all != tier.bit:
            return EventReason.CAPACITY
        lower = [t for t in h.tiers[tier.position + 1 :] if not entry.tiers & t.unfit]
        if lower and all(text in t.refused for t in lower):
            return EventReason.NOT_ADMITTED
        if not lower and (h.edge is None or not h.edge.gives_up(text)):
            return EventReason.CAPACITY
        up = any(h.up & t.bit for t in lower) if lower else h.edge is not None and h.edge.up
        return EventReason.BACK_PRESSURE if up else EventReason.BREAKER_OPEN

    def clean_ahead(self, tier: Tier) -> None:
        """Too much of `tier` is not clean: wake the movers below."""
        for lower in self._h.tiers[tier.position + 1 :]:
            if self._h.up & lower.bit or lower.due():
                self._h.poke(lower)
        if self._h.edge is not None:
            self._h.edge.poke()
