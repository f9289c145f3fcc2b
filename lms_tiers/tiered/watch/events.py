"""What tiers report: typed events, handed in batches to the `tier_events` hook off the data path."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class EventKind(enum.Enum):
    """What happened."""

    STORED = "stored"
    DEMOTED = "demoted"
    PROMOTED = "promoted"
    EVICTED = "evicted"
    DROPPED = "dropped"
    REMOVED = "removed"
    #: The last copy has left: no tier holds the key any more. Once for each time that it was there.
    GONE = "gone"
    FAILED = "failed"
    STATE = "state"


class EventReason(enum.Enum):
    """Why it happened."""

    REQUEST = "request"
    CAPACITY = "capacity"
    CLEANED = "cleaned"
    STALE = "stale"
    NOT_ADMITTED = "not-admitted"
    BACK_PRESSURE = "back-pressure"
    IO_ERROR = "io-error"
    CORRUPT = "corrupt"
    BREAKER_OPEN = "breaker-open"
    BREAKER_HALF_OPEN = "breaker-half-open"
    BREAKER_CLOSED = "breaker-closed"
    POLICY_FAULT = "policy-fault"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class TierEvent:
    """One event; `time` is seconds since the epoch, `nbytes` the chunk's physical bytes in that tier.

    GONE is of no tier (``""``, 0 bytes), STATE of no key.
    """

    kind: EventKind
    reason: EventReason
    tier: str
    key: str
    nbytes: int
    time: float
