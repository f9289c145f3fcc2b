"""What a tier counts, as vLLM's metrics: names, what they mean, and the difference since they were taken last."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from lms_tiers.interface import BackendStats

_PREFIX: Final = "vllm:kv_offload_lms_"
LABEL: Final = "tier"

#: Counters of the door.
COUNTERS: Final = {
    "loaded_chunks": "Chunks loaded into the primary tier.",
    "failed_load_chunks": "Chunks that a load did not find or could not read; each is computed again.",
    "stored_chunks": "Chunks stored, or held already.",
    "failed_store_chunks": "Chunks that the store did not take.",
    "late_lookups": "Lookups that the store did not answer in time; each is a miss.",
    "foreign_chunks": "Chunks of another run found under a key of this one; each is a miss.",
    "corrupt_chunks": "Chunks found damaged; each is a miss.",
    "events_lost": "Changes that the store could not tell of: what routers believe of this tier may be out of date.",
}
#: States of the store and the door.
GAUGES: Final = {
    "used_bytes": "Physical bytes that the store holds in all its tiers.",
    "chunks": "Chunks that the store holds, of all runs.",
    "waiting_parts": "Parts of transfers that wait for a thread.",
    "moving_parts": "Parts of transfers under way.",
}


def named(name: str) -> str:
    """The metric of that name."""
    return _PREFIX + name


class Figures:
    """Counters that grow, and states; `take` hands over what is new."""

    def __init__(self, tier: str) -> None:
        self._tier: Final = (tier,)
        self._counted: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._states: dict[str, float] = {}
        self._told_states: dict[str, float] = {}

    def count(self, name: str, by: int) -> None:
        """A counter has grown."""
        self._counted[name] += by

    def stands(self, name: str, total: int) -> None:
        """A counter stands at `total`."""
        self._counted[name] = max(total, self._counted[name])

    def state(self, name: str, value: float) -> None:
        """A state is `value`."""
        self._states[name] = value

    def of_store(self, stats: BackendStats) -> None:
        """Take over what the store counts."""
        self.stands("corrupt_chunks", stats.corrupt)
        self.stands("events_lost", getattr(stats, "events_lost", 0))
        if stats.bytes_used is not None:
            self.state("used_bytes", stats.bytes_used)
        chunks = getattr(stats, "private_keys", stats.keys)
        if chunks is not None:
            self.state("chunks", chunks)

    def take(self, record: Any) -> Any | None:
        """Write what is new into `record`; None where nothing is."""
        counted, states = self._counted.copy(), dict(self._states)
        grown = {name: total - self._told[name] for name, total in counted.items() if total > self._told[name]}
        changed = {name: value for name, value in states.items() if self._told_states.get(name) != value}
        self._told, self._told_states = counted, states
        for name, by in grown.items():
            record.increase_counter(named(name), by, self._tier)
        for name, value in changed.items():
            record.set_gauge(named(name), value, self._tier)
        return record if grown or changed else None
