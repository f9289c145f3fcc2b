"""`lms-tiers simulate --instances`: what a fleet over one shared tier would hit, and move over its network."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from lms_tiers.replay.simulate import Stream
    from lms_tiers.replay.simulate_fleet import Route


def run_fleets(
    console: Console, output: Console, stream: Stream, names: list[str], instances: str, route: str, private: str,
    shared: str, shards: int, size: int | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Simulate every combination, print a row for each, and answer the documents.

    Raises
    ------
    ConfigError
        A number, route, capacity or policy that is none.
    """
    from rich.table import Table

    from lms_tiers.cli.progress import progress_bar
    from lms_tiers.errors import ConfigError
    from lms_tiers.replay.simulate import capacity_blocks, policy_spec
    from lms_tiers.replay.simulate_fleet import simulate_fleet
    from lms_tiers.sizes import format_size

    routes, counts = fleet_routes(route), fleet_instances(instances)
    specs = [policy_spec(name) for name in names]
    for spec in specs:
        if spec.simulation_only:
            raise ConfigError(f"policy {spec.name!r} is for a single tier: leave it out with --instances.")
    # A tier may be named: cpu=64GiB.
    tiers = [capacity_blocks(text.rpartition("=")[2], stream.unique, size) for text in private.split(",")]
    engines = [0 if text.strip() == "0" else capacity_blocks(text, stream.unique, size) for text in shared.split(",")]
    unit = "blocks/s" if size is None else "/s"
    heads = ["policy", "route", "instances", "shared"]
    hits, moved = Table(title="Prefix hits, % of references"), Table(title="Over the network; load over the mean")
    for table, columns in (
        (hits, ["all", *(f"private {i + 1}" for i in range(len(tiers))), "of shared"]),
        (moved, [f"read {unit}", f"sent {unit}", "busiest shard", "busiest instance"]),
    ):
        for column in (*heads, *columns):
            table.add_column(column, justify="left" if column in heads[:2] else "right")
    documents: list[dict[str, Any]] = []
    cells = list(itertools.product(specs, routes, engines, counts))
    seconds = max(stream.seconds, 1.0)

    def rate(blocks: int) -> str:
        return f"{blocks / seconds:.1f}" if size is None else format_size(int(blocks * size / seconds))

    with progress_bar(console, "simulating", len(stream.keys) * len(cells)) as done:
        for number, (spec, way, engine, count) in enumerate(cells):
            base = number * len(stream.keys)
            result = simulate_fleet(
                spec, stream, count, tiers, engine, way, shards,
                lambda n, base=base: done(base + n),  # type: ignore[misc]  # bound per cell
            )  # fmt: skip
            document = {
                **result.document(), "network_blocks_per_second": (result.shared_hits + result.shared_writes) / seconds,
            }  # fmt: skip
            documents.append(document)
            about = spec.name, way.value, str(count), str(engine)
            ratios = document["prefix_hit_ratio"], *document["private_hit_ratios"], document["shared_hit_ratio"]
            hits.add_row(*about, *(f"{100 * ratio:.2f}" for ratio in ratios))
            peaks = f"{result.busiest_shard:.2f}", f"{result.busiest_instance:.2f}"
            moved.add_row(*about, rate(result.shared_hits), rate(result.shared_writes), *peaks)
    output.print(hits)
    output.print(moved)
    return documents


def fleet_routes(text: str) -> list[Route]:
    """The routes in a text such as ``"session,prefix"``; `ConfigError` with the nearest where there is no such one."""
    from lms_tiers.errors import ConfigError
    from lms_tiers.replay.simulate_fleet import Route

    known = [route.value for route in Route]
    for name in (name.strip() for name in text.split(",")):
        if name not in known:
            raise ConfigError(f"there is no route {name!r}.", unknown=name, known=known)
    return [Route(name.strip()) for name in text.split(",")]


def fleet_instances(text: str) -> list[int]:
    """The numbers in a text such as ``"1,4,16"``; `ConfigError` where one is none."""
    from lms_tiers.errors import ConfigError

    counts = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in counts):
        raise ConfigError(f"--instances {text!r} is not a list of numbers above 0, such as 1,4,16.")
    return [int(word) for word in counts]
