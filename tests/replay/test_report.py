"""The report of a replay: its JSON keys, its verdict, its table."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from lms_tiers.replay.replay import ReplayResult, Timing
from lms_tiers.replay.report import Report
from lms_tiers.replay.restart import RestartResult
from lms_tiers.replay.tiers import TierFigures


def result(wrong: int = 0) -> ReplayResult:
    made = ReplayResult(requests=2, blocks=8, prefix_hits=2, verified=2, wrong=wrong, seconds=1.5, flush_seconds=0.5)
    made.get = Timing(0.5, 2, [0.25, 0.25])
    made.put = Timing(1.0, 6, [0.1] * 6)
    made.wrong_keys = ["m@1@0@2@bfloat16"] * wrong
    return made


def report(wrong: int = 0, peak: int = 90, restart: RestartResult | None = None) -> Report:
    tiers = [TierFigures("cpu", 1, 100, peak, 60, 20), TierFigures("lmdb", 1, None, 500, 60, 10)]
    return Report("trace.jsonl", "cpu > lmdb", "native", 1_000_000, result(wrong), tiers, restart)


def shown(made: Report) -> str:
    console = Console(width=120, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(made.table())
    return captured.get()


def test_the_document_has_the_promised_keys_and_no_other() -> None:
    document = report(restart=RestartResult(0.1, 4, 4, 0, 0)).document()
    assert list(document) == [
        "requests", "blocks", "prefix_hit_blocks", "prefix_hit_ratio", "seconds", "get_mb_s", "put_mb_s", "get_p50_ms",
        "get_p99_ms", "put_p50_ms", "put_p99_ms", "verified_blocks", "wrong_blocks", "tiers", "restart", "run",
    ]  # fmt: skip
    assert list(document["tiers"][0]) == [
        "name", "hits", "capacity_bytes", "peak_bytes", "bytes_written", "bytes_read",
    ]  # fmt: skip
    assert document["restart"] == {"reopen_seconds": 0.1, "checked": 4, "right": 4, "wrong": 0, "missing": 0}
    assert json.loads(json.dumps(document)) == document


def test_the_figures_are_in_the_units_of_their_names() -> None:
    document = report().document()
    assert document["prefix_hit_ratio"] == 0.25
    assert (document["get_mb_s"], document["put_mb_s"]) == (4.0, 6.0)
    assert (document["get_p50_ms"], document["put_p99_ms"]) == (250.0, 100.0)
    assert document["restart"] is None


def test_a_replay_without_blocks_has_no_rates() -> None:
    empty = Report("t", "cpu", "native", 8, ReplayResult(), [], None)
    document = empty.document()
    assert (document["prefix_hit_ratio"], document["get_mb_s"], document["get_p99_ms"]) == (0.0, None, None)
    assert "–" in shown(empty)


@pytest.mark.parametrize(
    ("made", "passed"),
    [
        (report(), True),
        (report(wrong=1), False),
        (report(peak=101), False),
        (report(restart=RestartResult(0.1, 4, 4, 0, 0)), True),
        (report(restart=RestartResult(0.1, 4, 3, 0, 1)), True),
        (report(restart=RestartResult(0.1, 4, 3, 1, 0)), False),
    ],
)
def test_wrong_bytes_and_broken_capacities_fail_the_replay(made: Report, passed: bool) -> None:
    assert made.passed is passed
    assert made.document()["run"]["passed"] is passed


def test_the_table_names_wrong_blocks_sizes_and_restart() -> None:
    text = shown(report(wrong=1, restart=RestartResult(0.012, 4, 3, 0, 1)))
    for part in ("m@1@0@2@bfloat16", "2 (25.00 %)", "4 MB/s", "90.0 %", "12 ms", "3 of 4", "500 B"):
        assert part in text
