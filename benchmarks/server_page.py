"""The measured part of docs/bench/server.md, written by `benchmarks/server.py --markdown`; the words around it stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"


def write(page: Path, result: dict[str, Any], ours: str, peer: str, bare: str, disk: str) -> None:
    """Replace what stands between the two marks of `page`."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise SystemExit(f"{page} has no part between {BEGIN} and {END}")
    lines = list(_machine(result["machine"]))
    for client, one in result.items():
        if client == "machine":
            continue
        rates = one["mb_per_s"]
        lines += ["", f"### {client}", "", *_small(one["small_us"], ours, peer), ""]
        lines += [*_rates(rates, ours, peer, bare, disk), "", *_summary(rates, ours, peer, bare)]
        lines += ["", *_disk(rates, ours, disk), "", *_spent(one["cpu_us"], ours, peer, bare)]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def _machine(machine: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{machine['date']}, {machine['cores']} cores, {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}, LMCache {machine['lmcache']}, {machine['rounds']} rounds, medians; load of the "
        f"machine at the start {machine['load']:.1f}."
    )
    yield ""
    yield (
        f"Ceilings in this run: memcpy of 2 MiB {machine['memcpy']:,.0f} MB/s into a kept buffer, "
        f"{machine['memcpy_fresh']:,.0f} MB/s into a fresh one; and the bare loops below."
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _small(small: dict[str, dict[str, float]], ours: str, peer: str) -> Iterator[str]:
    names = list(small)
    yield _row(["8 KiB, µs", *names, f"{peer} / {ours}"])
    yield "|---" * (len(names) + 2) + "|"
    for op in ("put_exists", "get"):
        values = [f"{small[n][op]:,.0f}" for n in names]
        yield _row([op.replace("_", " + "), *values, f"{small[peer][op] / small[ours][op]:.0f}×"])


def _rates(cells: dict[str, dict[str, float]], ours: str, peer: str, bare: str, disk: str) -> Iterator[str]:
    names = [n for n in next(iter(cells.values())) if n != disk]
    yield _row(["MB/s", *names, f"of {peer}", f"of {bare}", f"{bare} of {peer}"])
    yield "|---" * (len(names) + 4) + "|"
    for cell, rates in cells.items():
        ratios = rates[ours] / rates[peer], rates[ours] / rates[bare], rates[bare] / rates[peer]
        yield _row([cell.replace("x", "×"), *(f"{rates[n]:,.0f}" for n in names), *(f"{r:.2f}" for r in ratios)])


def _spent(cells: dict[str, dict[str, float]], ours: str, peer: str, bare: str) -> Iterator[str]:
    yield _row(["CPU time of the server, µs a chunk", ours, peer, bare, f"{peer} / {ours}", f"{bare} / {ours}"])
    yield "|---|---|---|---|---|---|"
    for cell, costs in cells.items():
        ratios = costs[peer] / costs[ours], costs[bare] / costs[ours]
        values = [f"{costs[n]:,.0f}" for n in (ours, peer, bare)]
        yield _row([cell.replace("x", "×"), *values, *(f"{r:.2f}" for r in ratios)])


def _summary(cells: dict[str, dict[str, float]], ours: str, peer: str, bare: str) -> Iterator[str]:
    to_peer = [rates[ours] / rates[peer] for rates in cells.values()]
    to_bare = [rates[ours] / rates[bare] for rates in cells.values()]
    bare_to_peer = [rates[bare] / rates[peer] for rates in cells.values()]
    yield (
        f"Against {peer}: as fast or faster in {sum(r >= 1 for r in to_peer)} of {len(cells)} cells (lowest "
        f"{min(to_peer):.2f}), 1.5 times or more in {sum(r >= 1.5 for r in to_peer)} (the bare loop itself: "
        f"{sum(r >= 1.5 for r in bare_to_peer)}). Against the bare loop: 0.9 or more in "
        f"{sum(r >= 0.9 for r in to_bare)} of {len(cells)} (lowest {min(to_bare):.2f})."
    )


def _disk(cells: dict[str, dict[str, float]], ours: str, disk: str) -> Iterator[str]:
    yield _row(["GET, MB/s", "from cpu", "from lmdb, raw", "lmdb / cpu"])
    yield "|---|---|---|---|"
    for cell, rates in cells.items():
        if cell.startswith("get") and disk in rates:
            values = f"{rates[ours]:,.0f}", f"{rates[disk]:,.0f}", f"{rates[disk] / rates[ours]:.2f}"
            yield _row([cell.removeprefix("get ").replace("x", "×"), *values])
