"""`lms-tiers stats`: what the tiers of a running server or store are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Optional

import typer

from lms_tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Group
    from rich.table import Table

    from lms_tiers.metrics.scrape import Reading, TierReading

#: Columns of a terminal that fifteen figures beside each other need; a narrower one gets them below each other.
_WIDE: Final = 150
#: What is no terminal has no width: nothing is cut or wrapped.
_ENDLESS: Final = 10_000


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("stats")
    def stats(
        ctx: typer.Context,
        target: str = typer.Argument(..., help="A metrics port: HOST:PORT, or http://HOST:PORT/metrics."),
        watch: bool = typer.Option(False, "--watch", "-w", help="Go on, with rates, until interrupted."),
        interval: float = typer.Option(2.0, min=0.05, help="Seconds between readings."),
        count: Optional[int] = typer.Option(None, min=1, help="With --watch: stop after this many readings."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table, a document a line."),
    ) -> None:
        """Show what each tier holds and does.

        Usage, hits, evictions, queues and latencies.

        A server listens for this with --metrics-port, a program's own store with `lms_tiers.metrics.port.MetricsPort`.
        Exit 0 when all tiers work within their capacity, 1 when one is switched off or over it, 2 when nobody
        answers.
        """
        import json

        for name in ("interval", "count"):
            source = ctx.get_parameter_source(name)
            if not watch and source is not None and source.name == "COMMANDLINE":
                raise ConfigError(f"--{name} is for --watch: without it there is one reading.")
        readings = _readings(target, interval, count if watch else 1)
        last: Reading | None = None
        try:
            for last in readings if as_json else _shown(readings, watch):
                if as_json:
                    typer.echo(json.dumps(last.document()))
        except KeyboardInterrupt:
            pass  # how a watch ends
        raise typer.Exit(0 if last is None or last.healthy else 1)


def _readings(target: str, interval: float, count: int | None) -> Iterator[Reading]:
    import itertools
    import time

    from lms_tiers.metrics.scrape import scrape

    for i in itertools.count() if count is None else range(count):
        if i:
            time.sleep(interval)
        yield scrape(target)


def _shown(readings: Iterator[Reading], watch: bool) -> Iterator[Reading]:
    """Show each reading, in place of the one before where it is watched on a terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before: Reading | None = None
    if not (watch and console.is_terminal):
        if not console.is_terminal:
            console = Console(width=_ENDLESS)
        for reading in readings:
            console.print(_view(reading, before, not console.is_terminal or console.width < _WIDE))
            before = reading
            yield reading
        return
    with Live(console=console, auto_refresh=False) as live:
        for reading in readings:
            live.update(_view(reading, before, console.width < _WIDE), refresh=True)
            before = reading
            yield reading


def _view(now: Reading, before: Reading | None, turned: bool) -> Group:
    from rich.console import Group

    parts: list[Table | str] = []
    for store, tiers in now.tiers.items():
        earlier = {tier.name: tier for tier in before.tiers.get(store, ())} if before else {}
        seconds = now.time - before.time if before else None
        parts.append(_table(store, [_figures(t, earlier.get(t.name), seconds) for t in tiers], turned))
    for store, edge in now.shared.items():
        was = before.shared.get(store) if before else None
        parts.append(_table(store, [_edge(edge, was, now.time - before.time if before else None)], turned))
    for store, figures in now.stores.items():
        asked = figures.get("hits", 0) + figures.get("misses", 0)
        ratio = f", {figures['hits'] / asked:.1%} of {asked:,.0f} gets hit" if asked else ""
        parts.append(f"{store or 'store'}: {figures.get('keys', 0):,.0f} chunks{ratio}")
    if now.server:
        events = ", ".join(
            f"{name.removeprefix('events.')} {value:,.0f}" for name, value in now.server.items()
            if name.startswith("events.") and value and not name.startswith("events.bytes")
        )  # fmt: skip
        parts.append(f"server: {now.server.get('connections', 0):.0f} connections; {events or 'no requests yet'}")
    return Group(*parts)


