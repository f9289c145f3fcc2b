"""A store's counters as Prometheus metrics: register a `StoreCollector` where your process keeps its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from lms_tiers.errors import ConfigError, LmsTiersError
from lms_tiers.interface import BackendStats, LMSBackendInterface
from lms_tiers.metrics import names
from lms_tiers.metrics.names import (
    ENGINE_GAUGES,
    SHARED_COUNTERS,
    SHARED_GAUGES,
    STORE_COUNTERS,
    STORE_GAUGES,
    TIER_COUNTERS,
    TIER_GAUGES,
)
from lms_tiers.metrics.sharing import in_registry, merged, told_apart
from lms_tiers.tiered.watch.stats import LATENCY_BOUNDS, BreakerState, EdgeStats, Latency, StoreStats, TierStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Labels of the metrics themselves.
OWN_LABELS: Final = frozenset({"tier", "reason", "state", "policy", "le"})


class StoreCollector:
    """Collects one backend's `stats()` whenever it is scraped; nothing is counted twice and nothing on the data path.

    A registry may hold any number of them: they share one family of each name. One whose labels another has already
    gets the label `store` with a number, ``store="2"`` for the second without labels.

    Parameters
    ----------
    backend : LMSBackendInterface
        A tiered store gives a series per tier, any other backend its own figures.
    labels : mapping of str to str, optional
        Added to every sample, to tell several stores of one process apart.

    Raises
    ------
    ConfigError
        `prometheus-client` is not installed, or a label is none or has the name of one of the metrics' own.

    Examples
    --------
    >>> from lms_tiers.factory import CreateStorageBackend
    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> registry = CollectorRegistry()
    >>> with CreateStorageBackend("cpu?capacity=1MiB") as store:
    ...     registry.register(StoreCollector(store, {"store": "prompts"}))
    ...     b'lms_tiers_tier_capacity_bytes{store="prompts",tier="cpu"} 1.048576e+06' in generate_latest(registry)
    True
    """

    def __init__(self, backend: LMSBackendInterface, labels: Mapping[str, str] | None = None) -> None:
        require_prometheus()
        self._backend: Final = backend
        self._labels = _checked(labels or {})

    def describe(self) -> list[Metric]:
        """For `register`: the metrics, unless another of these has told the registry of them."""
        others = in_registry(StoreCollector, sys._getframe(1))
        self._labels = told_apart(self._labels, [other._labels for other in others])
        return [] if others else self._families()

    def collect(self) -> list[Metric]:
        """Every metric now, of all these collectors in the registry that asks; none of a backend that is closed."""
        members = in_registry(StoreCollector, sys._getframe(1))
        if self not in members:
            return self._families()
        if members[0] is not self:
            return []
        return merged(family for member in members for family in member._families())

    def _families(self) -> list[Metric]:
        try:
            stats = self._backend.stats()
        except LmsTiersError:
            return []
        families = list(self._store(stats))
        if isinstance(stats, StoreStats):
            families += self._tiers(stats.tiers)
            if stats.shared is not None:
                families += self._shared(stats.shared)
        return families

    def _store(self, stats: BackendStats) -> Iterator[Metric]:
        own = {"keys": stats.private_keys} if isinstance(stats, StoreStats) else {}
        for name, text, field in STORE_GAUGES:
            yield self._family("gauge", f"store_{name}", text, [({}, own.get(field, getattr(stats, field)))])
        for name, text, field in STORE_COUNTERS:
            yield self._family("counter", f"store_{name}", text, [({}, getattr(stats, field, None))])
        yield from self._detail("store_backend", [({}, stats)])

    def _tiers(self, tiers: Sequence[TierStats]) -> Iterator[Metric]:
        named = [({"tier": tier.name}, tier) for tier in tiers]
        for name, text, field in TIER_GAUGES:
            yield self._family("gauge", f"tier_{name}", text, [(at, getattr(tier, field)) for at, tier in named])
        for name, text, field in TIER_COUNTERS:
            yield self._family("counter", f"tier_{name}", text, [(at, getattr(tier, field)) for at, tier in named])
        yield self._family(
            "gauge",
            "tier_info",
            names.INFO,
            [({**at, "policy": tier.policy}, 1) for at, tier in named],
        )
        yield self._family(
            "counter", "tier_evictions", names.EVICTIONS,
            [
                ({**at, "reason": reason.value}, count)
                for at, tier in named
                for reason, count in tier.evictions_by_reason.items()
            ],
        )  # fmt: skip
        yield from self._health("tier", named)
        yield from self._detail("tier_backend", [(at, tier.backend) for at, tier in named if tier.backend is not None])

    def _shared(self, edge: EdgeStats) -> Iterator[Metric]:
        at = {"tier": edge.name}
        for name, text, field in SHARED_GAUGES:
            yield self._family("gauge", f"shared_{name}", text, [(at, getattr(edge, field))])
        for name, text, field in SHARED_COUNTERS:
            yield self._family("counter", f"shared_{name}", text, [(at, getattr(edge, field))])
        yield from self._health("shared", [(at, edge)])
        for name, text, field in ENGINE_GAUGES:
            yield self._family("gauge", f"shared_{name}", text, [(at, getattr(edge.backend, field, None))])
        yield from self._detail("shared_engine", [(at, edge.backend)] if edge.backend is not None else [])

    def _health(
        self, prefix: str, named: Sequence[tuple[Mapping[str, str], TierStats | EdgeStats]]
    ) -> Iterator[Metric]:
        """Breakers and latencies."""
        yield self._family(
            "gauge", f"{prefix}_breaker", names.BREAKER,
            [({**at, "state": state.value}, tier.breaker is state) for at, tier in named for state in BreakerState],
        )  # fmt: skip
        yield self._family(
            "counter", f"{prefix}_breaker_changes", names.BREAKER_CHANGES,
            [({**at, "state": state.value}, n) for at, tier in named for state, n in tier.breaker_changes.items()],
        )  # fmt: skip
        for verb in ("read", "write"):
            yield self._histogram(
                f"{prefix}_{verb}_seconds", names.SECONDS.format(verb),
                [(at, getattr(tier, f"{verb}_latency")) for at, tier in named],
            )  # fmt: skip

    def _detail(self, prefix: str, parts: Sequence[tuple[Mapping[str, str], BackendStats]]) -> Iterator[Metric]:
        """What a backend counts beyond the contract's own figures, under its own names."""
        for name in sorted({name for _, stats in parts for name in stats.detail}):
            samples = [(at, stats.detail[name]) for at, stats in parts if name in stats.detail]
            yield self._family("gauge", f"{prefix}_{_safe(name)}", names.DETAIL, samples)

    def _family(
        self, kind: str, name: str, text: str, samples: Sequence[tuple[Mapping[str, str], float | None]]
    ) -> Metric:
        """One metric; what is not known (None) has no sample."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = [*self._labels, *(samples[0][0] if samples else ())]
        family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
            f"lms_tiers_{name}", text, labels=labels
        )
        for at, value in samples:
            if value is not None:
                family.add_metric([*self._labels.values(), *at.values()], float(value))
        return family

    def _histogram(self, name: str, text: str, samples: Sequence[tuple[Mapping[str, str], Latency]]) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(f"lms_tiers_{name}", text, labels=[*self._labels, "tier"])
        bounds = (*(f"{bound:g}" for bound in LATENCY_BOUNDS), "+Inf")
        for at, latency in samples:
            buckets = list(zip(bounds, accumulate(latency.counts), strict=True))
            family.add_metric([*self._labels.values(), *at.values()], buckets, latency.seconds)
        return family


def require_prometheus() -> Any:
    """The module `prometheus_client`, or a `ConfigError` that says how to get it."""
    try:
        import prometheus_client
    except ImportError:
        raise ConfigError("metrics need prometheus-client: pip install 'lms-tiers[metrics]'.") from None
    return prometheus_client


def _checked(labels: Mapping[str, str]) -> Mapping[str, str]:
    for name in labels:
        if name in OWN_LABELS or name.startswith("__") or not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
            raise ConfigError(f"{name!r} cannot be a label of a store: use another word, as in {{'store': 'prompts'}}.")
    return {name: str(value) for name, value in labels.items()}


def _safe(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)
