"""`lms-tiers advise --fleet`: hits, loads and what one more host or so many more bytes buy, by number of instances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lms_tiers.cli.simulate_fleet import fleet_instances, fleet_routes

if TYPE_CHECKING:
    from rich.console import Console

    from lms_tiers.replay.advise import Budget
    from lms_tiers.replay.advise_fleet import FleetAdvice
    from lms_tiers.replay.simulate import Stream


def advise_fleets(
    console: Console, output: Console, stream: Stream, names: list[str], budget: list[Budget], size: int, *,
    instances: str, route: str, shared: str, shards: int, step: str, plot: Path | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Look at a fleet of each size, print a row for each, draw them, and answer the documents.

    Raises
    ------
    ConfigError
        A number, route, size or policy that is none, or more than one route.
    """
    from lms_tiers.cli.progress import progress_bar
    from lms_tiers.errors import ConfigError
    from lms_tiers.replay.advise_fleet import STEPS, Plan, advise_fleet
    from lms_tiers.sizes import parse_size

    counts, routes = fleet_instances(instances), fleet_routes(route)
    if len(routes) != 1:
        raise ConfigError("advise --fleet takes one --route; lms-tiers simulate compares several.")
    plan = Plan(tuple(budget), parse_size(shared), parse_size(step), size, routes[0], shards)
    each = len(stream.keys) * (len(names) + STEPS)
    with progress_bar(console, "simulating", each * len(counts)) as done:
        fleets = [
            advise_fleet(stream, plan, count, names, lambda n, base=i * each: done(base + n))  # type: ignore[misc]
            for i, count in enumerate(counts)
        ]
    _print(output, fleets, [tier.name for tier in budget])
    if plot is not None:
        from lms_tiers.replay.fleet_plot import plot_fleets

        plot_fleets(fleets, [tier.name for tier in budget], plot)
    return [fleet.document() for fleet in fleets]


def _print(output: Console, fleets: list[FleetAdvice], tiers: list[str]) -> None:
    from rich.table import Table

    from lms_tiers.sizes import format_size

    def rate(nbytes: float) -> str:
        return ("-" if nbytes < 0 else "") + format_size(abs(int(nbytes))) + "/s"

    hits = Table(title="Prefix hits, % of references; bytes a second are means over the trace")
    heads = (
        "all",
        *(f"in {name}" for name in tiers),
        "in shared",
        "network",
        "busiest shard",
        "busiest disk",
        "policy",
    )
    for head in ("instances", *heads):
        hits.add_column(head, justify="left" if head == "policy" else "right")
    bought = Table(title="What one more buys: points of hits, and what it adds to the network")
    bought.add_column("instances", justify="right")
    for step in fleets[0].steps:
        bought.add_column(step.what, justify="right")
    for fleet in fleets:
        ratios = (f"{100 * ratio:.2f}" for ratio in (fleet.hit_ratio, *fleet.tier_hit_ratios))
        rates = map(rate, (fleet.network, fleet.shard, fleet.disk))
        hits.add_row(str(fleet.result.instances), *ratios, *rates, fleet.result.policy)
        cells = (f"{step.hits:+.2f}, {rate(step.network)}" for step in fleet.steps)
        bought.add_row(str(fleet.result.instances), *cells)
    output.print(hits)
    output.print(bought)
    for device in dict.fromkeys(fleet.device for fleet in fleets):
        output.print(f"device: {device}", soft_wrap=True, markup=False)