def _table(store: str, shown: Sequence[dict[str, str]], turned: bool) -> Table:
    """A row a tier or, turned, a row a figure."""
    from rich.table import Table

    rows = [list(shown[0]), *(list(figures.values()) for figures in shown)]
    if turned:
        rows = [list(row) for row in zip(*rows, strict=True)]
    table = Table(title=store or None)
    for i, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if turned and i else "left", no_wrap=turned)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _since(tier: TierReading, earlier: TierReading | None, seconds: float | None) -> tuple[TierReading, float, str]:
    """What to show, by how many seconds to divide counters, and how that is written."""
    from lms_tiers.metrics.scrape import between

    if earlier is None or not seconds:
        return tier, 1.0, ""
    return between(earlier, tier), seconds, "/s"


def _figures(tier: TierReading, earlier: TierReading | None, seconds: float | None) -> dict[str, str]:
    """Totals since the store was opened or, from the second reading on, what happens per second; by name."""
    from lms_tiers.sizes import format_size

    shown, by, per = _since(tier, earlier, seconds)
    f = shown.figures
    capacity = f.get("capacity_bytes")
    return {
        "tier": tier.name,
        "policy": tier.policy,
        "used": format_size(int(f.get("bytes", 0))),
        "of": "no limit" if capacity is None else format_size(int(capacity)),
        "chunks": f"{f.get('keys', 0):,.0f}",
        f"hits{per}": f"{f.get('hits', 0) / by:,.0f}",
        f"misses{per}": f"{f.get('misses', 0) / by:,.0f}",
        f"read{per}": format_size(int(f.get("read_bytes", 0) / by)),
        f"written{per}": format_size(int(f.get("written_bytes", 0) / by)),
        f"evicted{per}": f"{sum(shown.evictions.values()) / by:,.0f}",
        f"dropped{per}": f"{f.get('drops', 0) / by:,.0f}",
        "failures": f"{tier.figures.get('failures', 0):,.0f}",
        "queue": format_size(int(f.get("queue_bytes", 0))),
        "read p50 / p99": _quantiles(shown.read_buckets),
        "breaker": _breaker(tier),
    }


def _edge(edge: TierReading, earlier: TierReading | None, seconds: float | None) -> dict[str, str]:
    """The same of a tier that is shared with others."""
    from lms_tiers.sizes import format_size

    shown, by, per = _since(edge, earlier, seconds)
    f = shown.figures
    counts = ("hits", "misses", "lookups", "round_trips")
    lost = ("dropped", "refused", "in_doubt", "failures")
    return {
        "shared tier": edge.name,
        **{f"{name.replace('_', ' ')}{per}": f"{f.get(name, 0) / by:,.0f}" for name in counts},
        f"read{per}": format_size(int(f.get("read_bytes", 0) / by)),
        f"written{per}": format_size(int(f.get("written_bytes", 0) / by)),
        f"sent{per}": f"{f.get('sent', 0) / by:,.0f}",
        f"removed{per}": f"{f.get('removed', 0) / by:,.0f}",
        **{name: f"{f.get(name, 0):,.0f}" for name in ("unsent", "tombstones")},
        **{name.replace("_", " "): f"{edge.figures.get(name, 0):,.0f}" for name in lost},
        "read p50 / p99": _quantiles(shown.read_buckets),
        "write p50 / p99": _quantiles(shown.write_buckets),
        "breaker": _breaker(edge),
    }


def _breaker(tier: TierReading) -> str:
    return tier.breaker if tier.breaker == "closed" else f"[bold red]{tier.breaker}[/]"


def _quantiles(buckets: Mapping[float, float]) -> str:
    from lms_tiers.metrics.scrape import quantile

    return f"{_duration(quantile(buckets, 0.5))} / {_duration(quantile(buckets, 0.99))}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
