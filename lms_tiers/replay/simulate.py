"""Simulates one tier over a trace: sizes only, no bytes, and the very policy code that live tiers run.

The prefix hits of a request, the leading run of its blocks that is held, are counted before it inserts; then its
blocks are used in order. Two tiers are simulated in simulate_tiers.py, plots drawn in simulate_plot.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from lms_tiers.errors import ConfigError, PolicyError
from lms_tiers.hookspecs import PolicySpec
from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.opt import Opt
from lms_tiers.registry import default_registry, load_attribute
from lms_tiers.replay.trace import Request
from lms_tiers.sizes import parse_size

#: Makes a policy for a capacity in bytes and a clock.
PolicyFactory = Callable[[int, Callable[[], float]], EvictionPolicy]

#: Requests between two calls of a progress callback.
_REPORT_EVERY: Final = 256


@dataclass(frozen=True, slots=True)
class Stream:
    """A trace made ready for simulations: the keys of each request and what a policy learns of each access.

    Keys are the trace's own ids: policies only ever compare and hash them.
    """

    keys: Sequence[tuple[Any, ...]]
    contexts: Sequence[Sequence[AccessContext]]
    unique: int
    references: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """One policy at one capacity.

    Attributes
    ----------
    policy : str
    capacity : str
        As it was asked for.
    capacity_blocks : int
    prefix_hits, block_hits, references : int
        Blocks.
    seconds : float
        What the simulation took.
    """

    policy: str
    capacity: str
    capacity_blocks: int
    prefix_hits: int
    block_hits: int
    references: int
    seconds: float

    @property
    def prefix_hit_ratio(self) -> float:
        """Prefix hits per reference."""
        return self.prefix_hits / self.references if self.references else 0.0

    @property
    def block_hit_ratio(self) -> float:
        """Block hits per reference."""
        return self.block_hits / self.references if self.references else 0.0

    def document(self) -> dict[str, Any]:
        """As it goes into JSON."""
        return asdict(self) | {"prefix_hit_ratio": self.prefix_hit_ratio, "block_hit_ratio": self.block_hit_ratio}


def prepare(requests: Sequence[Request], *, flat: bool = False) -> Stream:
    """Make a trace ready; `flat` hides the chains, as from a tier that sees single blocks only.

    Examples
    --------
    >>> prepare([Request(0, 1024, 1, (1, 2)), Request(5, 1024, 1, (1, 3))]).unique
    3
    """
    contexts: list[list[AccessContext]] = []
    seen: set[Any] = set()
    references = 0
    for number, request in enumerate(requests):
        now, ids = request.timestamp / 1000, request.hash_ids
        seen.update(ids)
        references += len(ids)
        if flat:
            contexts.append([AccessContext(now)] * len(ids))
            continue
        last = len(ids) - 1 if request.tail_is_partial() else -1
        parents: tuple[Any, ...] = (None, *ids)
        contexts.append([AccessContext(now, number, parents[i], i, i == last, len(ids)) for i in range(len(ids))])
    seconds = (requests[-1].timestamp - requests[0].timestamp) / 1000 if requests else 0.0
    return Stream([request.hash_ids for request in requests], contexts, len(seen), references, seconds)


def policy_spec(name: str) -> PolicySpec:
    """The registered policy `name`; `ConfigError` with the nearest match where there is none."""
    return default_registry().policies[name]


def policy_names(text: str) -> list[str]:
    """The names in a text such as ``"lru,hazard"``; `ConfigError` where there is none.

    Examples
    --------
    >>> policy_names("lru, hazard")
    ['lru', 'hazard']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("no policy is named: give one or more, separated by commas, such as lru,hazard.")
    return names


