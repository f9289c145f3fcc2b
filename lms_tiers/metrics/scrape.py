"""Reading a metrics port: what `lms-tiers stats` shows, and rates between two readings."""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.metrics.collector import OWN_LABELS, require_prometheus

_SECONDS: Final = 10.0

#: Figures that are sizes, not counters.
_SIZES: Final = frozenset({
    "bytes", "capacity_bytes", "peak_bytes", "keys", "queue_bytes", "queue_peak_bytes", "garbage_bytes",
    "unsent", "tombstones", "engine_keys", "engine_bytes",
})  # fmt: skip


@dataclass(slots=True)
class TierReading:
    """One tier at one moment: counters since its store was opened, sizes in bytes, quantiles in seconds.

    Of a tier that is shared with others: what crossed the edge to it. It has no policy, capacity or evictions here.

    Attributes
    ----------
    evictions : dict of str to int
        By reason.
    read_buckets, write_buckets : dict of float to float
        Cumulative counts of backend calls by upper bound in seconds.
    """

    name: str
    policy: str = ""
    breaker: str = "closed"
    figures: dict[str, float] = field(default_factory=dict)
    evictions: dict[str, int] = field(default_factory=dict)
    read_buckets: dict[float, float] = field(default_factory=dict)
    write_buckets: dict[float, float] = field(default_factory=dict)

    @property
    def over_capacity(self) -> bool:
        """Whether it holds more than it may."""
        capacity = self.figures.get("capacity_bytes")
        return capacity is not None and self.figures.get("bytes", 0) > capacity

    def document(self) -> dict[str, Any]:
        """For JSON: figures flat, quantiles in place of buckets."""
        document: dict[str, Any] = {"name": self.name, "breaker": self.breaker, **self.figures}
        if self.policy:
            document |= {"policy": self.policy, "evictions": self.evictions}
        for verb, buckets in (("read", self.read_buckets), ("write", self.write_buckets)):
            document |= {f"{verb}_p50_seconds": quantile(buckets, 0.5), f"{verb}_p99_seconds": quantile(buckets, 0.99)}
        return document


@dataclass(slots=True)
class Reading:
    """Everything a metrics port says at one moment.

    Attributes
    ----------
    time : float
        Seconds since the epoch.
    stores : dict of str to dict
        Figures of each store; its name is made of the labels its collector was given, ``""`` without any.
    tiers : dict of str to list of TierReading
        By store, fastest first.
    shared : dict of str to TierReading
        The tier that a store shares with others, by store.
    server : dict of str to float
        Connections and events of an lm:// server, empty where there is none.
    """

    time: float
    stores: dict[str, dict[str, float]] = field(default_factory=dict)
    tiers: dict[str, list[TierReading]] = field(default_factory=dict)
    shared: dict[str, TierReading] = field(default_factory=dict)
    server: dict[str, float] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """No tier is switched off or over its capacity."""
        every = [*self.shared.values(), *(tier for tiers in self.tiers.values() for tier in tiers)]
        return all(tier.breaker == "closed" and not tier.over_capacity for tier in every)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        document = asdict(self)
        document["tiers"] = {store: [tier.document() for tier in tiers] for store, tiers in self.tiers.items()}
        document["shared"] = {store: edge.document() for store, edge in self.shared.items()}
        return {**document, "healthy": self.healthy}


def scrape(url: str) -> Reading:
    """Read the metrics at `url`: a URL, or ``host:port``. No proxy of the environment is asked: a metrics port is near.

    Raises
    ------
    ConfigError
        Not an address, or `prometheus-client` is not installed.
    StorageUnavailableError
        Nobody answers there, or not with metrics of this project.
    """
    require_prometheus()
    from prometheus_client.parser import text_string_to_metric_families

    address = url if "://" in url else f"http://{url}/metrics"
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is not the address of a metrics port: give HOST:PORT or http://HOST:PORT/metrics.")
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(address, timeout=_SECONDS) as answer:
            text = answer.read().decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise StorageUnavailableError(address, f"no metrics could be read: {reason}.") from error
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        raise StorageUnavailableError(address, "what it answers is not Prometheus text: name /metrics.") from error
    reading = Reading(time.time())
    for family in families:
        for sample in family.samples:
            _take(reading, sample.name, dict(sample.labels), float(sample.value))
    if not reading.stores:
        raise StorageUnavailableError(address, "no metrics of a store are among what it answers.")
    return reading


def _take(reading: Reading, name: str, labels: dict[str, str], value: float) -> None:
    name = name.removesuffix("_total")
    if name.startswith("lms_tiers_server_"):
        if "le" not in labels and "version" not in labels:
            event = labels.get("event") or labels.get("command")
            short = name.removeprefix("lms_tiers_server_")
            reading.server[f"{short}.{event}" if event else short] = value
        return
    store = ",".join(f"{key}={text}" for key, text in labels.items() if key not in OWN_LABELS)
    if name.startswith("lms_tiers_store_"):
        reading.stores.setdefault(store, {})[name.removeprefix("lms_tiers_store_")] = value
    elif name.startswith("lms_tiers_tier_"):
        _take_tier(_tier(reading, store, labels["tier"]), name.removeprefix("lms_tiers_tier_"), labels, value)
    elif name.startswith("lms_tiers_shared_"):
        edge = reading.shared.setdefault(store, TierReading(labels["tier"]))
        _take_tier(edge, name.removeprefix("lms_tiers_shared_"), labels, value)


def _tier(reading: Reading, store: str, name: str) -> TierReading:
    tiers = reading.tiers.setdefault(store, [])
    for tier in tiers:
        if tier.name == name:
            return tier
    tiers.append(TierReading(name))
    return tiers[-1]


def _take_tier(tier: TierReading, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "info":
        tier.policy = labels["policy"]
    elif name == "breaker":
        if value:
            tier.breaker = labels["state"]
    elif name == "evictions":
        tier.evictions[labels["reason"]] = int(value)
    elif name == "breaker_changes":
        tier.figures[f"breaker_{labels['state'].replace('-', '_')}"] = value
    elif name in ("read_seconds_bucket", "write_seconds_bucket"):
        buckets = tier.read_buckets if name.startswith("read") else tier.write_buckets
        buckets[float(labels["le"])] = value
    else:
        tier.figures[name] = value


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Upper bound of the bucket that holds quantile `q` of cumulative `buckets`; None without a call."""
    total = max(buckets.values(), default=0.0)
    if not total:
        return None
    return min(bound for bound, count in buckets.items() if count >= q * total)


def between(before: TierReading, now: TierReading) -> TierReading:
    """What happened from one reading of a tier to the next: counters and buckets as differences, sizes as now."""
    return TierReading(
        now.name,
        now.policy,
        now.breaker,
        {k: v if k in _SIZES else v - before.figures.get(k, 0) for k, v in now.figures.items()},
        {k: v - before.evictions.get(k, 0) for k, v in now.evictions.items()},
        {k: v - before.read_buckets.get(k, 0) for k, v in now.read_buckets.items()},
        {k: v - before.write_buckets.get(k, 0) for k, v in now.write_buckets.items()},
    )
