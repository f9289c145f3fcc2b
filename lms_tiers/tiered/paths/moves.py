"""Copying chunks into one tier: read, reserve, write in one batch, publish what is still the newest generation.

The steps of a mover's work; when to do what is in mover.py. No method holds the lock while a backend works.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from lms_tiers.errors import CapacityError, StorageFullError, nothing_done
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, LMSMemoryObj
from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.tiered.paths.reads import DamagedChunkError, fetch
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier, stored_bytes
from lms_tiers.tiered.watch.events import EventKind, EventReason

#: Key, generation, its bytes where at hand, length.
Pick = tuple[str, Entry, LMSMemoryObj | None, int]

#: Chunks looked at or published in one go: readers need the lock, and the interpreter's, in between.
_STEP: Final = 4

#: Seconds that give a reader which waits for the interpreter's lock time to wake up: with the timer's slack some 70 µs.
_WAKING: Final = 2e-5

#: Seconds that a promotion waits for clean chunks to leave.
_PROMOTION_PATIENCE: Final = 0.02


class _Worth(NamedTuple):
    """A chunk that is worth moving, and where from."""

    text: str
    entry: Entry
    source: Tier
    epoch: int
    upward: bool


class _Ready(NamedTuple):
    """A chunk about to be written: its room is reserved, the mover is its mutator."""

    text: str
    entry: Entry
    source: Tier
    epoch: int
    obj: LMSMemoryObj | None  # None: the backend takes it from the source itself
    need: int
    key: CacheEngineKey


class Moves:
    """Copies chunks into `tier`.

    Parameters
    ----------
    back_pressure : float
        Seconds to wait for room in the tier.
    """

    def __init__(self, hierarchy: Hierarchy, room: Room, tier: Tier, back_pressure: float) -> None:
        self._h: Final = hierarchy
        self._room: Final = room
        self.tier: Final = tier
        self._back_pressure: Final = back_pressure
        self._direct: Final = type(tier.backend).put_from is not LMSBackendInterface.put_from

    def move(self, picks: list[Pick], singly: bool) -> tuple[list[Pick], int]:
        """Copy chunks into the tier.

        Returns
        -------
        list of Pick
            What is to be tried again after this batch.
        int
            How many of a batch that failed are to be moved one by one, to find the one that makes it fail.
        """
        direct = self._direct and not singly and all(obj is None for _, _, obj, _ in picks)
        together, rest = (None, picks) if len(picks) == 1 else self._together(picks, direct)
        ready, rest = self._one_by_one(rest, direct) if together is None else (together, rest)
        return rest, self._write(ready) if ready else 0

    def _together(self, picks: list[Pick], direct: bool) -> tuple[list[_Ready] | None, list[Pick]]:
        """Make chunks ready with one reservation, and those for another batch.

        None, and all of them, where there is no room for them together as things are.
        """
        h, tier = self._h, self.tier
        worth: list[tuple[_Worth, LMSMemoryObj | None, int]] = []
        rest: list[Pick] = []
        total = 0
        needs = [h.fit(entry.meta.length).needs[tier.position] for _, entry, _, _ in picks]
        for at in range(0, len(picks), _STEP):
            self._give_way()
            with h.lock:
                for pick, need in zip(picks[at : at + _STEP], needs[at : at + _STEP], strict=True):
                    found = None if need is None else self._worth(pick[0], pick[1])
                    if found is None or need is None:
                        continue
                    if direct and worth and found.source is not worth[0][0].source:
                        rest.append(pick)
                        continue
                    worth.append((found, pick[2], need))
        if not direct:
            held = [(it, obj or fetch(h, it.source, it.text, it.entry), need) for it, obj, need in worth]
            worth = [item for item in held if item[1] is not None]
        total = sum(need for _, _, need in worth)
        if not worth:
            return [], rest
        keys = [CacheEngineKey.from_string(found.text) for found, _, _ in worth]
        if not self._room.make_room(tier, total, "", 0.0, force=False, moving=True):
            return None, [(it.text, it.entry, obj, it.entry.meta.length) for it, obj, _ in worth] + rest
        ready: list[_Ready] = []
        with h.lock:
            for (found, obj, need), key in zip(worth, keys, strict=True):
                if self._wanted(found.text, found.entry) and h.acquire(tier, found.text, need, found.entry):
                    ready.append(_Ready(found.text, found.entry, found.source, found.epoch, obj, need, key))
                else:
                    self._room.give_back(tier, need)
        return ready, rest

    def _one_by_one(self, picks: list[Pick], direct: bool) -> tuple[list[_Ready], list[Pick]]:
        """Make chunks ready one after the other, as far as there is room."""
        ready: list[_Ready] = []
        rest: list[Pick] = []
        try:
            for i, (text, entry, obj, _) in enumerate(picks):
                item = self._prepare(text, entry, obj, not ready, direct)
                if item is not None and ready and item.source is not ready[0].source and direct:
                    self._release(item)
                    rest = picks[i:]
                    break
                if item is not None:
                    ready.append(item)
                elif ready and self.tier.used + entry.meta.length > self.tier.budget:
                    rest = picks[i:]  # what is ready goes first: it cannot make room for the others
                    break
        except BaseException:
            for item in ready:
                self._release(item)
            raise
        return ready, rest

    def _release(self, item: _Ready) -> None:
        with self._h.lock:
            self._room.give_back(self.tier, item.need)
            self._h.release(self.tier, item.text)

    def _prepare(self, text: str, entry: Entry, obj: LMSMemoryObj | None, wait: bool, direct: bool) -> _Ready | None:
        """Read a chunk that is still worth moving, reserve its room, become its mutator here."""
        h, tier = self._h, self.tier
        with h.lock:
            worth = self._worth(text, entry)
        if worth is None:
            return None
        _, _, source, epoch, upward = worth
        need = h.fit(entry.meta.length).needs[tier.position]
        if not direct:
            obj = obj or fetch(h, source, text, entry)
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
                    tier.refuse(text)
                return None
            if not (self._wanted(text, entry) and h.acquire(tier, text, need, entry)):
                self._room.give_back(tier, need)
                return None
        return _Ready(text, entry, source, epoch, obj, need, CacheEngineKey.from_string(text))

    def _worth(self, text: str, entry: Entry) -> _Worth | None:
        """Whether a chunk is worth moving, and wanted here. The lock is held."""
        h, tier = self._h, self.tier
        granted = entry.tiers & h.up
        if not self._wanted(text, entry) or (entry.tiers & h.all and not granted):
            return None
        # What was read in the shared tier is granted nowhere as yet, and its bytes are at hand: no source is asked.
        source = h.tiers[(granted & -granted).bit_length() - 1] if granted else tier
        upward = not granted or source.position > tier.position
        if not self.admitted(text, entry, upward):
            tier.skipped += upward
            if not upward:
                tier.refuse(text)
            return None
        return _Worth(text, entry, source, source.epoch, upward)

    def admitted(self, text: str, entry: Entry, upward: bool = False) -> bool:
        """Whether the tier's policy wants the chunk now. The lock is held."""
        h = self._h
        context = self._context(entry, h.clock(), upward)
        return h.admits(self.tier, text, entry.meta.length, context)

    def _wanted(self, text: str, entry: Entry) -> bool:
        """Whether the chunk is the newest generation, not held here, and nobody else is at it here."""
        tier = self.tier
        return self._newest(text, entry) and not entry.tiers & tier.bit and text not in tier.busy

    def _newest(self, text: str, entry: Entry) -> bool:
        """Whether the chunk is the newest generation, or what a shared tier has and no private one that is as new."""
        h = self._h
        held, edge = h.index.get(text), h.edge
        if held is entry or edge is None or h.closing or not edge.rises(text, entry):
            return held is entry
        return held is None or edge.revalidate is not None

    def _context(self, entry: Entry, now: float, upward: bool) -> AccessContext:
        return AccessContext(now, None, entry.parent, entry.position, self._partial(entry), demoted=not upward)

    def _partial(self, entry: Entry) -> bool | None:
        parent = self._h.index.get(entry.parent) if entry.parent is not None else None
        return None if parent is None else entry.meta.length < parent.meta.length

    def _write(self, ready: list[_Ready]) -> int:
        """Write and publish; answers how many to try one by one."""
        h, tier = self._h, self.tier
        error: BaseException | None = None
        charges: list[int] = []
        started = time.perf_counter_ns()
        try:
            charges = tier.inside(self._store, ready)
        except BaseException as caught:
            error = caught
        took = time.perf_counter_ns() - started
        with h.lock:
            again = 0 if error is None else self._failed(ready, error)
        if error is not None:
            if isinstance(error, CapacityError) or (isinstance(error, StorageFullError) and len(ready) == 1):
                self._room.spare(tier, sum(item.need for item in ready))
            return again
        with h.lock:
            tier.worked()
            tier.rests_until = 0.0
            tier.write_latency.add(took)
        for at in range(0, len(ready), _STEP):
            self._give_way()
            with h.lock:
                now = h.clock()
                for item, charge in zip(ready[at : at + _STEP], charges[at : at + _STEP], strict=True):
                    self._settle(item, charge, now)
        return 0

    def _give_way(self) -> None:
        """Let who reads here or below have the interpreter's lock, which nothing here lets go of for long otherwise."""
        if any(tier.calls for tier in self._h.tiers[self.tier.position :]):
            time.sleep(_WAKING)

    def _settle(self, item: _Ready, charge: int, now: float) -> None:
        """Publish a chunk that was written, if it is still the newest generation. The lock is held."""
        h, tier, text, entry = self._h, self.tier, item.text, item.entry
        tier.settle(item.need, charge)
        tier.bytes_written += entry.meta.length
        if item.obj is None:
            item.source.bytes_read += entry.meta.length
        # What was handed over was checked when it was read.
        stands = item.obj is not None or h.stands(item.source, text, entry, item.epoch)
        newest = stands and self._newest(text, entry)
        old = h.index.get(text)
        if not newest and old is not None and old.tiers & tier.bit:
            h.ungrant(tier, text, old, RemoveReason.REMOVED, EventReason.STALE)  # a copy to be asked for again
        tier.used -= tier.garbage.pop(text, 0)  # overwritten
        if newest:
            self._published(text, entry, charge, now)
        else:
            tier.garbage[text] = charge
        h.release(tier, text)

    def _store(self, ready: list[_Ready]) -> list[int]:
        """Write to the backend by one call; answers what each chunk takes there."""
        backend = self.tier.backend
        metas = [item.entry.meta.message(item.key) for item in ready]
        if ready[0].obj is None:
            if not all(backend.put_from(metas, ready[0].source.backend)):
                raise DamagedChunkError
        elif len(ready) == 1:
            backend.put(metas[0], ready[0].obj.data)
        else:
            backend.put_many([(meta, item.obj.data) for meta, item in zip(metas, ready, strict=True) if item.obj])
        return [stored_bytes(self.tier, item.key, item.need) for item in ready]

    def _published(self, text: str, entry: Entry, charge: int, now: float) -> None:
        h, tier = self._h, self.tier
        risen = not entry.tiers & h.all
        upward = risen or bool(entry.tiers & tier.below)
        context = self._context(entry, now, upward)
        if risen and h.edge is not None:
            h.adopt(tier, text, entry, charge, context)
            h.edge.confirm(text, h.index)
        else:
            h.grant(tier, text, entry, charge, context)
        for arrived in tier.watchers.values():
            arrived.add(text)
        if upward:
            tier.promoted += 1
        else:
            tier.demoted += 1
        kind = EventKind.PROMOTED if upward else EventKind.DEMOTED
        h.log.add(kind, EventReason.REQUEST if upward else EventReason.CLEANED, tier.name, text, charge)

    def _failed(self, ready: list[_Ready], error: BaseException) -> int:
        """A write failed, of one chunk or of a batch of which nobody knows how much was stored."""
        h, tier = self._h, self.tier
        direct = ready[0].obj is None
        full = isinstance(error, (CapacityError, StorageFullError))
        if not direct and not full:  # otherwise nobody knows whose fault it is: the next try goes step by step
            tier.failed(ready[0].text, error)
        for item in ready:
            text, need = item.text, item.need
            if len(ready) == 1 and h.up & tier.bit and not direct and not full:
                # This very chunk is the trouble, or the next failures will switch the tier off.
                tier.refuse(text)
                tier.unwritten.add(text)
            if len(ready) == 1 and nothing_done(error) and not direct:
                tier.settle(need, 0)
                h.release(tier, text)
            else:
                h.doubt(tier, text, need)
        if direct or len(ready) > 1:
            return len(ready)
        if isinstance(error, StorageFullError):
            h.rest(tier)
            return 1  # one by one as well when it is tried again
        return 0
