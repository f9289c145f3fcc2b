"""The receive budget: never above its limit, first come first served, nothing lost when a waiter leaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.server.budget import ReceiveBudget


class Waiter:
    def __init__(self) -> None:
        self.granted = False
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def test_waiters_are_served_in_order_and_a_small_one_does_not_overtake() -> None:
    budget = ReceiveBudget(10)
    large, small = Waiter(), Waiter()
    assert budget.acquire(8, Waiter())
    assert not budget.acquire(5, large)
    assert not budget.acquire(1, small)
    budget.release(8)
    assert (large.granted, small.granted) == (True, True)
    assert budget.used == 6


def test_a_waiter_that_leaves_makes_room_for_the_next() -> None:
    budget = ReceiveBudget(10)
    large, small = Waiter(), Waiter()
    assert budget.acquire(8, Waiter())
    assert not budget.acquire(5, large)
    assert not budget.acquire(2, small)
    budget.withdraw(5, large)
    assert small.woken == 1
    budget.withdraw(2, small)
    assert budget.used == 8


@given(st.lists(st.tuples(st.sampled_from(["acquire", "try", "release", "withdraw"]), st.integers(0, 10)), max_size=60))
def test_any_order_of_calls_keeps_the_limit_and_loses_nothing(steps: list[tuple[str, int]]) -> None:
    budget = ReceiveBudget(10)
    held: list[int] = []
    waiting: list[tuple[int, Waiter]] = []
    for what, n in steps:
        if what == "acquire":
            waiter = Waiter()
            if budget.acquire(n, waiter):
                held.append(n)
            else:
                waiting.append((n, waiter))
        elif what == "try":
            if budget.try_acquire(n):
                held.append(n)
        elif what == "release" and held:
            budget.release(held.pop(n % len(held)))
        elif what == "withdraw" and waiting:
            budget.withdraw(*waiting.pop(n % len(waiting)))
        held += [m for m, waiter in waiting if waiter.granted]
        waiting = [(m, waiter) for m, waiter in waiting if not waiter.granted]
        assert budget.used == sum(held) <= budget.limit >= budget.peak
        assert budget.waiting == len(waiting)
        assert not waiting or budget.used + waiting[0][0] > budget.limit
