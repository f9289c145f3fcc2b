"""What the server counts: events by name, and how long requests took. One lock, a fraction of a microsecond."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import Final

#: Upper bounds of the latency buckets, seconds.
BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Counters:
    """Counts of one server since it started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._bytes_in = self._bytes_out = 0
        self._commands: dict[str, _Command] = {}

    def add(self, event: str, by: int = 1) -> None:
        """Count `event`."""
        with self._lock:
            self._events[event] += by

    def request(self, command: str, seconds: float, bytes_in: int, bytes_out: int, event: str | None = None) -> None:
        """Count one request served, and an event with it."""
        bucket = bisect_left(BUCKETS, seconds)
        with self._lock:
            counted = self._commands.get(command)
            if counted is None:
                counted = self._commands[command] = _Command()
            counted.buckets[bucket] += 1
            counted.seconds += seconds
            if event:
                self._events[event] += 1
            self._bytes_in += bytes_in
            self._bytes_out += bytes_out

    def __getitem__(self, event: str) -> int:
        return self.events().get(event, 0)

    def events(self) -> dict[str, int]:
        """A copy of the events counted."""
        with self._lock:
            moved = {"bytes_in": self._bytes_in, "bytes_out": self._bytes_out} if self._commands else {}
            return {**self._events, **moved}

    def latency(self) -> dict[str, tuple[list[int], float]]:
        """By command: how many requests fell into each bucket (the last one is above all bounds), and their seconds."""
        with self._lock:
            return {name: (list(it.buckets), it.seconds) for name, it in self._commands.items()}


class _Command:
    """What is counted of one command."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
