"""Making a store whole after an interrupt, which may come between any two steps of a call (a signal, out of memory).

Nothing is undone step by step: what a tier is charged with, counts and ranks is worked out anew from what is known for
certain: the grants in the index, the stale bytes, and the claims and reservations of the calls still under way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final

from lms_tiers.errors import chain, from_anywhere
from lms_tiers.policies.base import EvictionPolicy
from lms_tiers.tiered.paths.mover import Mover
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Claim, Entry
from lms_tiers.tiered.state.stand_ins import LatePolicy, SuspendedPolicy, align, insert
from lms_tiers.tiered.state.tier import Tier
from lms_tiers.tiered.watch.events import EventKind, EventReason

_log = logging.getLogger(__name__)

#: How often a recount that is interrupted itself is begun anew.
_TRIES: Final = 100


class Auditor:
    """Recounts what the tiers of `hierarchy` hold.

    Parameters
    ----------
    fit_anew : callable
        Asks what fits where for entries held. Called without the lock.
    """

    def __init__(
        self, hierarchy: Hierarchy, movers: Sequence[Mover], fit_anew: Callable[[list[Entry]], None]
    ) -> None:  # fmt: skip
        self._h: Final = hierarchy
        self._movers: Final = movers
        self._fit_anew: Final = fit_anew

    def mend(self, error: BaseException) -> None:
        """Let go of all that this thread's call held, which `error` ended, and recount. Takes the lock.

        Nothing is done after an error that a call raises by itself: it has given back what it took.
        """
        if not self._disturbs(error):
            return
        errors = [error]
        while len(errors) < _TRIES:
            try:
                with self._h.lock:
                    self._recount(errors)
                    resized = self._h.resizing.get(threading.get_ident())
                    held = list(self._h.index.values()) if resized is not None else []
                if resized is not None:
                    self._fit_anew(held)
                    self._h.resizing.pop(threading.get_ident(), None)
                return
            except BaseException as again:
                errors.append(again)
        _log.error("the store could not be recounted after %r", error, exc_info=errors[-1])

    def _disturbs(self, error: BaseException) -> bool:
        """Whether `error` may have come from anywhere, or its call still holds something."""
        if from_anywhere(error):
            return True
        thread = threading.get_ident()
        with self._h.lock:
            return any(
                thread in tier.reserved or any(claim.thread == thread for claim in tier.busy.values())
                for tier in self._h.tiers
            )

    # -- under the lock ----------------------------------------------------------------------------------------------

    def _recount(self, errors: Sequence[BaseException]) -> None:
        h = self._h
        thread = threading.get_ident()
        published: list[str] = []
        for tier, mover in zip(h.tiers, self._movers, strict=True):
            mover.eager.discard(thread)
            published += self._let_go(tier, thread)
        held = self._held()
        for tier in h.tiers:
            # Not before what is in doubt has lost its grant: readers look without the lock.
            tier.writing.intersection_update(tier.busy)
        for tier, mover in zip(h.tiers, self._movers, strict=True):
            self._weigh(tier, held[tier.position])
            self._reconcile(tier, held[tier.position], published, errors)
            mover.rouse()
        if h.edge is not None:
            h.edge.recount(h.index, thread)
        h.pins.sort()
        h.fits = {}
        h.wake()

    def _let_go(self, tier: Tier, thread: int) -> list[str]:
        """End what `thread` had in `tier`; answers the keys whose new generation was published."""
        h = self._h
        tier.calls.pop(thread, None)
        tier.wanting.pop(thread, None)
        tier.watchers.pop(thread, None)
        for text, load in [item for item in list(tier.loads.items()) if item[1].thread == thread]:
            tier.loads.pop(text, None)
            load.finish()
        published = []
        begun = thread in tier.begun
        for text, claim in [item for item in tier.busy.items() if item[1].thread == thread]:
            if begun and claim.entry is not None:
                if h.index.get(text) is claim.entry:
                    self._publish(tier, text, claim, claim.entry)
                    published.append(text)
                    h.log.add(EventKind.STORED, EventReason.REQUEST, tier.name, text, claim.need)
                else:
                    self._doubt(tier, text, claim)
            tier.busy.discard(text)
        tier.reserved.pop(thread, None)
        return published

    def _publish(self, tier: Tier, text: str, claim: Claim, entry: Entry) -> None:
        """The write had worked, and was being made known: that is finished."""
        tier.garbage.pop(text, None)
        if not entry.charges[tier.position]:
            entry.charges = self._h.charges.changed(entry.charges, tier.position, claim.need)

    def _doubt(self, tier: Tier, text: str, claim: Claim) -> None:
        """Nobody knows what is in the backend: neither the old chunk nor the new one is to be read."""
        tier.epoch += 1
        entry = self._h.index.get(text)
        charge = entry.charges[tier.position] if entry is not None and entry.tiers & tier.bit else 0
        # Charged twice where an interrupt makes this repeat itself; never too little.
        tier.garbage[text] = max(tier.garbage.get(text, 0), charge) + claim.need

    def _held(self) -> list[dict[str, Entry]]:
        """Who is granted what: nobody what is stale, whichever of both an interrupt let happen first."""
        h = self._h
        held: list[dict[str, Entry]] = [{} for _ in h.tiers]
        for tier in h.tiers:
            for text in list(tier.garbage):
                entry = h.index.get(text)
                if entry is not None and entry.tiers & tier.bit:
                    tier.garbage[text] = max(tier.garbage[text], entry.charges[tier.position])
                    if entry.tiers & h.all == tier.bit:
                        if h.loading is not None:
                            h.loading.seen.add(text)
                        del h.index[text]
                        h.log.add(EventKind.GONE, EventReason.IO_ERROR, "", text, 0)
                    else:
                        entry.tiers &= ~tier.bit
        for text, entry in h.index.items():
            for tier in h.tiers:
                if entry.tiers & tier.bit:
                    held[tier.position][text] = entry
                elif entry.charges[tier.position]:
                    entry.charges = h.charges.changed(entry.charges, tier.position, 0)
        return held

    def _weigh(self, tier: Tier, held: dict[str, Entry]) -> None:
        tier.keys = len(held)
        tier.used = sum(entry.charges[tier.position] for entry in held.values())
        tier.used += sum(tier.garbage.values()) + sum(tier.reserved.values())
        loading = self._h.loading
        if loading is not None and loading.tier is tier:
            tier.used += loading.unsettled_bytes
        tier.set_capacity(tier.capacity)
        resized, before = self._h.resizing.get(threading.get_ident(), (None, None))
        if resized is tier and tier.used > tier.budget:
            tier.set_capacity(before)  # what has to leave has not left
        tier.peak = max(tier.peak, tier.used)
        tier.dirty_bytes = sum(tier.dirty.values())
        tier.ahead = 0

    def _reconcile(
        self, tier: Tier, held: dict[str, Entry], published: Sequence[str], errors: Sequence[BaseException]
    ) -> None:
        """Let the policy know of what is held, and of nothing else."""
        policy = tier.policy
        ranking = policy.policy if isinstance(policy, LatePolicy) else policy
        torn = any(_runs(frame, ranking) for error in errors for frame in _frames(error))
        try:
            if isinstance(policy, LatePolicy):
                sizes = {text: entry.charges[tier.position] for text, entry in held.items()}
                if torn:
                    _tell_torn(tier)
                    policy.begin_anew(sizes)
                policy.reconcile(sizes)
            elif not isinstance(policy, SuspendedPolicy):
                if torn:
                    tier.policy = self._anew(tier, policy, held)
                else:
                    align(policy, tier.position, held, published)
                if tier.capacity is not None and tier.policy.capacity != tier.capacity:
                    tier.policy.on_resize(tier.capacity)
        except Exception as fault:
            self._h.suspend(tier, fault)

    def _anew(self, tier: Tier, policy: EvictionPolicy, held: dict[str, Entry]) -> EvictionPolicy:
        """A policy of the same kind in place of one that was interrupted itself: it may be torn."""
        _tell_torn(tier)
        new = type(policy)(policy.capacity, policy.clock)
        insert(new, tier.position, held, held)
        return new


def _tell_torn(tier: Tier) -> None:
    _log.warning("policy %r of tier %r was interrupted and begins anew", tier.policy.name, tier.name)


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Every frame that an error, or one before it, has left."""
    for one in chain(error):
        at = one.__traceback__
        while at is not None:
            yield at.tb_frame
            at = at.tb_next


def _runs(frame: FrameType, policy: EvictionPolicy) -> bool:
    """Whether the frame is that of a method of `policy`."""
    code = frame.f_code
    return code.co_argcount > 0 and frame.f_locals.get(code.co_varnames[0]) is policy
