"""Threads take turns between opcodes: the same seed gives the same order, and a waiting thread loses its turn."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Callable
from functools import partial

from lms_conformance.preempt import LOOK, Turns


def _count(seen: list[int], me: int) -> None:
    for _ in range(40):
        seen.append(me)


def _together(calls: list[Callable[[], None]], seed: int) -> None:
    turns = Turns((__file__,), len(calls), random.Random(seed))

    def work(me: int) -> None:
        with turns.of(me):
            calls[me]()

    threads = [threading.Thread(target=work, args=(me,)) for me in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def _order(seed: int) -> list[int]:
    seen: list[int] = []
    _together([partial(_count, seen, me) for me in range(3)], seed)
    return seen


def test_turns_change_inside_a_call_and_in_the_order_of_the_seed() -> None:
    orders = [_order(seed) for seed in range(4)]
    assert all(len(order) == 120 for order in orders)
    assert all(sum(a != b for a, b in itertools.pairwise(order)) > 3 for order in orders)
    assert [_order(seed) for seed in range(4)] == orders
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_the_seeds_while_other_threads_want_the_interpreter() -> None:
    orders, over = [_order(seed) for seed in range(4)], threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    spinning = [threading.Thread(target=spin) for _ in range(4)]
    for thread in spinning:
        thread.start()
    try:
        assert [_order(seed) for _ in range(5) for seed in range(4)] == orders * 5
    finally:
        over.set()
        for thread in spinning:
            thread.join()
    assert sys.getswitchinterval() > LOOK


def test_a_thread_that_waits_for_another_loses_its_turn() -> None:
    event, seen = threading.Event(), list[int]()

    def wait() -> None:
        event.wait(60)
        seen.append(0)

    def release() -> None:
        seen.append(1)
        event.set()

    for seed in range(6):
        event.clear()
        _together([wait, release], seed)
    assert seen == [1, 0] * 6
