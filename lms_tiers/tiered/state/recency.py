"""What was used, on its way to the policies: a reader notes a hit without the lock, whoever holds the lock tells it.

So a hit touches one list and no policy. All that is counted of hits is counted when they are told: exactly, and later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from lms_tiers.messages import LMSMemoryObj
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import RECENT_BATCH, Tier

#: Tier, key, generation, context or just the time, nanoseconds that the read took, the bytes where they may rise.
Hit = tuple[Tier, str, Entry, AccessContext | float, int, LMSMemoryObj | None]

#: Hits noted before the one who notes the next tells them. At most one call in so many pays for all of them.
MOST_NOTED: Final = 128


class Recency:
    """The hits of `tiers`. Methods need the store's lock held; `noted` may be appended to without it.

    Parameters
    ----------
    entry_of : callable
        The newest generation of a key, or None.
    suspend : callable
        ``(tier, error)``: the tier's policy raised.
    poke : callable
        Wakes the mover of a tier.
    """

    def __init__(
        self, tiers: Sequence[Tier], entry_of: Callable[[str], Entry | None],
        suspend: Callable[[Tier, Exception], None], poke: Callable[[Tier], None],
    ) -> None:  # fmt: skip
        self._tiers: Final = tiers
        self._entry_of: Final = entry_of
        self._suspend: Final = suspend
        self._poke: Final = poke
        self.noted: Final[deque[Hit]] = deque()
        self.hits = 0
        #: Offers a chunk that was hit below the top to the tiers above; set by the store.
        self.promote: Callable[[str, Entry, Tier, LMSMemoryObj | None], None] = lambda text, entry, tier, obj: None

    def tell(self) -> None:
        """Count what was noted, and tell the policies."""
        noted = self.noted
        while noted:
            tier, text, entry, context, took, obj = noted.popleft()
            tier.read_latency.add(took)
            tier.bytes_read += entry.meta.length
            self.hit(tier, text, entry, context, obj)

    def hit(
        self, tier: Tier, text: str, entry: Entry, context: AccessContext | float, obj: LMSMemoryObj | None = None
    ) -> None:
        """`tier` served `text`: count it, tell the policies, offer it to the tiers above."""
        self.hits += 1
        tier.hits += 1
        for above in self._tiers[: tier.position]:
            above.misses += 1
        if not (entry.tiers & tier.bit and entry.charges[tier.position] and self._entry_of(text) is entry):
            return  # it has left since, or is being granted at this moment and the policy does not know it yet
        if type(context) is float:
            context = AccessContext(context)
        try:
            tier.policy.on_hit(text, context)  # type: ignore[arg-type]  # a float was made a context
        except Exception as error:
            self._suspend(tier, error)
        if tier.touches:
            tier.touch(text)
            if len(tier.touched) >= RECENT_BATCH:
                self._poke(tier)
        if entry.tiers & tier.below:
            for other in self._tiers[tier.position + 1 :]:
                if entry.tiers & other.bit:
                    other.recent.append((text, context))  # type: ignore[arg-type]  # as above
                    if len(other.recent) >= RECENT_BATCH:
                        self.catch_up(other)
        if tier.rises and context.promote:  # type: ignore[union-attr]  # as above
            self.promote(text, entry, tier, obj)

    def use(self, text: str, context: AccessContext) -> None:
        """`text` was used, and nothing was read: no hit, and nothing rises. The tiers that hold it are told later."""
        entry = self._entry_of(text)
        if entry is None:
            return
        for tier in self._tiers:
            if entry.tiers & tier.bit:
                tier.recent.append((text, context))
                if len(tier.recent) >= RECENT_BATCH:
                    self.catch_up(tier)

    def catch_up(self, tier: Tier) -> None:
        """Tell the policy of `tier` what was hit above."""
        recent, tier.recent = tier.recent, []
        try:
            for text, context in recent:
                entry = self._entry_of(text)
                if entry is not None and entry.tiers & tier.bit:
                    tier.policy.on_hit(text, context)
                    if tier.touches:
                        tier.touch(text)
        except Exception as error:
            self._suspend(tier, error)
        if len(tier.touched) >= RECENT_BATCH:
            self._poke(tier)
