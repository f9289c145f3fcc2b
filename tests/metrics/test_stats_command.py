"""`lms-tiers stats` against a store that runs."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.metrics.collector import StoreCollector
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.metrics.scrape import between, quantile, scrape
from lms_tiers.plugins.faulty.backend import Fault


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["stats", *arguments], env={"COLUMNS": "220"})


def cells(table: str) -> list[list[str]]:
    """The cells of a printed table's rows."""
    table = re.sub(r"\x1b\[[0-9;]*m", "", table)
    rows = [line.replace("┃", "│").strip("│").split("│") for line in table.splitlines() if line[:1] in ("┃", "│")]
    return [[cell.strip() for cell in row] for row in rows]


def on_a_terminal(columns: int, *arguments: str) -> list[list[str]]:
    terminal = {"COLUMNS": str(columns), "FORCE_COLOR": "1", "TERM": "xterm"}
    shown = CliRunner().invoke(app, ["stats", *arguments], env=terminal)
    assert shown.exit_code == 0, shown.output
    return cells(shown.output)


def test_a_narrow_terminal_gets_whole_the_figures_that_a_wide_one_gets(bench: Any) -> None:
    bench.put(*range(30))
    bench.store.flush(60)
    with MetricsPort([StoreCollector(bench.store)]) as port:
        wide = on_a_terminal(200, f"127.0.0.1:{port.port}")
        narrow = on_a_terminal(60, f"127.0.0.1:{port.port}")
    assert [row[0] for row in wide] == ["tier", "ram", "disk"]
    assert [list(column) for column in zip(*narrow, strict=True)] == wide


def test_a_pipe_gets_every_figure_whole_whatever_its_width(bench: Any) -> None:
    with MetricsPort([StoreCollector(bench.store)]) as port:
        piped = CliRunner().invoke(app, ["stats", f"127.0.0.1:{port.port}"], env={"COLUMNS": "20"})
    table = cells(piped.output)
    assert table[0] == ["tier", "ram", "disk"]
    assert [row[0] for row in table][-3:] == ["queue", "read p50 / p99", "breaker"]
    assert "…" not in piped.output


def test_one_reading_shows_each_tier_fastest_first(bench: Any) -> None:
    bench.put(*range(30))
    bench.store.flush(60)
    with MetricsPort([StoreCollector(bench.store)]) as port:
        shown = run(f"127.0.0.1:{port.port}")
        document = json.loads(run(f"127.0.0.1:{port.port}", "--json").stdout)
    assert shown.exit_code == 0, shown.output
    assert cells(shown.output)[0] == ["tier", "ram", "disk"]
    assert "1000 B" in shown.output
    ram, disk = document["tiers"][""]
    assert (ram["name"], disk["name"]) == ("ram", "disk")
    assert ram["capacity_bytes"] == 1000
    assert ram["evictions"]["cleaned"] == bench.store.stats().tiers[0].evictions
    assert document["stores"][""]["keys"] == 30
    assert document["healthy"] is True


def test_watching_prints_a_document_per_reading_that_tells_what_changed(bench: Any) -> None:
    with MetricsPort([StoreCollector(bench.store)]) as port:
        shown = run(f"127.0.0.1:{port.port}", "--watch", "--interval", "0.05", "--count", "3", "--json")
        table = run(f"127.0.0.1:{port.port}", "--watch", "--interval", "0.05", "--count", "2")
    assert [json.loads(line)["healthy"] for line in shown.stdout.splitlines()] == [True] * 3
    assert table.exit_code == 0
    assert [row[0] for row in cells(table.output) if row[0].startswith("hits")] == ["hits", "hits/s"]


def test_a_switched_off_tier_is_exit_status_1(bench: Any) -> None:
    bench.lower.inject("*", Fault.FAIL)
    bench.put(*range(60))
    with MetricsPort([StoreCollector(bench.store)]) as port:
        shown = run(f"127.0.0.1:{port.port}")
    assert shown.exit_code == 1
    assert "open" in shown.output


def test_rates_are_what_happened_between_two_readings(bench: Any) -> None:
    bench.put(*range(5))
    with MetricsPort([StoreCollector(bench.store)]) as port:
        first = scrape(f"127.0.0.1:{port.port}")
        for _ in range(7):
            bench.store.get(bench.key(0))
        second = scrape(f"http://127.0.0.1:{port.port}/metrics")
    change = between(first.tiers[""][0], second.tiers[""][0])
    assert change.figures["hits"] == 7
    assert change.figures["bytes"] == 500
    assert sum(change.evictions.values()) == 0
    assert change.read_buckets[float("inf")] == 7


def test_quantiles_are_upper_bounds_of_cumulative_buckets() -> None:
    buckets = {0.001: 50.0, 0.01: 99.0, float("inf"): 100.0}
    assert quantile(buckets, 0.5) == 0.001
    assert quantile(buckets, 0.99) == 0.01
    assert quantile(buckets, 1.0) == float("inf")
    assert quantile({}, 0.5) is None


def test_a_port_where_nobody_listens_is_a_typed_error(bench: Any) -> None:
    with MetricsPort([StoreCollector(bench.store)]) as port:
        address = f"127.0.0.1:{port.port}"
    with pytest.raises(StorageUnavailableError, match=address):
        scrape(address)
    assert isinstance(run(address).exception, StorageUnavailableError)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        scrape("lm://127.0.0.1:1")


def test_no_proxy_of_the_environment_is_asked(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # as in a new process: an opener keeps the proxies it found
    with MetricsPort([StoreCollector(bench.store)]) as port:
        assert run(f"127.0.0.1:{port.port}").exit_code == 0
        assert run(f"localhost:{port.port}").exit_code == 0


@pytest.mark.parametrize("target", ["a..b:1", "[::1", "127.0.0.1:port", "a b:1"])
def test_what_cannot_be_asked_is_a_typed_error(target: str) -> None:
    with pytest.raises(StorageUnavailableError):
        scrape(target)


def test_an_answer_that_is_no_metrics_is_said_to_be_none(bench: Any) -> None:
    with (
        MetricsPort([StoreCollector(bench.store)]) as port,
        pytest.raises(StorageUnavailableError, match="not Prometheus text"),
    ):
        scrape(f"http://127.0.0.1:{port.port}/healthz")


@pytest.mark.parametrize("option", ["--count", "--interval"])
def test_an_option_of_the_watch_is_refused_without_it(option: str) -> None:
    refused = run("127.0.0.1:1", option, "2")
    assert isinstance(refused.exception, ConfigError)
    assert f"{option} is for --watch" in str(refused.exception)


def test_metrics_of_something_else_are_refused() -> None:
    with MetricsPort([]) as port, pytest.raises(StorageUnavailableError, match="no metrics of a store"):
        scrape(f"127.0.0.1:{port.port}")
