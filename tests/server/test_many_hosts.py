"""Stores in processes of their own over one server: what they say to each other, while stores and server are killed."""

from __future__ import annotations

import pytest

from benchmarks.shared_soak import soak
from benchmarks.shared_worker import HANDED


@pytest.mark.parametrize(
    ("stores", "rounds", "operations"),
    [(2, 1, 120), pytest.param(2, 3, 600, marks=pytest.mark.deep), pytest.param(4, 2, 600, marks=pytest.mark.deep)],
)
def test_stores_over_one_server_read_what_somebody_put_and_nothing_that_is_gone_whoever_is_killed(
    stores: int, rounds: int, operations: int
) -> None:
    seen = soak(stores, stores, operations=operations, kills=3, more=lambda run: run.rounds < rounds)
    assert seen["examples"] == []
    assert seen["wrong"] == 0
    counts = seen["counts"]
    assert counts["stores_killed"] + counts.get("servers_killed", 0) >= 3 * rounds
    assert counts["hits"] > 0
    read = 5 * stores * HANDED * rounds  # a hand-over makes every store read five times
    assert counts["taken"] + counts.get("not_reached", 0) == read
