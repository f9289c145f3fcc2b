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
    index : dict of str to Entry
    suspend : callable
        ``(tier, error)``: the tier's policy raised.
    poke : callable
        Wakes the mover of a tier.
    """

    def __init__(
        self, tiers: Sequence[Tier], index: dict[str, Entry],
        suspend: Callable[[Tier, Exception], None], poke: Callable[[Tier], None],
    ) -> None:  # fmt: skip
        self._tiers: Final = tiers
        self._index: Final = index
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
        """`tier` served `text`: count it, note its use, offer it to the tiers above."""
        self.hits += 1
        tier.hits += 1
        for above in self._tiers[: tier.position]:
            above.misses += 1
        if not (entry.tiers & tier.bit and entry.charges[tier.position] and self._index.get(text) is entry):
            return  # it has left since, or is being granted at this moment and the policy does not know it yet
        if type(context) is float:
            context = AccessContext(context)
        self.use(text, entry, context)  # type: ignore[arg-type]  # a float was made a context
        if tier.rises and context.promote:  # type: ignore[union-attr]  # as above
            self.promote(text, entry, tier, obj)

    def use(self, text: str, entry: Entry, context: AccessContext) -> None:
        """A chunk was used. The policies of the tiers that hold it are told later."""
        for tier in self._tiers:
            if entry.tiers & tier.bit:
                tier.recent.append((text, context))
                if len(tier.recent) >= RECENT_BATCH:
                    self.catch_up(tier)

    def catch_up(self, tier: Tier) -> None:
        """Tell the policy of `tier`, and its backend's `touch`, what was used."""
        recent, tier.recent = tier.recent, []
        entry_of, bit = self._index.get, tier.bit
        try:
            on_hit = tier.policy.on_hit
            for text, context in recent:
                entry = entry_of(text)
                if entry is not None and entry.tiers & bit:
                    on_hit(text, context)
                    if tier.touches:
                        tier.touch(text)
        except Exception as error:
            self._suspend(tier, error)
        if len(tier.touched) >= RECENT_BATCH:
            self._poke(tier)
