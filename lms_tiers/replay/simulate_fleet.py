"""Simulates a fleet over a trace: instances with private tiers of their own over one tier that all share. Sizes only.

A request goes to one instance. Its leading run of blocks that the private tiers or the shared tier hold are its hits;
what the private tiers lack of it is read from the shared tier and rises. The blocks after it are put: into the private
tiers, and through them into the shared one, whether it has them or not, as a store does that was not asked.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lms_tiers.errors import ConfigError
from lms_tiers.hookspecs import PolicySpec
from lms_tiers.replay.simulate import Stream
from lms_tiers.replay.simulate_engine import Engine
from lms_tiers.replay.simulate_tiers import Composition, SimulatedTier, Stack


class Route(enum.StrEnum):
    """Which instance a request goes to.

    The next one; the one that had the longest known part of its chain beyond the first block, which conversations may
    have in common; or the one that had the longest known part, unless it had a fifth more requests than the least busy
    one. What is known nowhere goes to the least busy one.
    """

    ROUND_ROBIN = "round-robin"
    SESSION = "session"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class FleetResult:
    """What a fleet did over a whole trace.

    Attributes
    ----------
    private_hits : tuple of int
        Prefix hits of each private tier, all instances together, in blocks.
    shared_hits : int
        Prefix hits of the shared tier; each is a block that crossed the network.
    private_writes : tuple of int
        Blocks written to each private tier, all instances together.
    shared_writes : int
        Blocks sent to the shared tier.
    busiest_shard, busiest_instance : float
        Load of the busiest one over the mean; 1 is even.
    busiest_disk : int
        Blocks read from and written to the private tiers below the first by the instance that does most of it.
    """

    policy: str
    route: str
    instances: int
    private_blocks: tuple[int, ...]
    shared_blocks: int
    requests: int
    references: int
    private_hits: tuple[int, ...]
    shared_hits: int
    private_writes: tuple[int, ...]
    shared_writes: int
    busiest_shard: float
    busiest_instance: float
    busiest_disk: int

    @property
    def prefix_hits(self) -> int:
        """Prefix hits of all tiers."""
        return sum(self.private_hits) + self.shared_hits

    def document(self) -> dict[str, Any]:
        """As it goes into JSON, with ratios."""
        of = max(self.references, 1)
        return {
            **asdict(self), "prefix_hits": self.prefix_hits, "prefix_hit_ratio": self.prefix_hits / of,
            "private_hit_ratios": [hits / of for hits in self.private_hits], "shared_hit_ratio": self.shared_hits / of,
        }  # fmt: skip


class Router:
    """Sends each request to an instance, as of `Route`."""

    def __init__(self, route: Route, instances: int) -> None:
        self._route = route
        self._last: dict[Any, int] = {}  # the instance that last had a block
        self.load = [0] * instances

    def choose(self, keys: Sequence[Any]) -> int:
        """The instance that a request of these blocks goes to; it is remembered to have them."""
        least = min(range(len(self.load)), key=self.load.__getitem__)
        chosen = sum(self.load) % len(self.load)
        if self._route is not Route.ROUND_ROBIN:
            chain = keys if self._route is Route.PREFIX else keys[1:]
            known = next((self._last[key] for key in reversed(chain) if key in self._last), None)
            chosen = least if known is None else known
            if self._route is Route.PREFIX and self.load[chosen] > 1.2 * self.load[least] + 1:
                chosen = least
            self._last.update(dict.fromkeys(keys, chosen))
        self.load[chosen] += 1
        return chosen


def simulate_fleet(
    spec: PolicySpec, stream: Stream, instances: int, private: Sequence[int], shared: int, route: Route,
    shards: int = 3, progress: Callable[[int], None] | None = None, samples: int = 5,
) -> FleetResult:  # fmt: skip
    """Run a fleet over a stream.

    Parameters
    ----------
    spec : PolicySpec
        Of all private tiers. The shared one is LRU, as engines are: see `samples`.
    instances : int
    private : sequence of int
        Blocks of the private tiers of each instance, fastest first.
    shared : int
        Blocks of the shared tier; 0 for none.
    shards : int
        Nodes of the shared tier, which have its hash slots in equal parts.
    samples : int
        How the shared tier evicts, as of `Engine`: 5 as Redis does, 0 exactly by LRU.

    Raises
    ------
    ConfigError
        There is no instance, no shard or no private tier.
    """
    if instances < 1 or shards < 1 or not private:
        raise ConfigError("a fleet has an instance, a private tier and a shard at least.")
    now = [0.0]
    stacks = [
        Stack([SimulatedTier(spec, blocks, lambda: now[0]) for blocks in private], Composition.CLEAN_COPY)
        for _ in range(instances)
    ]
    router, engine = Router(route, instances), Engine(shared, shards, samples)
    for number, (keys, contexts) in enumerate(zip(stream.keys, stream.contexts, strict=True)):
        if progress is not None and number % 256 == 0:
            progress(number)
        if contexts:
            now[0] = contexts[0].now
        stack = stacks[router.choose(keys)]
        run = 0
        for key in keys:
            tier = stack.holder(key)
            if tier is not None:
                tier.hits += 1
            elif not engine.read(key):
                break
            run += 1
        for key in keys[run:]:
            engine.write(key)
        for key, context in zip(keys, contexts, strict=True):
            stack.use(key, context)
        stack.rest()
    levels = range(len(private))
    return FleetResult(
        spec.name, route.value, instances, tuple(private), shared, len(stream.keys), stream.references,
        tuple(sum(stack.tiers[level].hits for stack in stacks) for level in levels), engine.hits,
        tuple(sum(stack.tiers[level].writes for stack in stacks) for level in levels), engine.writes,
        _peak(engine.load), _peak(router.load),
        max(sum(tier.hits + tier.writes for tier in stack.tiers[1:]) for stack in stacks),
    )  # fmt: skip


def _peak(load: Sequence[int]) -> float:
    return max(load) * len(load) / sum(load) if sum(load) else 1.0
