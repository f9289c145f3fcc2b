"""Uses of chunks, as policies are told of them: where in its prefix chain a chunk stands, and that it was hit.

The order of `contains_prefix`, `get_many` and `put_many` tells the chain. A request usually looks up the whole chain,
gets its head and puts its tail in separate calls of one thread: the last chain of each thread is remembered.
Hints only: a wrong guess costs a policy some precision, never a chunk.

A reader notes a hit without the lock, whoever holds the lock tells it: so a hit touches one list and no policy. All
that is counted of hits is counted when they are told: exactly, and later.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final

from lms_tiers.messages import LMSMemoryObj
from lms_tiers.policies.base import AccessContext
from lms_tiers.request import RequestContext
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import TOUCH_BATCH, Tier

#: Tier, key, generation, context or just the time, nanoseconds that the read took, the bytes where they may rise.
Hit = tuple[Tier, str, Entry, AccessContext | float, int, LMSMemoryObj | None]

#: Hits noted before the one who notes the next tells them. At most one call in so many pays for all of them.
MOST_NOTED: Final = 128


class _Walk(threading.local):
    """What one thread saw last."""

    def __init__(self) -> None:
        self.chain: Sequence[str] = ()
        self.cursor = 0  # where in `chain` the next single access is expected
        self.request: int | str | None = None
        self.open_ended = False  # a put of unknown keys may continue `chain`
        self.explicit = False
        self.partial: Collection[str] = ()


class Chains:
    """The chains of all threads."""

    def __init__(self) -> None:
        self._walk = _Walk()
        self._requests = itertools.count(1)

    def begin(self, request_id: int | str | None, partial: Collection[str]) -> None:
        """An explicit request of this thread starts: until `end`, all its calls belong together."""
        walk = self._walk
        walk.chain, walk.cursor = (), 0
        walk.request = next(self._requests) if request_id is None else request_id
        walk.explicit, walk.partial, walk.open_ended = True, partial, True

    def end(self) -> None:
        """The explicit request of this thread is over."""
        walk = self._walk
        walk.explicit, walk.partial, walk.open_ended, walk.chain = False, (), False, ()

    def look_up(self, texts: Sequence[str]) -> int:
        """A look-up of `texts` in order; answers the index of its first chunk within the thread's chain."""
        walk = self._walk
        if not texts:
            return 0
        start = self._index(walk, texts[0])
        if start >= 0 and start + len(texts) <= len(walk.chain):
            walk.open_ended |= start + len(texts) == len(walk.chain)
            return start
        if start >= 0:  # the same chain, now known further
            walk.chain = [*walk.chain[:start], *texts]
        elif walk.explicit and walk.chain:
            start = len(walk.chain)
            walk.chain = [*walk.chain, *texts]
        else:
            self._start(walk, texts)
            start = 0
        walk.open_ended = True
        return start

    def put(self, texts: Sequence[str]) -> int:
        """A put of `texts` in order; answers the index of its first chunk within the thread's chain."""
        walk = self._walk
        start = self._index(walk, texts[0])
        if start < 0 and walk.open_ended and walk.chain:
            start = len(walk.chain)  # the tail of the head that was just looked up
        if start < 0:
            self._start(walk, texts)
            start = 0
        elif start + len(texts) > len(walk.chain):
            walk.chain = [*walk.chain[:start], *texts]
        walk.open_ended = walk.explicit
        return start

    def _start(self, walk: _Walk, texts: Sequence[str]) -> None:
        walk.chain, walk.cursor = texts, 0
        if not walk.explicit:
            walk.request = next(self._requests)

    @staticmethod
    def _index(walk: _Walk, text: str) -> int:
        chain = walk.chain
        if walk.cursor < len(chain) and chain[walk.cursor] == text:
            return walk.cursor
        try:
            return chain.index(text)
        except ValueError:
            return -1

    def contexts(self, now: float, start: int, count: int, lengths: Sequence[int] | None = None) -> list[AccessContext]:
        """The contexts of `count` chunks from `start` on; one shorter than the chunk before it is partly filled."""
        walk = self._walk
        chain, walk.cursor = walk.chain, start + count
        parent = chain[start - 1] if start else None
        texts = chain[start : start + count]
        return _placed(now, texts, (start, parent, len(chain)), walk.request, walk.partial.__contains__, lengths)

    def batch(
        self, now: float, texts: Sequence[str], lengths: Sequence[int] | None, by_hand: RequestContext | None
    ) -> list[AccessContext]:
        """The contexts of a batch: of a put, where there are `lengths`, else of a look-up.

        By hand where its caller has said what it is; then the thread's chain is left alone.
        """
        if by_hand is None:
            start = self.look_up(texts) if lengths is None or not texts else self.put(texts)
            return self.contexts(now, start, len(texts), lengths)
        place = by_hand.place(texts)
        return _placed(now, texts, place, by_hand.request, by_hand.partly, lengths, by_hand.promote)

    def next(self, now: float, text: str) -> AccessContext | float:
        """As `single`, and just `now` where nothing more is known: a hit makes nothing that nobody wants."""
        walk = self._walk
        if walk.explicit or walk.cursor < len(walk.chain):
            return self.single(now, text)
        return now

    def single(self, now: float, text: str, put: bool = False) -> AccessContext:
        """The context of an access to one key: its place in the thread's chain where it is the next one expected.

        A thread that puts another chunk than that has left the request: what it puts in a batch afterwards is used
        then, and no tail of a head that was used before.
        """
        walk = self._walk
        chain, index = walk.chain, walk.cursor
        if index >= len(chain) or chain[index] != text:
            if not walk.explicit:
                if put:
                    walk.open_ended = False
                return AccessContext(now)
            index = self._index(walk, text)
            if index < 0:
                index = len(chain)
                chain = walk.chain = [*chain, text]
        walk.cursor = index + 1
        parent = chain[index - 1] if index else None
        return AccessContext(now, walk.request, parent, index, text in walk.partial or None, len(chain))


