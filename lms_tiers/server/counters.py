"""What the server counts: events by name, and how long requests took. One lock, a fraction of a microsecond."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from typing import Final

#: Upper bounds of the latency buckets, seconds.
BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Counters:
    """Counts of one server since it started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._latency: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def add(self, event: str, by: int = 1) -> None:
        """Count `event`."""
        with self._lock:
            self._events[event] += by

    def request(self, command: str, seconds: float, bytes_in: int, bytes_out: int, event: str | None = None) -> None:
        """Count one request served, and an event with it."""
        with self._lock:
            buckets = self._latency.get(command)
            if buckets is None:
                buckets = self._latency[command] = [0] * (len(BUCKETS) + 1)
            buckets[bisect.bisect_left(BUCKETS, seconds)] += 1
            self._seconds[command] += seconds  # type: ignore[assignment]  # Counter holds floats as well
            if event:
                self._events[event] += 1
            self._events["bytes_in"] += bytes_in
            self._events["bytes_out"] += bytes_out

    def __getitem__(self, event: str) -> int:
        return self._events[event]

    def events(self) -> dict[str, int]:
        """A copy of the events counted."""
        with self._lock:
            return dict(self._events)

    def latency(self) -> dict[str, tuple[list[int], float]]:
        """By command: how many requests fell into each bucket (the last one is above all bounds), and their seconds."""
        with self._lock:
            return {name: (list(counts), float(self._seconds[name])) for name, counts in self._latency.items()}
