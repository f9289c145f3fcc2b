"""Which pages of an arena are free: runs of neighbouring pages, best fit, merged again when given back.

Numbers only: no memory, no locks, no chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

#: The first page of a run and how many there are.
Run: TypeAlias = tuple[int, int]

#: Runs this long or longer share one bucket, so that the bit set of lengths stays small however large the arena.
_LONG: Final = 1 << 14


class PageRuns:
    """The free pages of an arena, as maximal runs.

    A chunk takes the shortest run that holds it whole, so a chunk is contiguous unless the arena is so cut up that no
    such run is left; then it takes the longest runs there are until it is covered, so a take of `n` pages fails only
    when fewer than `n` are free. Equal chunks that come and go reuse each other's runs exactly.

    Taking and giving back cost the same however many pages there are: a bit set of the lengths present finds the
    bucket, two dictionaries of ends find the neighbours to merge with.

    Parameters
    ----------
    pages : int
        Pages in the arena; all are free at first.
    """

    def __init__(self, pages: int) -> None:
        self.total: Final = pages
        self._clear()
        if pages:
            self._insert(0, pages)
            self.free = pages

    def _clear(self) -> None:
        self.free = 0
        self._length_at: dict[int, int] = {}  # first page → length
        self._start_before: dict[int, int] = {}  # page after the run → first page
        # Dictionaries serve as ordered sets: the run given back last, whose memory is warm, is taken first.
        self._buckets: dict[int, dict[int, None]] = {}
        self._lengths = 0  # bit n is set while a run of length n is free

    @property
    def runs(self) -> int:
        """How many pieces the free pages lie in."""
        return len(self._length_at)

    def take(self, pages: int) -> tuple[Run, ...] | None:
        """`pages` free pages, in as few runs as best fit finds, or None when fewer are free."""
        if pages > self.free:
            return None
        self.free -= pages
        taken: list[Run] = []
        while pages:
            start, length = self._pop(pages)
            if length > pages:
                self._insert(start + pages, length - pages)
                length = pages
            taken.append((start, length))
            pages -= length
        return tuple(taken)

    def give(self, runs: Iterable[Run]) -> None:
        """Take back runs that `take` handed out, each once."""
        for start, length in runs:
            self.free += length
            end = start + length
            if (after := self._length_at.get(end)) is not None:
                self._delete(end, after)
                end += after
            if (before := self._start_before.get(start)) is not None:
                self._delete(before, start - before)
                start = before
            self._insert(start, end - start)

    def rebuild(self, taken: Iterable[Run]) -> None:
        """Make all pages free but those `taken`, each of them once."""
        self._clear()
        at = 0
        for start, length in [*sorted(taken), (self.total, 0)]:
            if start > at:
                self._insert(at, start - at)
                self.free += start - at
            at = start + length

    def _pop(self, pages: int) -> Run:
        """Take a run out whole: the shortest that holds `pages`, else the longest. Some page must be free."""
        fitting = self._lengths >> min(pages, _LONG)
        if fitting:
            bucket = min(pages, _LONG) + (fitting & -fitting).bit_length() - 1
        else:
            bucket = self._lengths.bit_length() - 1
        start = next(reversed(self._buckets[bucket]))
        length = self._length_at[start]
        self._delete(start, length)
        return start, length

    def _insert(self, start: int, length: int) -> None:
        self._length_at[start] = length
        self._start_before[start + length] = start
        bucket = min(length, _LONG)
        self._buckets.setdefault(bucket, {})[start] = None
        self._lengths |= 1 << bucket

    def _delete(self, start: int, length: int) -> None:
        del self._length_at[start], self._start_before[start + length]
        bucket = min(length, _LONG)
        starts = self._buckets[bucket]
        del starts[start]
        if not starts:
            del self._buckets[bucket]
            self._lengths &= ~(1 << bucket)
