"""Free pages: never handed out twice, never lost, in few pieces."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from lms_tiers.arena.pages import PageRuns, Run

PAGES = 40


def pages_of(runs: tuple[Run, ...]) -> list[int]:
    return [page for start, length in runs for page in range(start, start + length)]


class PageRunsAgainstASet(RuleBasedStateMachine):
    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.runs = PageRuns(PAGES)
        self.free = set(range(PAGES))

    @rule(target=taken, n=st.integers(0, 15))
    def take(self, n: int) -> object:
        got = self.runs.take(n)
        if n > len(self.free):
            assert got is None
            return multiple()
        assert got is not None
        pages = pages_of(got)
        assert len(pages) == len(set(pages)) == n
        assert set(pages) <= self.free
        if self.longest() >= n:
            assert len(got) <= 1, "a run that holds the chunk whole was there"
        self.free -= set(pages)
        return got

    @rule(runs=consumes(taken))
    def give(self, runs: tuple[Run, ...]) -> None:
        self.runs.give(runs)
        self.free |= set(pages_of(runs))

    def longest(self) -> int:
        longest = run = 0
        for page in range(PAGES + 1):
            run = run + 1 if page in self.free else 0
            longest = max(longest, run)
        return longest

    @invariant()
    def counts_agree(self) -> None:
        assert self.runs.free == len(self.free)
        pieces = sum(page in self.free and page - 1 not in self.free for page in range(PAGES))
        assert self.runs.runs == pieces, "neighbouring free runs are merged"


TestPageRunsAgainstASet = PageRunsAgainstASet.TestCase


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=30))
def test_runs_longer_than_the_bit_set_are_found_and_given_back(sizes: list[int]) -> None:
    runs = PageRuns(sum(sizes))
    taken = [runs.take(n) for n in sizes]
    assert runs.free == 0
    for got in taken:
        assert got is not None
        runs.give(got)
    assert (runs.free, runs.runs) == (sum(sizes), 1)


def test_the_shortest_run_that_fits_is_taken() -> None:
    runs = PageRuns(100)
    first, _, second, _ = (runs.take(n) for n in (10, 1, 4, 85))
    assert first is not None
    assert second is not None
    runs.give(first)
    runs.give(second)
    assert runs.take(3) == ((11, 3),)


def test_the_run_given_back_last_is_taken_first() -> None:
    runs = PageRuns(8)
    taken = [runs.take(2) for _ in range(4)]
    for i in (0, 2):
        runs.give(taken[i] or ())
    assert runs.take(2) == taken[2]


def test_pages_of_cut_up_arenas_still_make_a_chunk() -> None:
    runs = PageRuns(10)
    singles = [runs.take(1) for _ in range(10)]
    for single in singles[::2]:
        assert single is not None
        runs.give(single)
    got = runs.take(5)
    assert got is not None
    assert sorted(pages_of(got)) == [0, 2, 4, 6, 8]
    assert runs.take(1) is None


@pytest.mark.parametrize("page_bytes", [4096, 16384, 65536])
def test_a_chunk_of_two_mebibytes_wastes_at_most_five_percent(page_bytes: int) -> None:
    from lms_tiers.arena.arena import Arena

    arena = Arena("a", 16 << 20, page_bytes)
    for length in (2 << 20, (2 << 20) + 1, (2 << 20) - 1):
        taken = arena.pages_of(length) * page_bytes
        assert taken - length <= 0.05 * length
