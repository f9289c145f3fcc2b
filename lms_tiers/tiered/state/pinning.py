"""Pinning chunks that the index knows. Each function takes the lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lms_tiers.tiered.state.hierarchy import Hierarchy

#: Leases given or taken back in one go: it takes the lock.
_STEP: Final = 1024


def pin(hierarchy: Hierarchy, texts: Sequence[str], seconds: float) -> int:
    """Keep the leading `texts` that are present for `seconds`, 0 to let them go; answers how many."""
    h = hierarchy
    until = h.clock() + seconds
    with h.lock:
        for i, text in enumerate(texts):
            if not _present(h, text):
                return i
            if seconds > 0:
                h.pins.pin(text, until)
            else:
                h.pins.unpin(text)
        h.wake()
    return len(texts)


def pin_each(hierarchy: Hierarchy, texts: Sequence[str], seconds: float, holder: str) -> list[bool]:
    """Give `holder` a lease of each of `texts` that is present; answers which those are."""
    h = hierarchy
    now = h.clock()
    pinned: list[bool] = []
    for at in range(0, len(texts), _STEP):
        with h.lock:
            h.pins.expire(now)
            for text in texts[at : at + _STEP]:
                pinned.append(_present(h, text) and h.pins.lease(text, now + seconds, holder))
    return pinned


def unpin_each(hierarchy: Hierarchy, texts: Sequence[str], holder: str) -> list[bool]:
    """Take a lease of each of `texts` back from `holder`; answers of which there was one."""
    h = hierarchy
    given: list[bool] = []
    for at in range(0, len(texts), _STEP):
        with h.lock:
            h.pins.expire(h.clock())
            given += [h.pins.give_back(text, holder) for text in texts[at : at + _STEP]]
            h.wake()
    return given


def _present(h: Hierarchy, text: str) -> bool:
    entry = h.index.get(text)
    return entry is not None and bool(entry.tiers & h.up)
