"""Simulates two or more tiers over a trace: hits, and the blocks read from and written to each, by composition."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from lms_tiers.hookspecs import PolicySpec
from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.registry import load_attribute
from lms_tiers.replay.simulate import Stream, evict

#: One part in so many of a tier may be dirty where there is time, as in a store.
_DIRTY_SHARE: Final = 4


class Composition(enum.StrEnum):
    """How tiers share blocks: promotion keeps the clean lower copy, moves it, or every tier gets every put."""

    CLEAN_COPY = "clean-copy"
    EXCLUSIVE = "exclusive"
    WRITE_THROUGH = "write-through"


@dataclass(frozen=True, slots=True)
class TierFigures:
    """One tier of a simulated composition, in blocks; `hits` are prefix hits that it served."""

    policy: str
    capacity_blocks: int
    hits: int
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class TiersResult:
    """What a composition did over a whole trace."""

    composition: str
    tiers: tuple[TierFigures, ...]
    requests: int
    references: int

    @property
    def prefix_hits(self) -> int:
        """Prefix hits of all tiers."""
        return sum(tier.hits for tier in self.tiers)

    def document(self) -> dict[str, Any]:
        """As it goes into JSON, with ratios."""
        document = asdict(self)
        document["prefix_hits"] = self.prefix_hits
        document["prefix_hit_ratio"] = self.prefix_hits / max(self.references, 1)
        for tier, figures in zip(document["tiers"], self.tiers, strict=True):
            tier["hit_ratio"] = figures.hits / max(self.references, 1)
            tier["reads_per_request"] = figures.reads / max(self.requests, 1)
            tier["writes_per_request"] = figures.writes / max(self.requests, 1)
        return document


class SimulatedTier:
    """One tier: its policy, what it holds, and what was counted."""

    def __init__(self, spec: PolicySpec, blocks: int, clock: Callable[[], float]) -> None:
        self.name = spec.name
        self.blocks = blocks
        self.policy: EvictionPolicy = load_attribute(spec.factory)(blocks, clock)
        self.held: set[Any] = set()
        #: Inserted while no tier below held them, oldest first; some have left since.
        self.dirty: deque[Any] = deque()
        self.hits = self.reads = self.writes = 0


class Stack:
    """Tiers over one another, fastest first."""

    def __init__(self, tiers: list[SimulatedTier], composition: Composition) -> None:
        self.tiers = tiers
        self.composition = composition
        self._places: dict[Any, AccessContext] = {}
        #: Hit below since they were last in the top tier: the next hit makes them rise.
        self._again: set[Any] = set()

    def holder(self, key: Any) -> SimulatedTier | None:
        """The first tier that holds a block."""
        return next((tier for tier in self.tiers if key in tier.held), None)

    def use(self, key: Any, context: AccessContext) -> None:
        """One use of a block, found in some tier or put."""
        self._places[key] = context
        found = next((i for i, tier in enumerate(self.tiers) if key in tier.held), None)
        if found is None:
            self._put(key, context)
            return
        for tier in self.tiers[found:]:  # a hit above refreshes the copies below
            if key in tier.held:
                tier.policy.on_hit(key, context)
        if found:
            self.tiers[found].reads += 1
            top = self.tiers[0]
            if len(top.held) >= top.blocks and key not in self._again:
                self._again.add(key)  # as in a store: a scan moves nothing
                return
            if (
                self._insert(0, key, context)
                and self.composition is Composition.EXCLUSIVE
                and key in (source := self.tiers[found]).held
            ):
                source.held.discard(key)
                source.policy.on_remove(key, RemoveReason.REMOVED)

    def _put(self, key: Any, context: AccessContext) -> None:
        through = self.composition is Composition.WRITE_THROUGH
        for level in range(len(self.tiers)):
            if self._insert(level, key, context) and not through:
                return

    def _insert(self, level: int, key: Any, context: AccessContext) -> bool:
        tier = self.tiers[level]
        if not tier.policy.admit(key, 1, context):
            return False
        left = evict(tier.name, tier.policy, tier.held, 1) if len(tier.held) >= tier.blocks else []
        if not level:
            self._again.discard(key)
        tier.held.add(key)
        tier.writes += 1
        tier.policy.on_insert(key, 1, context)
        if not any(key in lower.held for lower in self.tiers[level + 1 :]):
            tier.dirty.append(key)
        if self.composition is not Composition.WRITE_THROUGH:
            for victim in left:
                self._demote(level + 1, victim, context.now)
        return True

    def rest(self) -> None:
        """Do what a store does while there is time: copy the oldest blocks down, until a quarter is dirty at most.

        Only into a tier that is larger than the one above, and where clean copies are kept.
        """
        if self.composition is not Composition.CLEAN_COPY:
            return
        for level, tier in enumerate(self.tiers):
            roomy = level + 1 < len(self.tiers) and self.tiers[level + 1].blocks > tier.blocks
            while len(tier.dirty) > tier.blocks // _DIRTY_SHARE:
                key = tier.dirty.popleft()
                if roomy and key in tier.held:
                    self._demote(level + 1, key, self._places[key].now)

    def _demote(self, level: int, key: Any, now: float) -> None:
        if level == len(self.tiers) or any(key in tier.held for tier in self.tiers[level:]):
            return
        place = self._places[key]
        context = AccessContext(now, None, place.parent, place.position, place.partial, demoted=True)
        if not self._insert(level, key, context):
            self._demote(level + 1, key, now)


def simulate_tiers(
    specs: Sequence[tuple[PolicySpec, int]],
    stream: Stream,
    composition: Composition,
    progress: Callable[[int], None] | None = None,
) -> TiersResult:
    """Run tiers, fastest first, over a stream.

    As in a store, the second hit below since a block was last in the top tier makes it rise; the first one does where
    there is room. Between two requests a store of clean copies has the time to copy down what it will have to.

    Parameters
    ----------
    specs : sequence of (PolicySpec, int)
        Policy and blocks of each tier.
    """
    now = [0.0]
    tiers = [SimulatedTier(spec, blocks, lambda: now[0]) for spec, blocks in specs]
    stack = Stack(tiers, composition)
    for number, (keys, contexts) in enumerate(zip(stream.keys, stream.contexts, strict=True)):
        if progress is not None and number % 256 == 0:
            progress(number)
        if contexts:
            now[0] = contexts[0].now
        for key in keys:
            holder = stack.holder(key)
            if holder is None:
                break
            holder.hits += 1
        for key, context in zip(keys, contexts, strict=True):
            stack.use(key, context)
        stack.rest()
    figures = tuple(TierFigures(t.name, t.blocks, t.hits, t.reads, t.writes) for t in tiers)
    return TiersResult(composition.value, figures, len(stream.keys), stream.references)


def per_day(result: TiersResult, stream: Stream, level: int) -> float:
    """Blocks written to a tier per day at the trace's pace."""
    return result.tiers[level].writes * 86_400 / max(stream.seconds, 1.0)
