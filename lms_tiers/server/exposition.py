"""The server's metrics as Prometheus text (format 0.0.4), and the backend's numbers whatever backend it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from lms_tiers import __version__
from lms_tiers.errors import LmsTiersError
from lms_tiers.server.counters import BUCKETS
from lms_tiers.server.server import Server

_PREFIX: Final = "lms_tiers_server"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(server: Server) -> str:
    """Everything the server and its backend count, as text."""
    return "\n".join((*_server(server), *_backend(server), ""))


def _server(server: Server) -> Iterator[str]:
    budget = server.budget
    yield from _metric(f"{_PREFIX}_info", "gauge", "Version of the server.", [({"version": __version__}, 1)])
    gauges = {
        "connections": ("Connections open.", server.connections),
        "accepting": ("1 while new connections are taken.", int(server.accepting)),
        "receive_budget_bytes": ("Most bytes of chunks that may be on their way in.", budget.limit),
        "receive_bytes": ("Bytes of chunks on their way in.", budget.used),
        "receive_peak_bytes": ("Most of them ever.", budget.peak),
        "receive_waiting": ("Connections held back by the receive budget.", budget.waiting),
    }
    for name, (text, value) in gauges.items():
        yield from _metric(f"{_PREFIX}_{name}", "gauge", text, [({}, value)])
    events = sorted(server.counters.events().items())
    name = f"{_PREFIX}_events_total"
    yield from _metric(name, "counter", "What happened, by event.", [({"event": e}, n) for e, n in events])
    yield from _latency(server)


def _latency(server: Server) -> Iterator[str]:
    name = f"{_PREFIX}_request_seconds"
    yield f"# HELP {name} Seconds from a request's header to the end of its answer."
    yield f"# TYPE {name} histogram"
    for command, (counts, seconds) in sorted(server.counters.latency().items()):
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            total += count
            yield _line(f"{name}_bucket", {"command": command, "le": bound}, total)
        yield _line(f"{name}_sum", {"command": command}, seconds)
        yield _line(f"{name}_count", {"command": command}, total)


def _backend(server: Server) -> Iterator[str]:
    try:
        stats = server.backend.stats()
    except LmsTiersError:
        # The storage is closing: its numbers are gone, the server's own are not.
        return
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    _flatten(stats, "lms_tiers_backend", {}, samples)
    for name, values in samples.items():
        yield from _metric(name, "gauge", "As the backend reports it.", values)


def _flatten(
    stats: Any, prefix: str, labels: dict[str, str], samples: dict[str, list[tuple[dict[str, str], float]]]
) -> None:
    """Numbers by field name; a sequence of named parts becomes a label, a mapping of numbers one metric each."""
    for field in dataclasses.fields(stats):
        value = getattr(stats, field.name)
        name = f"{prefix}_{field.name}"
        if isinstance(value, bool | int | float):
            samples.setdefault(name, []).append((labels, float(value)))
        elif isinstance(value, Mapping):
            for key, number in value.items():
                samples.setdefault(f"{prefix}_{_name(key)}", []).append((labels, float(number)))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for part in value:
                if dataclasses.is_dataclass(part) and hasattr(part, "name"):
                    kind = field.name.removesuffix("s")
                    _flatten(part, f"{prefix}_{kind}", {**labels, kind: str(part.name)}, samples)


def _name(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)


def _metric(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield _line(name, labels, value)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value:.17g}" if inner else f"{name} {value:.17g}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
