"""What the server counts, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from lms_tiers import __version__
from lms_tiers.metrics.collector import StoreCollector
from lms_tiers.metrics.port import MetricsPort
from lms_tiers.server.counters import BUCKETS
from lms_tiers.server.server import Server

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_PREFIX: Final = "lms_tiers_server"

_GAUGES: Final = (
    ("connections", "Connections open."),
    ("accepting", "1 while new connections are taken."),
    ("receive_budget_bytes", "Most bytes of chunks that may be on their way in."),
    ("receive_bytes", "Bytes of chunks on their way in."),
    ("receive_peak_bytes", "Most of them ever."),
    ("receive_waiting", "Connections held back by the receive budget."),
)
_INFO: Final = "1, with the version of the server."
_EVENTS: Final = "What happened, by event."
_SECONDS: Final = "Seconds from request header to end of answer."


def described() -> Iterator[tuple[str, str, str]]:
    """Every metric of a server beside those of its storage: name, kind and help text."""
    yield from ((f"{_PREFIX}_{name}", "gauge", text) for name, text in _GAUGES)
    yield f"{_PREFIX}_info", "gauge", _INFO
    yield f"{_PREFIX}_events_total", "counter", _EVENTS
    yield f"{_PREFIX}_request_seconds", "histogram", _SECONDS


class ServerCollector:
    """Collects one server's counters whenever it is scraped; needs `prometheus-client`."""

    def __init__(self, server: Server) -> None:
        self._server: Final = server

    def collect(self) -> Iterator[Metric]:
        """Every metric now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        server, budget = self._server, self._server.budget
        info = GaugeMetricFamily(f"{_PREFIX}_info", _INFO, labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        values = (
            server.connections, server.accepting, budget.limit, budget.used, budget.peak, budget.waiting,
        )  # fmt: skip
        for (name, text), value in zip(_GAUGES, values, strict=True):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=float(value))
        events = CounterMetricFamily(f"{_PREFIX}_events", _EVENTS, labels=["event"])
        for event, count in sorted(server.counters.events().items()):
            events.add_metric([event], count)
        yield events
        latency = HistogramMetricFamily(
            f"{_PREFIX}_request_seconds",
            _SECONDS,
            labels=["command"],
        )
        for command, (counts, seconds) in sorted(server.counters.latency().items()):
            buckets = list(zip((*map(str, BUCKETS), "+Inf"), accumulate(counts), strict=True))
            latency.add_metric([command], buckets, seconds)
        yield latency


def metrics_port(server: Server, host: str, port: int) -> MetricsPort:
    """A port that serves the metrics of `server` and its storage, and tells whether it takes requests."""
    return MetricsPort([ServerCollector(server), StoreCollector(server.backend)], host, port, lambda: server.accepting)
