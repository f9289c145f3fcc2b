"""Which chunks may not be evicted, and until when: a heap by the end of the lease, so that nobody walks them all."""

from __future__ import annotations

import heapq
from typing import Final

#: Pinned chunks that may be in the way each time victims are chosen.
IN_THE_WAY: Final = 32

#: Outdated records in the heap, beyond one a pin, that are worth making it anew.
_OUTDATED: Final = 1024


class Pins:
    """Leases of keys. The caller holds the store's lock.

    Examples
    --------
    >>> pins = Pins()
    >>> pins.pin("a", 10.0)
    >>> pins.expire(9.0)
    >>> "a" in pins
    True
    >>> pins.expire(10.0)
    >>> "a" in pins, len(pins)
    (False, 0)
    """

    __slots__ = ("_ends", "_until")

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []  # what it says of a key holds if `_until` says so too

    def pin(self, text: str, until: float) -> None:
        """`text` is pinned until then, whatever was said before."""
        self._until[text] = until
        heapq.heappush(self._ends, (until, text))
        if len(self._ends) > 2 * len(self._until) + _OUTDATED:
            self.sort()

    def sort(self) -> None:
        """Make the heap anew, of what is pinned now."""
        ends = [(end, key) for key, end in self._until.items()]
        heapq.heapify(ends)
        self._ends = ends

    def unpin(self, text: str) -> None:
        """`text` is pinned no more."""
        self._until.pop(text, None)

    def expire(self, now: float) -> None:
        """End the leases that last until `now` or less."""
        ends, pinned = self._ends, self._until
        while ends and ends[0][0] <= now:
            until, text = heapq.heappop(ends)
            if pinned.get(text) == until:
                del pinned[text]

    def __contains__(self, text: object) -> bool:
        return text in self._until

    def __len__(self) -> int:
        return len(self._until)
