"""Free pages against a model: no page is in two places, none is lost, and a chunk lies in one run where there is one."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lms_tiers.plugins.lmdb.extents import Extents, Room

PAGES = 64


def pages_of(runs: object) -> list[int]:
    return [page for start, count in runs for page in range(start, start + count)]  # type: ignore[attr-defined]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_page_is_given_twice_and_none_is_lost(data: st.DataObject) -> None:
    room = Room([(1, PAGES - 1)], [], PAGES)
    chunks: list[list[tuple[int, int]]] = []
    for _ in range(data.draw(st.integers(1, 40))):
        kind = data.draw(st.sampled_from(["take", "give", "punch"]))
        if kind == "take":
            count, growth = data.draw(st.integers(1, 24)), data.draw(st.integers(0, 8))
            free, backed = room.free.pages, room.backed
            longest = max((count for _, count in room.free), default=0)
            taken = room.take(count, growth)
            if taken is None:
                assert free + growth < count
                continue
            assert sum(n for _, n in taken) == count
            assert len(taken) == 1 or longest < count
            assert 0 <= room.backed - backed <= growth
            chunks.append(taken)
        elif kind == "give" and chunks:
            room.give(chunks.pop(data.draw(st.integers(0, len(chunks) - 1))))
        elif kind == "punch":
            run = room.free.take_longest(data.draw(st.integers(1, 16)))
            if run is not None:
                room.hollow.add(*run)
        everywhere = pages_of(room.free) + pages_of(room.hollow) + [p for taken in chunks for p in pages_of(taken)]
        assert sorted(everywhere) == list(range(1, room.end))
        for runs in (room.free, room.hollow):
            assert all(a[0] + a[1] < b[0] for a, b in pairwise(runs)), "neighbours are one run"
        assert room.free.pages == len(pages_of(room.free))
        assert room.backed == 1 + room.free.pages + sum(len(pages_of(taken)) for taken in chunks)


def test_the_shortest_run_that_is_long_enough_is_taken_from() -> None:
    free = Extents([(10, 5), (20, 9), (40, 7)])
    assert free.take(6) == (40, 6)
    assert free.take(6) == (20, 6)
    assert free.take(6) is None
    assert list(free) == [(10, 5), (26, 3), (46, 1)]


@pytest.mark.parametrize(("live", "most"), [(0.90, 1.02), (0.95, 1.05)])
def test_churn_does_not_wear_it_out(live: float, most: float) -> None:
    """Chunks of 0.5 to 2.5 MiB in 6 GiB, victims at random, twice the capacity written: about one extent a chunk."""
    draw = random.Random(5)
    capacity = (6 << 30) >> 12
    room = Room([], [], 1)
    chunks: list[list[tuple[int, int]]] = []
    held = written = taken_by_late = late = 0
    while written < 2 * capacity:
        count = draw.randrange(128, 640)
        while held + count > capacity * live:
            victim = chunks.pop(draw.randrange(len(chunks)))
            held -= sum(n for _, n in victim)
            room.give(victim)
        taken = room.take(count, capacity - room.backed)
        assert taken is not None
        chunks.append(taken)
        held += count
        written += count
        if written > capacity:
            late += 1
            taken_by_late += len(taken)
    assert taken_by_late / late <= most
