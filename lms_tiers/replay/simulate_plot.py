"""Draws simulated hit ratios over capacity, one line per policy and the optimum above them. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lms_tiers.replay.plot import drawn
from lms_tiers.replay.simulate import Result


def plot_simulation(results: Sequence[Result], unique: int, path: Path) -> None:
    """Write a PNG of prefix-hit ratio over capacity in percent of the unique blocks; see `drawn` for the errors."""
    with drawn(path, 8, 5) as figure:
        axes = figure.add_subplot()
        for policy in dict.fromkeys(result.policy for result in results):
            line = sorted((r for r in results if r.policy == policy), key=lambda r: r.capacity_blocks)
            axes.plot(
                [100 * r.capacity_blocks / unique for r in line],
                [100 * r.prefix_hit_ratio for r in line],
                label=policy,
                marker=".",
                linewidth=2.2 if policy in ("hazard", "opt") else 1.2,
                color={"opt": "black", "hazard": "#d55e00"}.get(policy),
                linestyle="--" if policy == "opt" else "-",
            )
        axes.set_xscale("log")
        axes.set_xlabel("capacity, % of unique blocks")
        axes.set_ylabel("prefix hits, % of references")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
