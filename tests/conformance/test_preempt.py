"""Threads take turns between opcodes: the same seed gives the same order, and a waiting thread loses its turn."""

from __future__ import annotations

import dis
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


def _sum(n: int, seen: set[int]) -> int:
    total = 0
    for i in range(n):
        total = (total * 3 + i * 7 + (i ^ total) - (total >> 2) + (i & 5) - (total | i)) % 1_000_003
        seen.add(i)
    return total


def test_a_turn_ends_at_any_opcode_of_a_line_though_most_of_it_is_counted_by_lines() -> None:
    turns, seen, ended = Turns((__file__,), 2, random.Random(0)), set[int](), set[int]()
    give_way = turns._give_way

    def noting(me: int) -> None:
        frame = sys._getframe(2)
        if frame.f_code is _sum.__code__:
            ended.add(frame.f_lasti)
        give_way(me)

    turns._give_way = noting  # type: ignore[method-assign]

    def work(me: int) -> None:
        with turns.of(me):
            _sum(2000, seen)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    opcodes = {i.offset for i in dis.get_instructions(_sum) if i.offset > min(ended)}
    assert len(ended) > 0.8 * len(opcodes & set(range(max(ended))))
    assert turns._events < 2 * 2000 * 40 / 2  # some forty opcodes a round
