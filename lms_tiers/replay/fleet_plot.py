"""Draws a fleet's hits by tier against its instances, with what crosses the network. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lms_tiers.replay.advise_fleet import FleetAdvice
from lms_tiers.replay.plot import drawn

_COLOURS: Final = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9")
_SHARED: Final = "#d55e00"


def plot_fleets(fleets: Sequence[FleetAdvice], tiers: Sequence[str], path: Path) -> None:
    """Write a PNG: a bar a fleet, a part for each private tier and for the shared one; see `drawn` for the errors."""
    with drawn(path, 8, 5) as figure:
        hits = figure.add_subplot()
        counts, places = [str(fleet.result.instances) for fleet in fleets], range(len(fleets))
        bottom = [0.0] * len(fleets)
        for level, name in enumerate((*tiers, "shared")):
            heights = [100 * fleet.tier_hit_ratios[level] for fleet in fleets]
            colour = _SHARED if level == len(tiers) else _COLOURS[level % len(_COLOURS)]
            hits.bar(places, heights, 0.6, bottom, label=name, color=colour)
            bottom = [below + height for below, height in zip(bottom, heights, strict=True)]
        hits.set_xticks(places, counts)
        hits.set_xlabel("instances")
        hits.set_ylabel("prefix hits, % of references")
        network = hits.twinx()
        network.plot(places, [fleet.network / 1e6 for fleet in fleets], "k.--", label="network, MB/s")
        network.set_ylabel("to and from the shared tier, MB/s")
        network.set_ylim(bottom=0)
        figure.legend(loc="outside upper center", ncols=len(tiers) + 2, fontsize=8, frameon=False)
