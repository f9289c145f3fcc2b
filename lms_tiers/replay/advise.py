"""Finds the device line for a trace: simulates compositions and policies over a budget and picks the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from lms_tiers.errors import ConfigError
from lms_tiers.replay.simulate import Stream, policy_spec
from lms_tiers.replay.simulate_tiers import Composition, TiersResult, per_day, simulate_tiers
from lms_tiers.sizes import format_size, parse_size

#: Budget names and the backends they mean in a device text.
BACKENDS: Final = {"gpu": "gpu:0", "pinned": "pinned", "cpu": "cpu", "disk": "lmdb:DIR", "lmdb": "lmdb:DIR"}

#: Policies tried in each tier where none are given.
POLICIES: Final = ("lru", "leaf_lru", "hazard")


@dataclass(frozen=True, slots=True)
class Budget:
    """One tier of a budget; `nbytes` of it."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Advice:
    """One device line with what it would do; `writes_per_day` in bytes for each tier."""

    device: str
    composition: str
    policies: tuple[str, ...]
    hit_ratio: float
    tier_hit_ratios: tuple[float, ...]
    writes_per_day: tuple[int, ...]

    def document(self) -> dict[str, Any]:
        """As it goes into JSON."""
        return asdict(self)


def parse_budget(text: str) -> list[Budget]:
    """The tiers of a text such as ``"gpu=8GiB,cpu=64GiB,disk=1TiB"``, fastest first.

    Raises
    ------
    ConfigError
        An unknown tier, no size, or no tier at all.

    Examples
    --------
    >>> parse_budget("cpu=1KiB")
    [Budget(name='cpu', nbytes=1024)]
    """
    tiers = []
    for part in text.split(","):
        name, equals, size = part.strip().partition("=")
        if not equals:
            raise ConfigError(f"budget {part!r} has no size: write {name or 'cpu'}=64GiB.")
        if name not in BACKENDS:
            raise ConfigError(f"there is no tier {name!r} to budget for.", unknown=name, known=BACKENDS)
        tiers.append(Budget(name, parse_size(size)))
    return tiers


def advise(
    stream: Stream,
    budget: Sequence[Budget],
    block_bytes: int,
    policies: Sequence[str] = POLICIES,
    progress: Callable[[int], None] | None = None,
) -> list[Advice]:
    """Every composition tried, best first: most hits, then hits in faster tiers, then fewest writes to the lowest.

    Raises
    ------
    ConfigError
        A tier holds less than one block, or a policy is unknown or for simulation only.
    """
    blocks = [tier.nbytes // block_bytes for tier in budget]
    for tier, count in zip(budget, blocks, strict=True):
        if count < 1:
            raise ConfigError(f"tier {tier.name!r} holds less than one block of {format_size(block_bytes)}: raise it.")
    for name in policies:
        if policy_spec(name).simulation_only:
            raise ConfigError(f"policy {name!r} needs to know the future: no device can use it.")
    found: list[tuple[tuple[float, ...], Advice]] = []
    for number, (composition, names) in enumerate(candidates(len(budget), policies)):
        base = number * len(stream.keys)
        specs = [(policy_spec(name), count) for name, count in zip(names, blocks, strict=True)]
        result = simulate_tiers(
            specs,
            stream,
            composition,
            None if progress is None else lambda n, base=base: progress(base + n),  # type: ignore[misc]
        )
        advice = _advice(result, stream, budget, block_bytes, names, composition)
        # Hits within a tenth of a percent are equal: then the faster tier and the disk's life decide.
        rank = (-round(advice.hit_ratio, 3), -round(advice.tier_hit_ratios[0], 3), float(advice.writes_per_day[-1]))
        found.append((rank, advice))
    return [advice for _, advice in sorted(found, key=lambda item: item[0])]


def candidates(tiers: int, policies: Sequence[str]) -> list[tuple[Composition, tuple[str, ...]]]:
    """Which compositions are tried: one policy for the top tier, one for those below, written back or through."""
    if tiers == 1:
        return [(Composition.CLEAN_COPY, (name,)) for name in policies]
    return [
        (composition, (top, *[low] * (tiers - 1)))
        for composition in (Composition.CLEAN_COPY, Composition.WRITE_THROUGH)
        for top in policies
        for low in policies
    ]


def _advice(
    result: TiersResult, stream: Stream, budget: Sequence[Budget], block_bytes: int, names: tuple[str, ...],
    composition: Composition,
) -> Advice:  # fmt: skip
    references = max(result.references, 1)
    return Advice(
        device=device_of(budget, names, through=composition is Composition.WRITE_THROUGH),
        composition=composition.value,
        policies=names,
        hit_ratio=result.prefix_hits / references,
        tier_hit_ratios=tuple(tier.hits / references for tier in result.tiers),
        writes_per_day=tuple(int(per_day(result, stream, i) * block_bytes) for i in range(len(budget))),
    )


def device_of(budget: Sequence[Budget], policies: Sequence[str], *, through: bool = False) -> str:
    """The device text of tiers with a policy each."""
    written = "&write=through" if through else ""
    return " > ".join(
        f"{BACKENDS[tier.name]}?capacity={_size(tier.nbytes)}&policy={name}{written if level else ''}"
        for level, (tier, name) in enumerate(zip(budget, policies, strict=True))
    )


def _size(nbytes: int) -> str:
    """A size that a device text reads back exactly."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes % factor == 0 and nbytes:
            return f"{nbytes // factor}{unit}"
    return f"{nbytes}B"
