"""Draws a replay: hit ratio and bytes per tier over the requests, as a PNG. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.replay.replay import Sample
from lms_tiers.replay.report import Report
from lms_tiers.sizes import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by colour-blind readers, too
_INK: Final = "#333333"
_RECENT: Final = 0.05  # the moving hit ratio looks back over this share of the requests


def require_matplotlib() -> None:
    """Raise `ConfigError` where matplotlib is missing: better before a long replay than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib: pip install 'lms-tiers[plot]'.") from error


@contextmanager
def drawn(path: Path, width: float, height: float, dpi: int = 120) -> Iterator[Figure]:
    """A figure of `width` × `height` inches, written as a PNG at the end of the block.

    Raises
    ------
    ConfigError
        matplotlib is not installed.
    StorageUnavailableError
        The file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise StorageUnavailableError(str(path), f"cannot be written: {error.strerror or error}.") from error


def plot_replay(report: Report, path: Path) -> None:
    """Write the plot of a replay; see `drawn` for the errors."""
    samples = report.result.samples
    with drawn(path, 9, 6.2, 140) as figure:
        hits, tiers = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.15))
        _draw_hits(hits, samples)
        _draw_tiers(tiers, report)
        for axes in (hits, tiers):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.25)
            axes.set_xlim(0, max(1, len(samples)))
        tiers.set_xlabel("requests")
        _trace_time(hits, samples)
        figure.suptitle(_title(report), fontsize=10, color=_INK, parse_math=False)


def _draw_hits(axes: Axes, samples: Sequence[Sample]) -> None:
    """The ratio so far, and that of the last few requests, which shows what the cache does now."""
    window = max(10, int(_RECENT * len(samples)))
    counts = [(0, 0), *((s.blocks, s.prefix_hits) for s in samples)]
    x = range(1, len(samples) + 1)
    recent = [_ratio(counts[max(0, i - window)], counts[i]) for i in x]
    axes.plot(x, recent, color=_COLOURS[0], alpha=0.35, linewidth=1, label=f"last {window} requests")
    axes.plot(x, [_ratio(counts[0], counts[i]) for i in x], color=_COLOURS[0], linewidth=1.8, label="since the start")
    axes.set_ylabel("prefix hits, % of blocks")
    axes.set_ylim(0, max(5.0, 1.1 * max(recent, default=0)))
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)


def _draw_tiers(axes: Axes, report: Report) -> None:
    """Bytes held, one line a tier, under its capacity as a dashed line."""
    samples = report.result.samples
    largest = max([t.peak_bytes or 0 for t in report.tiers] + [t.capacity_bytes or 0 for t in report.tiers] + [1])
    unit, factor = next(u for u in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)) if largest >= u[1])
    x = range(1, len(samples) + 1)
    for i, tier in enumerate(report.tiers):
        colour = _COLOURS[i % len(_COLOURS)]
        held = [s.tier_bytes[i] / factor for s in samples]
        axes.plot(x, held, color=colour, linewidth=1.6, label=tier.name)
        axes.fill_between(x, held, color=colour, alpha=0.08, linewidth=0)
        if tier.capacity_bytes is not None:
            capacity = tier.capacity_bytes / factor
            axes.axhline(capacity, color=colour, linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(
                f"capacity of {tier.name}, {format_size(tier.capacity_bytes)}", (1, capacity), (-2, 3),
                xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=8, color=colour,
            )  # fmt: skip
    axes.set_ylabel(f"physical bytes held, {unit}")
    axes.set_ylim(0, 1.14 * largest / factor)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 0.82))


def _trace_time(axes: Axes, samples: Sequence[Sample]) -> None:
    """When the requests came, in the trace's own time, along the top."""
    if not samples or samples[-1].timestamp <= samples[0].timestamp:
        return
    marks = [round(i * (len(samples) - 1) / 6) for i in range(7)]
    top = axes.secondary_xaxis("top")
    top.set_xticks([mark + 1 for mark in marks], [_clock(samples[mark].timestamp) for mark in marks])
    top.set_xlabel("time in the trace, min:s", fontsize=8)
    top.tick_params(labelsize=8)
    top.spines["top"].set_visible(False)


def _clock(milliseconds: float) -> str:
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}:{seconds:02}"


def _ratio(before: tuple[int, int], after: tuple[int, int]) -> float:
    blocks = after[0] - before[0]
    return 100 * (after[1] - before[1]) / blocks if blocks else 0.0


def _title(report: Report) -> str:
    r = report.result
    rates = [f"{kind} {rate:,.0f} MB/s" for kind, rate in _rates(report) if rate is not None]
    # Fonts have no glyphs for the bytes of a name that is no text.
    what = f"{Path(report.trace).name} over {report.device}".encode("utf-8", "backslashreplace").decode()
    return (
        f"{what}\n"
        f"{r.requests:,} requests, {r.blocks:,} blocks of {format_size(report.block_bytes)}, "
        f"{100 * report.prefix_hit_ratio:.1f} % prefix hits, {', '.join(rates)}, {r.wrong:,} wrong"
    )


def _rates(report: Report) -> tuple[tuple[str, float | None], ...]:
    size = report.block_bytes
    return (("get", report.result.get.mb_s(size)), ("put", report.result.put.mb_s(size)))
