"""The names and meanings of a store's metrics, and what always holds between its counters. Nothing here counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

#: Metric name, help text, and the field of the statistics that it shows.
Table = tuple[tuple[str, str, str], ...]

#: Fields of `TierStats`. Names are a promise: dashboards and alerts stand on them.
TIER_GAUGES: Final[Table] = (
    ("bytes", "Physical bytes held now, in-flight writes included.", "bytes_used"),
    ("capacity_bytes", "Physical bytes the tier may hold.", "capacity_bytes"),
    ("peak_bytes", "Most physical bytes ever held.", "peak_bytes"),
    ("keys", "Chunks held.", "keys"),
    ("queue_bytes", "Bytes waiting to be moved into the tier.", "queue_bytes"),
    ("queue_peak_bytes", "Most of them ever.", "queue_peak_bytes"),
    ("garbage_bytes", "Bytes waiting to be deleted from the tier.", "garbage_bytes"),
)
TIER_COUNTERS: Final[Table] = (
    ("hits", "Gets this tier answered.", "hits"),
    ("misses", "Gets that looked for a chunk which this tier did not hold.", "misses"),
    ("failures", "Backend calls that failed or answered nonsense.", "failures"),
    ("corrupt", "Chunks found damaged; each was a miss.", "corrupt"),
    ("drops", "Chunks lost because a tier below should have taken them and could not.", "drops"),
    ("promoted", "Chunks moved in from below.", "promoted"),
    ("demoted", "Chunks moved in from above.", "demoted"),
    ("promotions_skipped", "Hits not promoted: no room, or a full queue.", "promotions_skipped"),
    ("written_bytes", "Chunk bytes given to the backend.", "bytes_written"),
    ("read_bytes", "Chunk bytes taken from the backend.", "bytes_read"),
)
SHARED_GAUGES: Final[Table] = (
    ("unsent", "Puts and removals that are to be sent.", "unsent"),
    ("tombstones", "Keys not read there, as what it holds may be out of date; unsent ones included.", "tombstones"),
)
SHARED_COUNTERS: Final[Table] = (
    ("hits", "Gets it answered with a chunk.", "hits"),
    ("misses", "Gets it answered without one: absent, hidden, or not in time.", "misses"),
    ("lookups", "Keys asked for, present or not.", "lookups"),
    ("round_trips", "Calls of its backend.", "round_trips"),
    ("read_bytes", "Chunk bytes taken from it.", "bytes_read"),
    ("written_bytes", "Chunk bytes given to it.", "bytes_written"),
    ("sent", "Chunks stored there.", "sent"),
    ("removed", "Keys removed there.", "removed"),
    ("refused", "Chunks it did not take: too large, or it is full.", "refused"),
    ("dropped", "Chunks that left the private tiers before they were sent.", "dropped"),
    ("in_doubt", "Writes whose outcome is unknown; each is made again.", "in_doubt"),
    ("failures", "Calls that raised, or did not come back in time.", "failures"),
)
#: What a shared engine says of itself, of all its users together.
ENGINE_GAUGES: Final[Table] = (
    ("engine_keys", "Chunks it holds, as it says.", "keys"),
    ("engine_bytes", "Physical bytes it holds, as it says.", "bytes_used"),
)
STORE_GAUGES: Final[Table] = (
    ("keys", "Chunks held in private tiers, each counted once.", "keys"),
    ("bytes", "Physical bytes held now, all tiers together.", "bytes_used"),
    ("peak_bytes", "Most physical bytes ever held.", "bytes_peak"),
)
STORE_COUNTERS: Final[Table] = (
    ("written_bytes", "Chunk bytes given to the media.", "bytes_written"),
    ("read_bytes", "Chunk bytes taken from the media.", "bytes_read"),
    ("failures", "Operations a medium failed.", "failures"),
    ("corrupt", "Chunks found damaged; each was a miss.", "corrupt"),
    ("hits", "Gets answered with a chunk.", "hits"),
    ("misses", "Gets answered with none.", "misses"),
    ("puts", "Chunks put.", "puts"),
    ("events_lost", "Events dropped because the observer was too slow.", "events_lost"),
)
#: What is no plain field: kind and help text, of each tier and, where so marked, of a shared one.
INFO: Final = "1, with the policy in force."
EVICTIONS: Final = "Chunks that left to make room, by reason."
BREAKER: Final = "1 for the state the tier's circuit breaker is in, 0 for the others."
BREAKER_CHANGES: Final = "How often the breaker entered each state."
SECONDS: Final = "Seconds inside the backend per {}."
DETAIL: Final = "As the backend reports it."

#: What holds between counters whenever they are read, for a store of any tiers. A get counts once for each key.
IDENTITIES: Final = (
    "store_hits + store_misses = keys asked for by gets",
    "store_hits = tier_hits of all tiers + shared_hits",
    "tier_hits + tier_misses of the top tier = store_hits + store_misses",
    "tier_hits + tier_misses of a tier below = tier_misses of the one above",
    "shared_hits + shared_misses = tier_misses of the lowest tier",
    "tier_evictions of all reasons = chunks that left to make room",
    "tier_drops = tier_evictions for back-pressure + tier_evictions for breaker-open",
    "tier_bytes <= tier_peak_bytes <= tier_capacity_bytes",
)


def described() -> Iterator[tuple[str, str, str]]:
    """Every metric of a store as it is scraped: name, kind and help text."""
    for part, gauges, counters in (
        ("store", STORE_GAUGES, STORE_COUNTERS),
        ("tier", TIER_GAUGES, TIER_COUNTERS),
        ("shared", (*SHARED_GAUGES, *ENGINE_GAUGES), SHARED_COUNTERS),
    ):
        yield from ((f"lms_tiers_{part}_{name}", "gauge", text) for name, text, _ in gauges)
        yield from ((f"lms_tiers_{part}_{name}_total", "counter", text) for name, text, _ in counters)
        if part == "store":
            continue
        yield f"lms_tiers_{part}_breaker", "gauge", BREAKER
        yield f"lms_tiers_{part}_breaker_changes_total", "counter", BREAKER_CHANGES
        for verb in ("read", "write"):
            yield f"lms_tiers_{part}_{verb}_seconds", "histogram", SECONDS.format(verb)
    yield "lms_tiers_tier_info", "gauge", INFO
    yield "lms_tiers_tier_evictions_total", "counter", EVICTIONS
