"""The tiers, the index, and the lock that guards them: every change of who holds what is one of these methods.

Nothing here calls a backend while the lock is held, and nothing here reads or writes a chunk's bytes. A method needs
the lock held unless it says that it takes it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os import getpid
from threading import get_ident
from typing import Final, TypeVar

from lms_tiers.changes import Awaited
from lms_tiers.errors import BackendClosedError, ForkedProcessError, PolicyError
from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.edge import Edge
from lms_tiers.tiered.state.health import Limits
from lms_tiers.tiered.state.index import IN_THE_WAY, Charges, Claim, Entry, Fit, Pins, Protected
from lms_tiers.tiered.state.stand_ins import LatePolicy, Settled, SuspendedPolicy, insert
from lms_tiers.tiered.state.tier import Tier, TierConfig
from lms_tiers.tiered.state.uses import Recency
from lms_tiers.tiered.watch.events import EventKind, EventLog, EventReason

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Lengths whose reservations are remembered.
_KNOWN_LENGTHS: Final = 4096

#: Seconds until a full medium is tried again.
_REST: Final = 0.5


class Hierarchy:
    """See the module.

    Attributes
    ----------
    index : dict of str to Entry
        The truth. Read without the lock, changed with it.
    up : int
        Bits of the tiers whose breaker is closed. Read without the lock.
    tiers : tuple of Tier
        The private ones, fastest first.
    loading : Settled or None
        While the lowest tier is being taken over: the index knows of settled keys only. Read without the lock.
    """

    def __init__(
        self, name: str, configs: Sequence[TierConfig], clock: Callable[[], float], log: EventLog,
        limits: Limits,
    ) -> None:  # fmt: skip
        count = len(configs)
        self._name, self._pid = name, getpid()
        self.lock: Final = threading.Lock()
        changes = Awaited(self.lock)
        self.clock: Final = clock
        self.log: Final = log
        self.tiers: Final = tuple(Tier(c, i, count, clock, log, limits) for i, c in enumerate(configs))
        for tier in self.tiers:
            tier.switched = partial(self._switched, tier)
        self.all: Final = (1 << count) - 1
        #: The bit of an `Entry` that was hit below the top since it was there last.
        self.again: Final = 1 << (2 * count)
        self.up = self.all
        self.index: Final[dict[str, Entry]] = {}
        self.charges: Final = Charges(count)
        self.nowhere: Final = self.charges.nowhere
        self.loading: Settled | None = None
        #: The tier below them that is shared with others; set by the store.
        self.edge: Edge | None = None
        self.pins: Final = Pins()
        self.puts = 0
        #: No call is begun any more: it is being closed, or this is a child of a fork.
        self.closing = False
        #: Nothing is made known any more of what was begun before: the closing did not wait for it longer.
        self.over = False
        #: Threads that resize a tier, and its capacity before.
        self.resizing: Final[dict[int, tuple[Tier, int | None]]] = {}
        #: What fits where, by length; another one after each change of a capacity.
        self.fits: dict[int, Fit] = {}
        #: Wakes the mover of a tier; set by the store.
        self.poke: Callable[[Tier], None] = lambda tier: None
        #: Told of each chunk put and published: ``(tier, text, entry)``; set by the store.
        self.written: Callable[[Tier, str, Entry], None] = lambda tier, text, entry: None
        #: Makes the store whole after an error that came from anywhere; set by the store. Takes the lock.
        self.mend: Callable[[BaseException], None] = lambda error: None
        self.change, self.wait, self.wake = changes.next, changes.wait, changes.wake
        self.wait_for, self.until = changes.wait_for, changes.until
        self.recency: Final = Recency(self.tiers, self.index, self.suspend, lambda tier: self.poke(tier))
        #: Hits that nobody was told of yet. Appended to without the lock.
        self.noted: Final = self.recency.noted

    def check_open(self, ending: bool = False) -> None:
        """Raise where no call may begin: in a child of a fork and, unless it is `ending`, once the store is closed."""
        if self.closing:
            if getpid() != self._pid:
                raise ForkedProcessError(f"the store {self._name}")
            if not ending:
                raise BackendClosedError(f"the store {self._name}")

    def settle(self, text: str, change: bool = False) -> None:
        """While the lowest tier is being loaded: let the index tell the truth about `text`. Takes the lock."""
        loading = self.loading  # it may end between two looks
        if loading is not None:
            loading.settle(text, change)

    # -- mutators ----------------------------------------------------------------------------------------------------

    def acquire(self, tier: Tier, text: str, need: int, entry: Entry) -> bool:
        """Become the one mutator of `text` in `tier`, to write `entry`, `need` bytes; False where somebody is.

        From here on, a copy of `text` that `tier` holds is hidden from readers as being overwritten.
        """
        if text in tier.busy:
            return False
        thread = get_ident()
        tier.begun.discard(thread)
        tier.busy[text] = tuple.__new__(Claim, (thread, need, entry))  # its own way to be made costs three times this
        old = self.index.get(text)
        if old is not None and old.tiers & tier.bit:
            tier.writing.add(text)
        return True

    def release(self, tier: Tier, text: str) -> None:
        """Stop being the mutator of `text` in `tier`."""
        tier.writing.discard(text)
        tier.busy.pop(text, None)
        if text in tier.garbage:
            self.poke(tier)
        self.wake()

    # -- sizes -------------------------------------------------------------------------------------------------------

    def fit(self, length: int) -> Fit:
        """What a chunk of `length` bytes needs in each tier. Takes no lock: backends answer."""
        fits = self.fits  # one that a resize has replaced meanwhile is forgotten with what is put into it
        fit = fits.get(length)
        if fit is None:
            needs = tuple(tier.need(length) for tier in self.tiers)
            unfit = sum(tier.unfit for tier, need in zip(self.tiers, needs, strict=True) if need is None)
            fit = Fit(needs, unfit)
            if len(fits) >= _KNOWN_LENGTHS:
                fits.clear()
            fits[length] = fit
        return fit

    # -- grants ------------------------------------------------------------------------------------------------------

    def grant(self, tier: Tier, text: str, entry: Entry, charge: int, context: AccessContext) -> None:
        """`tier` holds `entry`, whose `charge` bytes were reserved."""
        if self.loading is not None and self.loading.tier is tier:
            self.loading.unweighed.discard(text)  # overwritten
        if self.noted:
            self.recency.tell()  # before there is a charge: from then on the policy has to know what was hit
        entry.charges = self.charges.changed(entry.charges, tier.position, charge)
        entry.tiers |= tier.bit
        tier.keys += 1
        if tier.below and not entry.tiers & tier.below:
            tier.note_dirty(text, charge)
        if tier.refused:
            tier.refused.discard(text)
            tier.unwritten.discard(text)
        nbytes = entry.charges[tier.position]  # a number that entries share
        self.told(tier, lambda policy: policy.on_insert(text, nbytes, context))

    def publish(self, tier: Tier, text: str, entry: Entry, need: int, charge: int, context: AccessContext) -> None:
        """`entry`, put and written to `tier`, becomes the newest generation, and its mutator lets go; see `adopt`."""
        tier.settle(need, charge)
        tier.bytes_written += entry.meta.length
        if self.edge is not None:
            self.edge.changed(text, entry)  # before it may leave again
        self.adopt(tier, text, entry, charge, context)
        # Before the key is let go: see audit.py.
        self.log.add(EventKind.STORED, EventReason.REQUEST, tier.name, text, charge)
        self.release(tier, text)
        self.puts += 1
        self.written(tier, text, entry)

    def adopt(self, tier: Tier, text: str, entry: Entry, charge: int, context: AccessContext) -> None:
        """`entry`, written to `tier`, becomes the newest generation; all older copies are stale from here on.

        They are stale before it does: an interrupt in between leaves no bytes that nobody knows of.
        """
        entry.tiers |= tier.bit
        old = self.index.get(text)
        if old is not None and old.tiers & self.all != tier.bit:
            for other in self.tiers:
                if old.tiers & other.bit and other is not tier:
                    other.garbage[text] = old.charges[other.position]
        self.index[text] = entry
        if old is not None:
            for other in self.tiers:
                other.refused.discard(text)
                if old.tiers & other.bit:
                    if other is tier:
                        tier.used -= old.charges[tier.position]
                    else:
                        self.poke(other)
                    self.left(other, text, RemoveReason.REPLACED)
        if text in tier.garbage:
            tier.used -= tier.garbage.pop(text)
        self.grant(tier, text, entry, charge, context)

    def left(self, tier: Tier, text: str, reason: RemoveReason) -> None:
        """Tell the policy that `text` is no longer held; it is not on record as dirty any more."""
        tier.keys -= 1
        if tier.dirty:
            tier.dirty_bytes -= tier.dirty.pop(text, 0)
        if self.noted:
            self.recency.tell()
        self.told(tier, lambda policy: policy.on_remove(text, reason))

    def ungrant(self, tier: Tier, text: str, entry: Entry, reason: RemoveReason, why: EventReason) -> None:
        """`tier` no longer holds the live `entry`; its bytes are to be deleted."""
        tier.garbage[text] = entry.charges[tier.position]
        self.left(tier, text, reason)
        if entry.tiers & self.all == tier.bit:
            if self.loading is not None:
                self.loading.seen.add(text)
            del self.index[text]  # its grants stay as they are: see Entry
            self.log.add(EventKind.GONE, why, "", text, 0)
        else:
            entry.charges = self.charges.changed(entry.charges, tier.position, 0)
            entry.tiers &= ~tier.bit

    def forget(self, text: str, why: EventReason, kind: EventKind = EventKind.REMOVED) -> None:
        """Un-grant every copy of `text`."""
        if self.loading is not None:
            self.loading.seen.add(text)
        entry = self.index.get(text)
        if entry is None:
            return
        for tier in self.tiers:
            tier.refused.discard(text)
            if entry.tiers & tier.bit:
                self.log.add(kind, why, tier.name, text, entry.charges[tier.position])
                self.ungrant(tier, text, entry, RemoveReason.REMOVED, why)
                self.poke(tier)

    def stands(self, tier: Tier, text: str, entry: Entry, epoch: int) -> bool:
        """Whether what a read of `tier` found since `epoch` is the newest generation, `entry`."""
        return (
            text not in tier.writing
            and tier.epoch == epoch
            and self.index.get(text) is entry
            and bool(entry.tiers & tier.bit)
        )

    def doubt(self, tier: Tier, text: str, reserved: int) -> None:
        """A write under `text` failed and may have happened all the same; its mutator lets go.

        Nobody reads what was there or is there now, and the bytes stay charged.
        """
        tier.epoch += 1
        entry = self.index.get(text)
        if entry is not None and entry.tiers & tier.bit:
            self.ungrant(tier, text, entry, RemoveReason.REMOVED, EventReason.IO_ERROR)
        tier.garbage[text] = tier.garbage.get(text, 0) + reserved
        tier.settle(reserved, reserved)
        self.release(tier, text)

    def lose(self, tier: Tier, text: str, entry: Entry) -> None:
        """`tier` does not have the chunk it should hold, or has it damaged."""
        tier.corrupt += 1
        self.log.add(EventKind.FAILED, EventReason.CORRUPT, tier.name, text, entry.charges[tier.position])
        self.ungrant(tier, text, entry, RemoveReason.REMOVED, EventReason.CORRUPT)
        self.poke(tier)

    # -- uses --------------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Tell all policies what was used. Takes the lock."""
        with self.lock:
            self.recency.tell()

    # -- policies that break their contract --------------------------------------------------------------------------

    def suspend(self, tier: Tier, error: Exception) -> None:
        """The policy raised: nothing more is asked of it."""
        tier.policy = SuspendedPolicy(tier.policy, error)
        _log.error("policy %r of tier %r raised", tier.policy.name, tier.name, exc_info=error)

    def told(self, tier: Tier, call: Callable[[EvictionPolicy], T]) -> T | None:
        """What the policy answers; None where it raises, and from then on it is asked nothing more."""
        try:
            return call(tier.policy)
        except Exception as error:
            self.suspend(tier, error)
            return None

    def admits(self, tier: Tier, text: str, size: int, context: AccessContext) -> bool:
        """Whether the policy wants a chunk that the tier does not hold."""
        if self.noted:
            self.recency.tell()
        return self.told(tier, lambda policy: bool(policy.admit(text, size, context))) is not False

    def victims(self, tier: Tier, need: int) -> Iterator[tuple[str, Entry]]:
        """The policy's victims for `need` bytes, checked; LRU's from the moment the policy is at fault."""
        if self.noted:
            self.recency.tell()
        passed, tier.passed = tier.passed, {}
        if self.pins:
            context = AccessContext(self.clock())
            self.pins.expire(context.now)
            if len(passed) > IN_THE_WAY:  # they count as used, so that they are not in the way again
                for text in passed:
                    if text in self.pins and text in self.index:
                        self.recency.use(text, self.index[text], context)
        protected = Protected(tier.busy, self.pins, tier.passed)
        seen: set[str] = set()
        policy, left = tier.policy, need
        # A policy that takes no `on_shrink` believes that chunks take more than they do.
        blind = tier.cools and type(policy).on_shrink is EvictionPolicy.on_shrink
        try:
            for text in policy.victims(sys.maxsize if blind else need, protected):
                entry = self.index.get(text)
                if entry is None or not entry.tiers & tier.bit or text in seen or text in protected:
                    raise PolicyError(policy.name, f"proposed {text!r}: it is not held, protected, or proposed before.")
                seen.add(text)
                left -= entry.charges[tier.position]
                yield text, entry
                if left <= 0:
                    return
            if isinstance(policy, LatePolicy) or len(seen) + len(protected) >= tier.keys:
                return
            fault: Exception = PolicyError(policy.name, "kept back keys that could leave.")
        except Exception as error:
            fault = error
        _log.error("tier %r: policy %r goes: %r", tier.name, policy.name, fault)
        self.log.add(EventKind.STATE, EventReason.POLICY_FAULT, tier.name, "", 0)
        tier.policy = Lru(policy.capacity, self.clock)
        entries = {text: entry for text, entry in self.index.items() if entry.tiers & tier.bit}
        insert(tier.policy, tier.position, entries, entries)
        yield from ((k, self.index[k]) for k in tier.policy.victims(need, protected) if k not in seen)

    # -- sick tiers --------------------------------------------------------------------------------------------------

    def rest(self, tier: Tier) -> None:
        """The medium of `tier` is full: write nothing to it for a while. It is not sick, so reads go on."""
        if not tier.rests_until:
            _log.warning("the medium of tier %r is full: it takes nothing until there is room", tier.name)
        tier.rests_until = self.clock() + _REST
        tier.failures += 1
        self.log.add(EventKind.FAILED, EventReason.IO_ERROR, tier.name, "", 0)
        self.wake()

    def loads(self, tier: Tier) -> bool:
        """Whether chunks of `tier` that could leave are still being taken into the index."""
        return self.loading is not None and self.loading.tier is tier and self.loading.moves

    def rests(self, tier: Tier) -> bool:
        """Whether `tier` is left alone because its medium was full a moment ago."""
        return bool(tier.rests_until) and self.clock() < tier.rests_until

    def probe(self, tiers: int) -> Tier | None:
        """The highest of the switched-off `tiers` (bits) where a probe is due now; takes the probe. Takes the lock."""
        with self.lock:
            return next((tier for tier in self.tiers if tiers & tier.bit and tier.probe()), None)

    def _switched(self, tier: Tier, on: bool) -> None:
        if on:
            self.up |= tier.bit
            tier.refused.clear()
            tier.unwritten.clear()
            self.poke(tier)
        else:
            self.up &= ~tier.bit
        self.wake()
