"""What a store says of one chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lms_tiers.interface import ChunkInfo


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
