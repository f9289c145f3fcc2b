"""What a replay shows at its end: the JSON document, the table, and whether it passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lms_tiers.replay.replay import ReplayResult
from lms_tiers.replay.restart import RestartResult
from lms_tiers.replay.tiers import TierFigures
from lms_tiers.sizes import format_size


@dataclass(frozen=True, slots=True)
class Report:
    """One replay: what was run and what came out.

    Attributes
    ----------
    trace, device, keys : str
    block_bytes : int
    result : ReplayResult
    tiers : list of TierFigures
    restart : RestartResult or None
        None where no restart was asked for.
    persistent : bool
        Whether the device keeps anything over a restart.
    """

    trace: str
    device: str
    keys: str
    block_bytes: int
    result: ReplayResult
    tiers: list[TierFigures]
    restart: RestartResult | None = None
    persistent: bool = True

    @property
    def prefix_hit_ratio(self) -> float:
        """Prefix hits over blocks."""
        return self.result.prefix_hits / self.result.blocks if self.result.blocks else 0.0

    @property
    def passed(self) -> bool:
        """Whether every byte was right and every tier stayed within its capacity."""
        wrong = self.result.wrong + (self.restart.wrong if self.restart else 0)
        return not wrong and not any(tier.over_capacity for tier in self.tiers)

    def document(self) -> dict[str, Any]:
        """The JSON document; rates in 10⁶ bytes a second, times in seconds or as named."""
        r, size = self.result, self.block_bytes
        return {
            "requests": r.requests,
            "blocks": r.blocks,
            "prefix_hit_blocks": r.prefix_hits,
            "prefix_hit_ratio": self.prefix_hit_ratio,
            "seconds": r.seconds,
            "get_mb_s": r.get.mb_s(size),
            "put_mb_s": r.put.mb_s(size),
            "get_p50_ms": r.get.percentile_ms(50),
            "get_p99_ms": r.get.percentile_ms(99),
            "put_p50_ms": r.put.percentile_ms(50),
            "put_p99_ms": r.put.percentile_ms(99),
            "verified_blocks": r.verified,
            "wrong_blocks": r.wrong,
            "tiers": [
                {
                    "name": t.name, "hits": t.hits, "capacity_bytes": t.capacity_bytes, "peak_bytes": t.peak_bytes,
                    "bytes_written": t.bytes_written, "bytes_read": t.bytes_read,
                }
                for t in self.tiers
            ],
            "restart": self.restart and {
                "reopen_seconds": self.restart.reopen_seconds, "checked": self.restart.checked,
                "right": self.restart.right, "wrong": self.restart.wrong, "missing": self.restart.missing,
            },
            "run": {
                "trace": self.trace, "device": self.device, "keys": self.keys, "block_bytes": size,
                "put_blocks": r.put.blocks, "refused_blocks": r.refused, "vanished_blocks": r.vanished,
                "wrong_keys": r.wrong_keys, "lookup_seconds": r.lookup_seconds, "get_seconds": r.get.seconds,
                "put_seconds": r.put.seconds, "flush_seconds": r.flush_seconds, "passed": self.passed,
            },
        }  # fmt: skip

    def table(self) -> RenderableType:
        """What a person wants to see first."""
        parts: list[RenderableType] = [self._summary(), self._tiers()]
        if self.result.wrong_keys:
            parts.append(Text("Wrong: " + ", ".join(self.result.wrong_keys), "red"))
        return Group(*parts)

    def _summary(self) -> Table:
        r, size = self.result, self.block_bytes
        table = Table(title="Replay", show_header=False)
        table.add_column()
        table.add_column(justify="right")

        def row(name: str, value: str, bad: bool = False) -> None:
            table.add_row(name, Text(value, "bold red" if bad else ""))

        row("requests", f"{r.requests:,}")
        row("blocks", f"{r.blocks:,} of {format_size(size)}")
        row("prefix hits", f"{r.prefix_hits:,} ({100 * self.prefix_hit_ratio:.2f} %)")
        row("time", f"{r.seconds:.1f} s, of which flush {r.flush_seconds:.1f} s")
        row("get", _speed(r.get.mb_s(size), r.get.percentile_ms(50), r.get.percentile_ms(99)))
        row("put", _speed(r.put.mb_s(size), r.put.percentile_ms(50), r.put.percentile_ms(99)))
        row("verified byte for byte", f"{r.verified:,}")
        row("wrong", f"{r.wrong:,}", r.wrong > 0)
        if r.vanished:
            row("left between look-up and get", f"{r.vanished:,}")
        if r.refused:
            row("puts refused for want of room", f"{r.refused:,}")
        if self.restart:
            s = self.restart
            row("reopened in", f"{1000 * s.reopen_seconds:.0f} ms")
            warm = f"{s.right:,} of {s.checked:,}" if self.persistent else "nothing here is persistent"
            row("warm after restart", warm, s.right < s.checked)
            row("wrong after restart", f"{s.wrong:,}", s.wrong > 0)
        return table

    def _tiers(self) -> Table:
        table = Table(title="Tiers")
        table.add_column("tier")
        for name in ("hits", "capacity", "peak", "of capacity", "written", "read"):
            table.add_column(name, justify="right")
        for t in self.tiers:
            share = f"{100 * t.peak_bytes / t.capacity_bytes:.1f} %" if t.peak_bytes and t.capacity_bytes else "–"
            table.add_row(
                t.name,
                f"{t.hits:,}",
                _size(t.capacity_bytes),
                _size(t.peak_bytes or None),
                Text(share, "bold red" if t.over_capacity else ""),
                _size(t.bytes_written),
                _size(t.bytes_read),
            )
        return table


def _speed(mb_s: float | None, p50: float | None, p99: float | None) -> str:
    if mb_s is None or p50 is None or p99 is None:
        return "–"
    return f"{mb_s:,.0f} MB/s, a block p50 {p50:.3f} ms, p99 {p99:.3f} ms"


def _size(nbytes: int | None) -> str:
    return "–" if nbytes is None else format_size(nbytes)
