"""What a store reports of itself and of chunks: typed, frozen. Counting is done where things happen, with the lock."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lms_tiers.interface import BackendStats, ChunkInfo
from lms_tiers.tiered.watch.events import EventReason

#: Upper bounds of the latency buckets in seconds: powers of two from 1.024 µs; the last bucket has none.
LATENCY_BOUNDS: Final = tuple((1 << (10 + i)) / 1e9 for i in range(26))


class BreakerState(enum.Enum):
    """Whether a tier takes part."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Latency:
    """A histogram of how long a backend's calls took.

    Attributes
    ----------
    counts : tuple of int
        Calls per bucket; bucket i holds those of at most ``LATENCY_BOUNDS[i]`` seconds, the last one the rest.
    seconds : float
        Sum over all calls.
    """

    counts: tuple[int, ...]
    seconds: float

    @property
    def count(self) -> int:
        """Calls counted."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """Upper bound in seconds of the bucket that holds quantile `q`; 0.0 without any call."""
        rank = q * self.count
        seen = 0
        for bound, n in zip((*LATENCY_BOUNDS, float("inf")), self.counts, strict=True):
            seen += n
            if n and seen >= rank:
                return bound
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """One tier since the store was opened.

    Attributes
    ----------
    name, policy : str
        The policy is the one in force: ``lru`` after the configured one broke its contract.
    capacity_bytes : int or None
        Physical bytes the tier may hold.
    bytes_used, peak_bytes : int
        Physical bytes held now and at most, in-flight writes included; of a backend that knows better (the size of a
        file on disk), its own figures.
    keys : int
    hits, misses : int
        Gets this tier answered; gets that looked for a chunk which this tier did not hold.
    failures : int
        Backend calls that raised, answered nothing for a chunk held, or answered wrong lengths.
    corrupt : int
        Chunks found damaged, here or by the backend; each was a miss.
    evictions : int
        Chunks that left to make room: dropped here with a copy below, or evicted from the store.
    evictions_by_reason : mapping of EventReason to int
        They sum up to `evictions`: cleaned (a copy lies below), capacity (nowhere to go), not-admitted (the tiers below
        did not want it), back-pressure and breaker-open (the drops).
    drops : int
        Chunks lost to make room although a tier below should have taken them (it was too slow or switched off).
    promoted, demoted : int
        Chunks moved into this tier from below, and from above.
    promotions_skipped : int
        Hits not promoted: the queue was full, or there was no room without waiting.
    bytes_written, bytes_read : int
        Chunk bytes to and from the backend.
    queue_bytes, queue_peak_bytes, garbage_bytes : int
        Waiting to be moved into this tier; waiting to be deleted from it.
    breaker : BreakerState
    breaker_changes : mapping of BreakerState to int
        How often the breaker entered each state.
    """

    name: str
    policy: str
    capacity_bytes: int | None
    bytes_used: int
    peak_bytes: int
    keys: int
    hits: int
    misses: int
    failures: int
    corrupt: int
    evictions: int
    evictions_by_reason: Mapping[EventReason, int]
    drops: int
    promoted: int
    demoted: int
    promotions_skipped: int
    bytes_written: int
    bytes_read: int
    queue_bytes: int
    queue_peak_bytes: int
    garbage_bytes: int
    breaker: BreakerState
    breaker_changes: Mapping[BreakerState, int]
    read_latency: Latency
    write_latency: Latency
    backend: BackendStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeStats:
    """The edge to a tier that is shared with others, since the store was opened: what this store did there.

    Attributes
    ----------
    name : str
    hits, misses : int
        Gets that it answered with a chunk, and without one: absent, hidden by a tombstone, not reachable in time.
    lookups : int
        Keys asked for, present or not.
    round_trips : int
        Calls of the backend.
    bytes_read, bytes_written : int
        Chunk bytes.
    sent, removed : int
        Chunks stored and keys removed there.
    refused : int
        Chunks the tier did not take: too large, or it is full.
    dropped : int
        Chunks that left the private tiers before they were sent.
    in_doubt : int
        Writes whose outcome is unknown; each is made again.
    failures : int
        Calls that raised, or did not come back in time.
    unsent : int
        Changes that are to be sent.
    tombstones : int
        Keys that are not read there, as what it holds may be out of date; those to be sent included.
    breaker : BreakerState
    breaker_changes : mapping of BreakerState to int
    backend : BackendStats or None
        The engine's own figures, where it tells them.
    """

    name: str
    hits: int
    misses: int
    lookups: int
    round_trips: int
    bytes_read: int
    bytes_written: int
    sent: int
    removed: int
    refused: int
    dropped: int
    in_doubt: int
    failures: int
    unsent: int
    tombstones: int
    breaker: BreakerState
    breaker_changes: Mapping[BreakerState, int]
    read_latency: Latency
    write_latency: Latency
    backend: BackendStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats(BackendStats):
    """A whole store since it was opened: the sums, and each tier.

    `keys` is None where a tier is shared with others: what that holds is not known.

    Attributes
    ----------
    private_keys : int
        Chunks in the tiers that are the store's own, each counted once.
    hits, misses : int
        Gets answered with a chunk, and with None.
    events_lost : int
        Events dropped because the observer was too slow.
    shared : EdgeStats or None
        The tier below them that is shared with others.
    """

    tiers: Sequence[TierStats] = ()
    private_keys: int = 0
    hits: int = 0
    misses: int = 0
    puts: int = 0
    events_lost: int = 0
    shared: EdgeStats | None = None


@dataclass(frozen=True, slots=True)
class StoredChunk(ChunkInfo):
    """A chunk as `TieredStore.info` and `scan` describe it; `stored_bytes` is the sum over the tiers.

    Attributes
    ----------
    tiers : mapping of str to int
        Physical bytes of it in each tier that holds it, fastest first.
    pinned_until : float or None
        When the last lease ends, by the store's clock (`time.monotonic`); None where it is not pinned.
    """

    tiers: Mapping[str, int]
    pinned_until: float | None