def _placed(
    now: float, texts: Sequence[str], place: tuple[int, str | None, int], request: int | str | None,
    partly: Callable[[str], bool], lengths: Sequence[int] | None, promote: bool = True,
) -> list[AccessContext]:  # fmt: skip
    """The contexts of neighbours; `place`: where the first stands, what stands before it, how long the chain is."""
    start, parent, length = place
    found = []
    for i, text in enumerate(texts):
        partial: bool | None = None
        if partly(text):
            partial = True
        elif lengths is not None and i:
            partial = lengths[i] < lengths[i - 1]
        found.append(AccessContext(now, request, parent, start + i, partial, length, promote=promote))
        parent = text
    return found


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
        for position in range(tier.position):
            self._tiers[position].misses += 1
        if not (entry.tiers & tier.bit and entry.charges[tier.position] and self._index.get(text) is entry):
            return  # it has left since, or is being granted at this moment and the policy does not know it yet
        if type(context) is float:
            context = AccessContext(context)
        self.use(text, entry, context)  # type: ignore[arg-type]  # a float was made a context
        if tier.rises and context.promote:  # type: ignore[union-attr]  # as above
            self.promote(text, entry, tier, obj)

    def use(self, text: str, entry: Entry, context: AccessContext) -> None:
        """A chunk was used: the policies of the tiers that hold it are told, and their backends will be."""
        for tier in self._tiers:
            if entry.tiers & tier.bit:
                try:
                    tier.policy.on_hit(text, context)
                except Exception as error:
                    self._suspend(tier, error)
                if tier.touches:
                    tier.touched.pop(text, None)  # the newest stands last
                    tier.touched[text] = None
                    if len(tier.touched) >= TOUCH_BATCH:
                        self._poke(tier)