def capacity_blocks(text: str, unique: int, block_bytes: int | None) -> int:
    """Blocks of a capacity such as ``"5%"`` (of the unique blocks) or, with `block_bytes`, ``"8GiB"``.

    Raises
    ------
    ConfigError
        Not a capacity, zero, above 100 %, or less than one block.

    Examples
    --------
    >>> capacity_blocks("5%", 1000, None)
    50
    """
    text = text.strip()
    if text.endswith("%"):
        try:
            percent = float(text[:-1])
        except ValueError:
            raise ConfigError(f"capacity {text!r} is not a percentage, such as 5%.") from None
        if not 0 < percent <= 100:
            raise ConfigError(f"capacity {text!r} must be above 0 % and at most 100 % of the unique blocks.")
        blocks = int(unique * percent / 100)
    elif block_bytes is None:
        raise ConfigError(f"capacity {text!r} is not a percentage: write 5%, or give --block-bytes for sizes in bytes.")
    else:
        blocks = parse_size(text) // block_bytes
    if blocks < 1:
        raise ConfigError(f"capacity {text!r} holds less than one block: raise it.")
    return blocks


def simulate(
    spec: PolicySpec | tuple[str, PolicyFactory],
    stream: Stream,
    blocks: int,
    *,
    capacity: str = "",
    block_bytes: int = 1,
    warm: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Run one policy over a stream.

    Parameters
    ----------
    spec : PolicySpec, or a name and a factory
    blocks : int
        Capacity; every block takes `block_bytes`.
    capacity : str
        How the result calls it.
    warm : int
        Hits of so many first requests are not counted.
    progress : callable, optional
        Told every so often how many requests are done.

    Raises
    ------
    ConfigError
        No request is left to count after the `warm` ones.
    PolicyError
        The policy proposed an absent or repeated victim, or kept back what could leave.
    """
    name, factory = (spec.name, load_attribute(spec.factory)) if isinstance(spec, PolicySpec) else spec
    if warm and warm >= len(stream.keys):
        raise ConfigError(f"{warm} warm requests leave nothing to count of {len(stream.keys)}: warm fewer.")
    now = [0.0]
    policy: EvictionPolicy = factory(blocks * block_bytes, lambda: now[0])
    if isinstance(policy, Opt):
        policy.foresee(stream.keys)
    counts = [0, 0, 0]
    started = time.perf_counter()
    _run(name, policy, stream, blocks, block_bytes, warm, now, counts, progress)
    seconds = time.perf_counter() - started
    return Result(name, capacity or f"{blocks} blocks", blocks, counts[0], counts[1], counts[2], seconds)


def _run(
    name: str, policy: EvictionPolicy, stream: Stream, blocks: int, size: int, warm: int, now: list[float],
    counts: list[int], progress: Callable[[int], None] | None,
) -> None:  # fmt: skip
    held: set[Any] = set()
    free = blocks
    prefix_hits = block_hits = references = 0
    admit, on_insert, on_hit = policy.admit, policy.on_insert, policy.on_hit
    for number, (keys, contexts) in enumerate(zip(stream.keys, stream.contexts, strict=True)):
        if number == warm:
            prefix_hits = block_hits = references = 0
        if progress is not None and number % _REPORT_EVERY == 0:
            progress(number)
        if contexts:
            now[0] = contexts[0].now
        for key in keys:
            if key not in held:
                break
            prefix_hits += 1
        references += len(keys)
        for key, context in zip(keys, contexts, strict=True):
            if key in held:
                block_hits += 1
                on_hit(key, context)
            elif admit(key, size, context):
                if not free:
                    evict(name, policy, held, size)
                    free = 1
                free -= 1
                held.add(key)
                on_insert(key, size, context)
    counts[:] = prefix_hits, block_hits, references


def evict(name: str, policy: EvictionPolicy, held: set[Any], nbytes: int) -> list[Any]:
    """Let the policy make room for `nbytes`; its victims leave `held` and are returned.

    Raises
    ------
    PolicyError
        As of `simulate`.
    """
    victims = list(policy.victims(nbytes, ()))
    if not victims:
        raise PolicyError(name, "proposed no victim though it holds keys.")
    for key in victims:
        if key not in held:
            raise PolicyError(name, f"proposed {key!r}, which is not held or was proposed before.")
        held.discard(key)
        policy.on_remove(key, RemoveReason.EVICTED)
    return victims
