"""Free pages of `data`: which runs there are, and which of them a chunk gets. Knows no file and no chunk.

Best fit with coalescing. `Extents` is a set of runs; `Room` has two of them: pages whose blocks the file has, and pages
that have none, because they were never written or were given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from sortedcontainers import SortedList

from lms_tiers.plugins.lmdb.layout import Extent


class Extents:
    """Runs of pages, none touching another."""

    def __init__(self, runs: Iterable[Extent] = ()) -> None:
        self._counts: Final[dict[int, int]] = {}  # first page -> pages
        self._begins: Final[dict[int, int]] = {}  # page after the last -> first page
        self._sizes: Final[Any] = SortedList()  # (pages, first page)
        self.pages = 0
        for start, count in runs:
            self.add(start, count)

    def __iter__(self) -> Iterator[Extent]:
        return iter(sorted(self._counts.items()))

    def add(self, start: int, count: int) -> None:
        """Put a run in; none of its pages is in."""
        self.pages += count
        begin = self._begins.get(start)
        if begin is not None:
            count += self._drop(begin)
            start = begin
        if start + count in self._counts:
            count += self._drop(start + count)
        self._insert(start, count)

    def take(self, count: int) -> Extent | None:
        """`count` pages from the front of the shortest run that has them; None where none has."""
        at = self._sizes.bisect_left((count, 0))
        return None if at == len(self._sizes) else self._front(self._sizes[at], count)

    def take_longest(self, most: int) -> Extent | None:
        """Up to `most` pages from the front of the longest run."""
        return self._front(self._sizes[-1], most) if self._sizes else None

    def mend(self) -> None:
        """After an interrupt. A page is let go of before anything else happens to it: none is here that is not free."""
        self._begins.clear()
        self._begins.update({start + count: start for start, count in self._counts.items()})
        self._sizes.clear()
        self._sizes.update((count, start) for start, count in self._counts.items())
        self.pages = sum(self._counts.values())

    def _front(self, run: tuple[int, int], most: int) -> Extent:
        whole, start = run
        count = min(whole, most)
        self._drop(start)
        if whole > count:
            self._insert(start + count, whole - count)
        self.pages -= count
        return start, count

    def _insert(self, start: int, count: int) -> None:
        self._counts[start] = count
        self._begins[start + count] = start
        self._sizes.add((count, start))

    def _drop(self, start: int) -> int:
        count = self._counts.pop(start)
        del self._begins[start + count]
        self._sizes.remove((count, start))
        return count


class Room:
    """The pages of one `data`: free ones with blocks, free ones without, and where it ends.

    Callers hold the store's lock.

    Parameters
    ----------
    free, hollow : iterable of Extent
        All pages before `end` that no chunk has.
    end : int
        Nothing was written from this page on.
    """

    def __init__(self, free: Iterable[Extent], hollow: Iterable[Extent], end: int) -> None:
        self.free: Final = Extents(free)
        self.hollow: Final = Extents(hollow)
        self.end = end

    def mend(self) -> None:
        """After an interrupt: what was just being moved may be missing."""
        self.free.mend()
        self.hollow.mend()

    @property
    def backed(self) -> int:
        """Pages with blocks, those of chunks and the head among them."""
        return self.end - self.hollow.pages

    def take(self, count: int, growth: int) -> list[Extent] | None:
        """`count` pages, in as few runs as there are; None where they are not there.

        Parameters
        ----------
        growth : int
            Pages that may get blocks for it.
        """
        run = self.free.take(count)
        if run is None and count <= growth:
            run = self._grow(count)
        if run is not None:
            return [run]
        if self.free.pages + max(0, growth) < count:
            return None
        taken: list[Extent] = []
        while count:
            piece = self.free.take_longest(count) or self._grow(count)
            taken.append(piece)
            count -= piece[1]
        return taken

    def _grow(self, count: int) -> Extent:
        run = self.hollow.take(count)
        if run is None:
            run = self.end, count
            self.end += count
        return run

    def give(self, extents: Iterable[Extent]) -> None:
        """Pages that have blocks are free again."""
        for start, count in extents:
            self.free.add(start, count)


def gaps(owned: Sequence[Extent], end: int) -> list[Extent]:
    """The runs of pages before `end` that are in none of `owned`."""
    runs = sorted([*owned, (end, 0)])
    return [(a + n, b - a - n) for (a, n), (b, _) in pairwise(runs) if b > a + n]
