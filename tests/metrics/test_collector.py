"""What a store's metrics say, as a Prometheus server would read them."""

from __future__ import annotations

import builtins
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lms_tiers import CreateStorageBackend
from lms_tiers.errors import ConfigError
from lms_tiers.metrics.collector import StoreCollector
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault
from lms_tiers.tiered.watch.stats import BreakerState

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


def valid(text: str) -> dict[str, list[Any]]:
    """Samples by family, of text that is valid: one HELP and one TYPE a family, its samples together, none twice."""
    for keyword in ("# HELP", "# TYPE"):
        names = [line.split()[2] for line in text.splitlines() if line.startswith(keyword)]
        assert len(names) == len(set(names))
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    found = [(s.name, frozenset(s.labels.items())) for family in families for s in family.samples]
    assert len(found) == len(set(found))
    return {family.name: family.samples for family in families}


@pytest.mark.parametrize("where", ["the process's registry", "another registry", "a port"])
def test_any_number_of_stores_can_be_watched_in_one_process(bench: Any, where: str) -> None:
    bench.put(1, 2)
    with LMSLocalBackend() as bare, CreateStorageBackend("cpu?capacity=1MiB > faulty:cpu?capacity=2MiB") as other:
        watched = [StoreCollector(store) for store in (bench.store, other, bare)]
        watched += [StoreCollector(store, {"store": "prompts"}) for store in (other, bare)]
        if where == "a port":
            with MetricsPort(watched) as port, socket.create_connection(("127.0.0.1", port.port), 10) as client:
                client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                text = b"".join(iter(lambda: client.recv(65536), b"")).decode().partition("\r\n\r\n")[2]
        else:
            registry = REGISTRY if where == "the process's registry" else CollectorRegistry()
            try:
                for collector in watched:
                    registry.register(collector)
                text = generate_latest(registry).decode()
            finally:
                for collector in watched:
                    with contextlib.suppress(KeyError):
                        registry.unregister(collector)
        families = valid(text)
    keys = {sample.labels.get("store"): sample.value for sample in families["lms_tiers_store_keys"]}
    assert keys == {None: 2, "2": 0, "3": 0, "prompts": 0, "prompts#2": 0}
    tiers = [(sample.labels.get("store"), sample.labels["tier"]) for sample in families["lms_tiers_tier_bytes"]]
    assert tiers == [
        *((None, tier) for tier in ("ram", "disk")),
        *((store, tier) for store in ("2", "prompts") for tier in ("cpu", "faulty")),
    ]


def test_a_store_keeps_its_label_when_the_one_before_it_is_no_longer_watched(bench: Any) -> None:
    registry = CollectorRegistry()
    with LMSLocalBackend() as bare:
        first, second = StoreCollector(bench.store), StoreCollector(bare)
        registry.register(first)
        registry.register(second)
        registry.unregister(first)
        families = valid(generate_latest(registry).decode())
        assert [sample.labels for sample in families["lms_tiers_store_keys"]] == [{"store": "2"}]
        alone = CollectorRegistry()
        alone.register(first)
        assert [sample.labels for sample in first.collect()[0].samples] == [{}]
        names = alone.restricted_registry(["lms_tiers_store_keys"])
        assert list(valid(generate_latest(names).decode())) == ["lms_tiers_store_keys"]


@pytest.mark.parametrize("name", ["tier", "le", "a b", "__name__", ""])
def test_a_label_that_cannot_be_one_is_refused(bench: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a label"):
        StoreCollector(bench.store, {name: "x"})


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
