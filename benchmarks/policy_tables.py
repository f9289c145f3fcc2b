"""Regenerates the tables and the plot of docs/policies.md from a trace: `make policy-tables`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.live_replay import replay_live
from lms_tiers.replay.generate import TraceShape, generate_trace
from lms_tiers.replay.simulate import Result, Stream, policy_spec, prepare, simulate
from lms_tiers.replay.simulate_plot import plot_simulation
from lms_tiers.replay.simulate_tiers import Composition, simulate_tiers
from lms_tiers.replay.trace import Request, read_trace

POLICIES = (
    "fifo", "lru", "leaf_lru", "lfu", "sieve", "arc", "s3fifo", "gdsf", "twoq", "wtinylfu", "hazard", "opt",
)  # fmt: skip
SHARES = (1, 2, 5, 10, 20, 50)
#: Generated traces: what they are called, and their shapes.
GENERATED = {
    "as drawn": TraceShape(requests=3000, seed=11),
    "long talks": TraceShape(requests=3000, seed=12, conversations=500),
    "slow, 2 prompts": TraceShape(requests=3000, seed=13, system_prompts=2, rate=1.0),
    "fast": TraceShape(requests=3000, seed=14, rate=20.0),
}
GENERATED_SHARES = (1, 5, 20)
LIVE_SHARES = (1, 5)


def table(results: dict[tuple[str, int], Result]) -> str:
    lines = ["| policy | " + " | ".join(f"{s} %" for s in SHARES) + " | µs a reference |", "|---|" + "---|" * 7]
    for policy in POLICIES:
        row = [results[policy, share] for share in SHARES]
        cost = sum(r.seconds for r in row) / (len(row) * row[0].references) * 1e6
        lines.append(f"| {policy} | " + " | ".join(f"{100 * r.prefix_hit_ratio:.2f}" for r in row) + f" | {cost:.1f} |")
    return "\n".join(lines)


def gap(results: dict[tuple[str, int], Result]) -> str:
    lines = ["| capacity | lru | hazard | opt | gap closed |", "|---|---|---|---|---|"]
    for share in SHARES:
        lru, hazard, opt = (100 * results[p, share].prefix_hit_ratio for p in ("lru", "hazard", "opt"))
        lines.append(
            f"| {share} % | {lru:.2f} | {hazard:.2f} | {opt:.2f} | {100 * (hazard - lru) / (opt - lru):.1f} % |"
        )
    return "\n".join(lines)


def run(stream: Stream, policies: Sequence[str], warm: int) -> dict[tuple[str, int], Result]:
    return {
        (policy, share): simulate(
            policy_spec(policy), stream, int(stream.unique * share / 100), capacity=f"{share}%", warm=warm
        )
        for policy in policies
        for share in SHARES
    }


def generated() -> str:
    """Prefix hits of all policies on generated traces; the policy that is ahead of the others in bold."""
    columns = []
    for shape in GENERATED.values():
        stream = prepare(generate_trace(shape))
        for share in GENERATED_SHARES:
            blocks = int(stream.unique * share / 100)
            columns.append([100 * simulate(policy_spec(p), stream, blocks).prefix_hit_ratio for p in POLICIES])
    heads = [f"{name}, {share} %" for name in GENERATED for share in GENERATED_SHARES]
    lines = ["| policy | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for row, policy in enumerate(POLICIES):
        cells = [
            f"**{column[row]:.2f}**" if column[row] == max(column[:-1]) else f"{column[row]:.2f}" for column in columns
        ]
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def live(requests: Sequence[Request], stream: Stream) -> str:
    """Blocks hit by a live tier in memory, with real bytes, and by the simulation."""
    lines = ["| policy | capacity | simulated | live | wrong bytes |", "|---|---|---|---|---|"]
    for name in ("lru", "hazard"):
        for share in LIVE_SHARES:
            blocks = int(stream.unique * share / 100)
            simulated = simulate(policy_spec(name), stream, blocks).prefix_hits
            result = replay_live(policy_spec(name), requests, blocks)
            lines.append(f"| {name} | {share} % | {simulated:,} | {result.prefix_hits:,} | {result.wrong} |")
    return "\n".join(lines)


def tiers(stream: Stream) -> str:
    lines = ["| policy | composition | hot % | total % | writes | reads |", "|---|---|---|---|---|---|"]
    for name in ("leaf_lru", "hazard", "hazard > leaf_lru"):
        hot, _, low = name.partition(" > ")
        pairs = ((hot, 2), (low or hot, 20))
        specs = [(policy_spec(policy), int(stream.unique * share / 100)) for policy, share in pairs]
        for composition in Composition:
            r = simulate_tiers(specs, stream, composition)
            upper, lower = r.tiers
            lines.append(
                f"| {name} | {composition} | {100 * upper.hits / r.references:.2f} | "
                f"{100 * r.prefix_hits / r.references:.2f} | "
                f"{lower.writes / r.requests:.1f} | {lower.reads / r.requests:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    requests = read_trace(options.trace)
    stream = prepare(requests)
    whole = run(stream, POLICIES, 0)
    sections = {
        "whole": table(whole),
        "second-half": gap(run(stream, ("lru", "hazard", "opt"), len(stream.keys) // 2)),
        "tiers": tiers(stream),
        "generated": generated(),
        "live": live(requests, stream),
    }
    page = options.docs / "policies.md"
    text = page.read_text(encoding="utf-8")
    for name, section in sections.items():
        text, found = re.subn(
            f"(<!-- table {name} -->).*?(<!-- end -->)",
            lambda m, section=section: f"{m[1]}\n{section}\n{m[2]}",  # type: ignore[misc]  # bound per section
            text,
            flags=re.DOTALL,
        )
        if not found:
            raise SystemExit(f"{page} has no place for the table {name!r}")
    page.write_text(text, encoding="utf-8")
    (options.docs / "img").mkdir(exist_ok=True)
    plot_simulation(list(whole.values()), stream.unique, options.docs / "img" / "policies.png")
    print("\n\n".join(sections.values()))


if __name__ == "__main__":
    main()
