"""What a fleet over one shared tier would do for a trace, and what one more host or so many more bytes would buy it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from lms_tiers.errors import ConfigError
from lms_tiers.replay.advise import Budget, device_of
from lms_tiers.replay.simulate import Stream, policy_spec
from lms_tiers.replay.simulate_fleet import FleetResult, Route, simulate_fleet
from lms_tiers.sizes import format_size

#: Simulations besides one a policy: one more host, more of the lowest private tier, more of the shared tier.
STEPS: Final = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One purchase: percentage points of hits it adds, and bytes a second it adds to the network."""

    what: str
    hits: float
    network: float


@dataclass(frozen=True, slots=True)
class FleetAdvice:
    """A fleet of so many instances with its best policy.

    Attributes
    ----------
    device : str
        Of each instance.
    network, shard, disk : float
        Bytes a second, as a mean over the trace: read from and sent to the shared tier by all instances; by its busiest
        shard; read from and written to the disks of the instance that uses them most.
    """

    device: str
    result: FleetResult
    network: float
    shard: float
    disk: float
    steps: tuple[Step, ...]

    @property
    def hit_ratio(self) -> float:
        """Prefix hits of all tiers, of all references."""
        return self.result.prefix_hits / max(self.result.references, 1)

    @property
    def tier_hit_ratios(self) -> tuple[float, ...]:
        """The same of each private tier and of the shared one."""
        of = max(self.result.references, 1)
        return tuple(hits / of for hits in (*self.result.private_hits, self.result.shared_hits))

    def document(self) -> dict[str, Any]:
        """As it goes into JSON."""
        return {
            "device": self.device, **self.result.document(), "network_bytes_per_second": self.network,
            "busiest_shard_bytes_per_second": self.shard, "busiest_disk_bytes_per_second": self.disk,
            "steps": [asdict(step) for step in self.steps],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked about: sizes in bytes; `step` is what more of a tier is tried, all instances together."""

    private: tuple[Budget, ...]
    shared: int
    step: int
    block_bytes: int
    route: Route
    shards: int = 3


def advise_fleet(
    stream: Stream, plan: Plan, instances: int, policies: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> FleetAdvice:  # fmt: skip
    """Find the best of the policies for a fleet of so many instances, then what each step buys it.

    Parameters
    ----------
    progress : callable, optional
        Is told how many requests are simulated so far, of ``len(policies) + STEPS`` times those of the stream.

    Raises
    ------
    ConfigError
        A tier holds less than one block, or a policy is unknown or for simulation only.
    """
    size, done = plan.block_bytes, 0
    for name, nbytes in (*((tier.name, tier.nbytes) for tier in plan.private), ("shared", plan.shared)):
        if nbytes < size:
            raise ConfigError(f"tier {name!r} holds less than one block of {format_size(size)}: raise it.")
    for name in policies:
        if policy_spec(name).simulation_only:
            raise ConfigError(f"policy {name!r} needs to know the future: no device can use it.")

    def run(policy: str, count: int, private: Sequence[int], shared: int) -> FleetResult:
        nonlocal done
        base, done = done, done + len(stream.keys)
        return simulate_fleet(
            policy_spec(policy), stream, count, [nbytes // size for nbytes in private], shared // size, plan.route,
            plan.shards, None if progress is None else lambda n: progress(base + n),
        )  # fmt: skip

    private = [tier.nbytes for tier in plan.private]
    tried = [run(name, instances, private, plan.shared) for name in policies]
    # Hits within a tenth of a percent are equal: then what need not cross the network decides.
    best = max(tried, key=lambda r: (round(r.prefix_hits / max(r.references, 1), 3), -r.shared_hits))
    more, lowest = format_size(plan.step), plan.private[-1].name
    grown = [*private[:-1], private[-1] + plan.step // instances]
    steps = (
        ("one more host", run(best.policy, instances + 1, private, plan.shared)),
        (f"{more} of {lowest}, over all hosts", run(best.policy, instances, grown, plan.shared)),
        (f"{more} of the shared tier", run(best.policy, instances, private, plan.shared + plan.step)),
    )
    scale = size / max(stream.seconds, 1.0)
    moved = best.shared_hits + best.shared_writes
    return FleetAdvice(
        device_of(plan.private, [best.policy] * len(private)) + " > redis:HOST:PORT", best, moved * scale,
        moved * scale * best.busiest_shard / plan.shards, best.busiest_disk * scale,
        tuple(
            Step(
                what, 100 * (result.prefix_hits - best.prefix_hits) / max(best.references, 1),
                (result.shared_hits + result.shared_writes - moved) * scale,
            )
            for what, result in steps
        ),
    )  # fmt: skip
