"""What a store's metrics say, as a Prometheus server would read them."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lms_tiers.errors import ConfigError
from lms_tiers.metrics.collector import StoreCollector
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault
from lms_tiers.tiered.breaker import BreakerState

DOCS = Path(__file__).resolve().parents[2] / "docs"


class Samples(dict[tuple[str, frozenset[str]], float]):
    """Samples by metric name and label values, whatever their order."""

    def of(self, name: str, *values: str) -> float:
        return self[name, frozenset(values)]


def samples(backend: Any, **labels: str) -> Samples:
    registry = CollectorRegistry()
    registry.register(StoreCollector(backend, labels))
    text = generate_latest(registry).decode()
    return Samples(
        ((sample.name, frozenset(sample.labels.values())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


def test_every_counter_of_a_tier_is_a_sample_that_agrees_with_stats(bench: Any) -> None:
    bench.put(*range(30))
    bench.store.flush(60)
    for i in (0, 29, 99):
        bench.store.get(bench.key(i))
    bench.store.drain(60)
    seen = samples(bench.store)
    stats = bench.store.stats()
    assert seen.of("lms_tiers_store_puts_total") == 30
    assert seen.of("lms_tiers_store_misses_total") == 1
    for tier in stats.tiers:
        assert seen.of("lms_tiers_tier_bytes", tier.name) == tier.bytes_used > 0
        assert seen.of("lms_tiers_tier_capacity_bytes", tier.name) == tier.capacity_bytes
        assert seen.of("lms_tiers_tier_hits_total", tier.name) == tier.hits
        assert seen.of("lms_tiers_tier_misses_total", tier.name) == tier.misses
        assert seen.of("lms_tiers_tier_written_bytes_total", tier.name) == tier.bytes_written > 0
        assert seen.of("lms_tiers_tier_queue_bytes", tier.name) == tier.queue_bytes
        assert seen.of("lms_tiers_tier_info", tier.name, "lru") == 1
        assert seen.of("lms_tiers_tier_write_seconds_count", tier.name) == tier.write_latency.count > 0
        assert seen.of("lms_tiers_tier_write_seconds_bucket", tier.name, "+Inf") == tier.write_latency.count
    cleaned = seen.of("lms_tiers_tier_evictions_total", "ram", "cleaned")
    assert cleaned == stats.tiers[0].evictions > 0


def test_a_sick_tier_shows_in_failures_breaker_and_drops(bench: Any) -> None:
    assert samples(bench.store).of("lms_tiers_tier_breaker", "disk", "closed") == 1
    bench.lower.inject("*", Fault.FAIL)
    bench.put(*range(60))
    seen = samples(bench.store)
    assert seen.of("lms_tiers_tier_failures_total", "disk") > 0
    assert seen.of("lms_tiers_tier_breaker", "disk", "closed") == 0
    assert sum(seen.of("lms_tiers_tier_breaker", "disk", state.value) for state in BreakerState) == 1
    assert seen.of("lms_tiers_tier_breaker_changes_total", "disk", "open") >= 1
    lost = [seen.of("lms_tiers_tier_evictions_total", "ram", why) for why in ("back-pressure", "breaker-open")]
    assert sum(lost) == seen.of("lms_tiers_tier_drops_total", "ram") > 0


def test_labels_tell_two_stores_of_one_registry_apart(bench: Any) -> None:
    bench.put(1)
    seen = samples(bench.store, store="prompts")
    assert seen.of("lms_tiers_store_keys", "prompts") == 1
    assert seen.of("lms_tiers_tier_keys", "prompts", "ram") == 1
    assert seen.of("lms_tiers_tier_evictions_total", "prompts", "ram", "cleaned") == 0


def test_a_bare_backend_has_its_own_figures_and_no_tiers() -> None:
    with LMSLocalBackend() as backend:
        seen = samples(backend)
    assert seen.of("lms_tiers_store_keys") == 0
    assert not [key for key in seen if key[0].startswith("lms_tiers_tier")]


def test_a_closed_store_has_no_samples_and_does_not_fail_the_scrape(bench: Any) -> None:
    bench.store.close()
    assert samples(bench.store) == {}


def test_without_the_library_the_error_says_what_to_install(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'lms-tiers\[metrics\]'"):
        StoreCollector(bench.store)


def test_the_dashboard_and_the_guide_name_only_metrics_that_exist(bench: Any) -> None:
    known = {re.sub(r"_(bucket|sum|count|created)$", "", key[0]) for key in samples(bench.store)}
    dashboard = (DOCS / "grafana" / "lms-tiers.json").read_text()
    json.loads(dashboard)
    for text in (dashboard, (DOCS / "operations.md").read_text()):
        named = {re.sub(r"_(bucket|sum|count)$", "", n) for n in re.findall(r"lms_tiers_(?:tier|store)_\w+", text)}
        assert named
        assert named <= known
