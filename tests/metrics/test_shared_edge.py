"""What a store's metrics and `lms-tiers stats` say of the tier that it shares with others."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from lms_conformance.shared import SharedEngine, SharedReference, forget_engine, shared_engine
from prometheus_client import CollectorRegistry, generate_latest

from lms_tiers.errors import StorageUnavailableError
from lms_tiers.metrics.collector import StoreCollector
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.metrics.scrape import scrape
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.mooncake import backend as mooncake
from lms_tiers.plugins.redis import backend as redis
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.stats import BreakerState, EdgeStats
from tests.metrics.conftest import Bench
from tests.metrics.test_collector import DOCS, samples, valid
from tests.metrics.test_stats_command import cells, run

NAME = "metrics"


class Host(NamedTuple):
    store: TieredStore
    engine: SharedEngine

    def put(self, *numbers: int) -> None:
        Bench.put(self, *numbers)  # type: ignore[arg-type]  # it has a store as well

    @staticmethod
    def key(i: int) -> Any:
        return Bench.key(i)

    @property
    def edge(self) -> EdgeStats:
        found = self.store.stats().shared
        assert found is not None
        return found


@pytest.fixture
def host() -> Iterator[Host]:
    """Ten chunks of memory over an engine that others write to as well."""
    engine = shared_engine(NAME)
    store = TieredStore(
        [
            TierConfig("ram", LMSLocalBackend(), 1000, Lru(1000, time.monotonic)),
            TierConfig("pool", SharedReference(NAME), None, None, deadline=60.0),
        ],
        breaker_threshold=1, breaker_cooldown=1000.0, close_timeout=5.0,
    )  # fmt: skip
    with store:
        yield Host(store, engine)
        engine.down = False
        engine.answering.set()
    forget_engine(NAME)


def busy(host: Host) -> None:
    """Twenty chunks put, some read here and there, one removed, one asked for in vain."""
    host.put(*range(20))
    host.store.flush(60)
    host.store.get_many([host.key(i) for i in range(5)])
    host.store.remove(host.key(7))
    host.store.get(host.key(99))


def switch_off(host: Host) -> None:
    """Let the engine be away, and the store find out."""
    host.engine.down = True
    host.put(4)
    with pytest.raises(StorageUnavailableError):
        host.store.flush(60)


def test_every_counter_of_the_shared_edge_is_a_sample_that_agrees_with_stats(host: Host) -> None:
    busy(host)
    seen = samples(host.store)
    edge = host.edge
    for name, value in (
        ("hits", edge.hits), ("misses", edge.misses), ("lookups", edge.lookups), ("round_trips", edge.round_trips),
        ("read_bytes", edge.bytes_read), ("written_bytes", edge.bytes_written), ("sent", edge.sent),
        ("removed", edge.removed),
    ):  # fmt: skip
        assert seen.of(f"lms_tiers_shared_{name}_total", "pool") == value > 0, name
    for name in ("refused", "dropped", "in_doubt", "failures"):
        assert seen.of(f"lms_tiers_shared_{name}_total", "pool") == 0, name
    assert seen.of("lms_tiers_shared_unsent", "pool") == 0
    assert seen.of("lms_tiers_shared_tombstones", "pool") == 0
    assert seen.of("lms_tiers_shared_breaker", "pool", "closed") == 1
    for verb, latency in (("read", edge.read_latency), ("write", edge.write_latency)):
        assert seen.of(f"lms_tiers_shared_{verb}_seconds_count", "pool") == latency.count > 0
        assert seen.of(f"lms_tiers_shared_{verb}_seconds_bucket", "pool", "+Inf") == latency.count


def test_the_engines_own_figures_are_samples_where_it_tells_them(host: Host) -> None:
    busy(host)
    seen = samples(host.store)
    assert seen.of("lms_tiers_shared_engine_keys", "pool") == len(host.engine.chunks) == 19
    assert seen.of("lms_tiers_shared_engine_bytes", "pool") == host.engine.used == 1900
    assert seen.of("lms_tiers_shared_engine_round_trips", "pool") == host.engine.round_trips
    switch_off(host)
    assert ("lms_tiers_shared_engine_keys", frozenset(["pool"])) not in samples(host.store)


def test_an_engine_that_is_down_shows_in_failures_breaker_unsent_and_tombstones(host: Host) -> None:
    switch_off(host)
    host.put(*range(4))
    seen = samples(host.store)
    assert seen.of("lms_tiers_shared_failures_total", "pool") >= 1
    assert seen.of("lms_tiers_shared_breaker", "pool", "closed") == 0
    assert sum(seen.of("lms_tiers_shared_breaker", "pool", state.value) for state in BreakerState) == 1
    assert seen.of("lms_tiers_shared_breaker_changes_total", "pool", "open") >= 1
    assert seen.of("lms_tiers_shared_unsent", "pool") == 5
    assert seen.of("lms_tiers_shared_tombstones", "pool") == 5


def test_the_text_is_valid_with_and_without_a_shared_tier_in_one_registry(bench: Any, host: Host) -> None:
    registry = CollectorRegistry()
    for collector in (StoreCollector(bench.store), StoreCollector(host.store), StoreCollector(host.store, {"of": "x"})):
        registry.register(collector)
    families = valid(generate_latest(registry).decode())
    found = [(sample.labels.get("store"), sample.labels["tier"]) for sample in families["lms_tiers_shared_unsent"]]
    assert found == [("2", "pool"), (None, "pool")]
    assert {sample.labels["tier"] for sample in families["lms_tiers_tier_bytes"]} == {"ram", "disk"}


def test_stats_shows_the_shared_tier_below_the_others(host: Host) -> None:
    busy(host)
    with MetricsPort([StoreCollector(host.store)]) as port:
        shown = run(f"127.0.0.1:{port.port}")
        document = json.loads(run(f"127.0.0.1:{port.port}", "--json").stdout)
    assert shown.exit_code == 0, shown.output
    rows = {row[0]: row[1:] for row in cells(shown.output)}
    assert rows["tier"] == ["ram"]
    assert rows["shared tier"] == ["pool"]
    assert rows["round trips"] == [str(host.edge.round_trips)]
    assert rows["sent"] == ["20"]
    shared = document["shared"][""]
    assert (shared["name"], shared["breaker"], shared["sent"], shared["removed"]) == ("pool", "closed", 20, 1)
    assert shared["lookups"] == host.edge.lookups
    assert shared["read_p50_seconds"] > 0
    assert [tier["name"] for tier in document["tiers"][""]] == ["ram"]


def test_a_watch_tells_what_went_over_the_edge_a_second(host: Host) -> None:
    busy(host)
    with MetricsPort([StoreCollector(host.store)]) as port:
        table = run(f"127.0.0.1:{port.port}", "--watch", "--interval", "0.05", "--count", "2")
    assert [row[0] for row in cells(table.output) if row[0].startswith("sent")] == ["sent", "sent/s"]


def test_a_shared_tier_that_is_switched_off_is_exit_status_1(host: Host) -> None:
    switch_off(host)
    with MetricsPort([StoreCollector(host.store)]) as port:
        shown = run(f"127.0.0.1:{port.port}")
        assert not scrape(f"127.0.0.1:{port.port}").healthy
    assert shown.exit_code == 1
    assert "open" in shown.output


def test_the_dashboard_and_the_guide_name_only_metrics_that_exist(host: Host) -> None:
    """And the dashboard looks at all three kinds."""
    known = {re.sub(r"_(bucket|sum|count|created)$", "", key[0]) for key in samples(host.store)}
    known |= {f"lms_tiers_shared_engine_{name}" for name in (*redis.DETAIL, *mooncake.DETAIL)}
    dashboard = (DOCS / "grafana" / "lms-tiers.json").read_text()
    panels = json.loads(dashboard)["panels"]
    for text in (dashboard, (DOCS / "operations.md").read_text()):
        named = {
            re.sub(r"_(bucket|sum|count)$", "", n) for n in re.findall(r"lms_tiers_(?:tier|store|shared)_\w+", text)
        }
        assert named <= known
        assert {name.split("_")[2] for name in named} == {"tier", "store", "shared"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
