"""Pinning chunks that the index knows."""

from __future__ import annotations

from collections.abc import Sequence

from lms_tiers.tiered.state.hierarchy import Hierarchy


def pin(hierarchy: Hierarchy, texts: Sequence[str], seconds: float) -> int:
    """Keep the leading `texts` that are present for `seconds`, 0 to let them go; answers how many. Takes the lock."""
    h = hierarchy
    until = h.clock() + seconds
    with h.lock:
        for i, text in enumerate(texts):
            entry = h.index.get(text)
            if entry is None or not entry.tiers & h.up:
                return i
            if seconds > 0:
                h.pins.pin(text, until)
            else:
                h.pins.unpin(text)
        h.wake()
    return len(texts)
