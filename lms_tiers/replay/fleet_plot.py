"""Draws a fleet's hits by tier against its instances, with what crosses the network. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.replay.advise_fleet import FleetAdvice
from lms_tiers.replay.plot import require_matplotlib

_COLOURS: Final = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9")
_SHARED: Final = "#d55e00"


def plot_fleets(fleets: Sequence[FleetAdvice], tiers: Sequence[str], path: Path) -> None:
    """Write a PNG: one bar for each fleet, a part for each private tier of `tiers` and one for the shared tier.

    Raises
    ------
    ConfigError
        matplotlib is missing.
    StorageUnavailableError
        The file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
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
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise StorageUnavailableError(str(path), f"cannot be written: {error.strerror or error}.") from error
