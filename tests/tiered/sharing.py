"""Stores over one shared engine: what tests of them need besides the fixtures `engine` and `host`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lms_conformance.shared import SharedEngine, SharedReference

from lms_tiers.tiered.store import TieredStore

#: Of the engine.
NAME = "sharing"


def edge(store: TieredStore) -> Any:
    found = store.stats().shared
    assert found is not None
    return found


def trips(engine: SharedEngine, call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call answers, and how often it asked the engine."""
    before = engine.round_trips
    answer = call()
    return answer, engine.round_trips - before


class Held(SharedReference):
    """Waits in a read until it is let go, and counts the reads."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.inside = threading.Semaphore(0)
        self.go = threading.Event()
        self.reads = 0

    def get_many(self, keys: Any) -> Any:
        found = super().get_many(keys)
        self.reads += 1
        self.inside.release()
        assert self.go.wait(60)
        return found
