"""Reference models: the plainest statement of a policy on unit sizes, slow and obvious."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


def lru(capacity: int) -> Callable[[str], bool]:
    """A list, most recent last."""
    order: list[str] = []

    def use(key: str) -> bool:
        hit = key in order
        if hit:
            order.remove(key)
        elif len(order) == capacity:
            order.pop(0)
        order.append(key)
        return hit

    return use


def fifo(capacity: int) -> Callable[[str], bool]:
    """A list in order of arrival."""
    order: list[str] = []

    def use(key: str) -> bool:
        if key in order:
            return True
        if len(order) == capacity:
            order.pop(0)
        order.append(key)
        return False

    return use


def sieve(capacity: int) -> Callable[[str], bool]:
    """A list in order of arrival, a set of visited keys, and a hand."""
    order: list[str] = []
    visited: set[str] = set()
    hand = 0

    def use(key: str) -> bool:
        nonlocal hand
        if key in order:
            visited.add(key)
            return True
        if len(order) == capacity:
            hand %= len(order)
            while order[hand] in visited:
                visited.discard(order[hand])
                hand = (hand + 1) % len(order)
            del order[hand]
            hand %= len(order)  # past the newest: start anew at the oldest, not at the newcomer
        order.append(key)
        return False

    return use


#: By name of the built-in policy.
MODELS: Final[dict[str, Callable[[int], Callable[[str], bool]]]] = {"fifo": fifo, "lru": lru, "sieve": sieve}
