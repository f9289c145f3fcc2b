"""A tier in miniature that drives a policy by a seeded program of chains, removals and overwrites, and watches it."""

from __future__ import annotations

import random
from collections.abc import Callable

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason

#: Makes a policy for a capacity in bytes and a clock.
PolicyMaker = Callable[[int, Callable[[], float]], EvictionPolicy]


class PolicyViolation(AssertionError):
    """A policy broke a rule; the message says which and how."""


def require(kept: bool, rule: str) -> None:
    """Raise `PolicyViolation` unless `kept`."""
    if not kept:
        raise PolicyViolation(rule)


class Driver:
    """Holds what the policy is told is held, and checks each proposal.

    Parameters
    ----------
    make : callable
    capacity : int
        Bytes.
    seed : int
        Draws the program.
    """

    def __init__(self, make: PolicyMaker, capacity: int, seed: int) -> None:
        self.now = 0.0
        self.capacity = capacity
        self.policy = make(capacity, lambda: self.now)
        self.rng = random.Random(seed)
        self.held: dict[str, int] = {}
        self.requests = 0
        self.hits: list[bool] = []

    @property
    def used(self) -> int:
        """Bytes held."""
        return sum(self.held.values())

    def propose(self, nbytes: int, protected: frozenset[str] = frozenset()) -> list[str]:
        """The victims for `nbytes`, checked against the contract."""
        victims = list(self.policy.victims(nbytes, protected))
        require(len(set(victims)) == len(victims), "victims are distinct")
        require(all(v in self.held for v in victims), "victims are held")
        require(not any(v in protected for v in victims), "victims are not protected")
        covered = sum(self.held[v] for v in victims)
        free = sum(size for key, size in self.held.items() if key not in protected)
        require(covered >= min(nbytes, free), "victims cover the bytes needed, or all that may leave")
        if victims:
            require(covered - self.held[victims[-1]] < nbytes, "no more victims than needed")
        return victims

    def remove(self, key: str, reason: RemoveReason) -> None:
        """`key` leaves."""
        del self.held[key]
        self.policy.on_remove(key, reason)

    def shrink(self) -> None:
        """Half of the chunks take less than they did."""
        for key in self.rng.sample(sorted(self.held), len(self.held) // 2):
            self.held[key] = self.rng.randrange(1, self.held[key] + 1)
            self.policy.on_shrink(key, self.held[key])

    def use(self, key: str, size: int, context: AccessContext) -> None:
        """One use of a chunk: a hit, or an insert with the evictions it needs."""
        hit = key in self.held
        self.hits.append(hit)
        if hit:
            self.policy.on_hit(key, context)
        elif self.policy.admit(key, size, context):
            if self.used + size > self.capacity:
                for victim in self.propose(self.used + size - self.capacity):
                    self.remove(victim, RemoveReason.EVICTED)
            self.held[key] = size
            self.policy.on_insert(key, size, context)
        require(len(self.policy) == len(self.held), "len() is the number of keys held")

    def request(self, chain: list[str], size: int, *, known: bool = True) -> None:
        """All chunks of a chain, in order; without `known`, as single accesses."""
        self.requests += 1
        for i, key in enumerate(chain):
            parent = chain[i - 1] if i else None
            self.use(
                key,
                size,
                AccessContext(self.now, self.requests, parent, i, i == len(chain) - 1 and i % 3 == 2, len(chain))
                if known
                else AccessContext(self.now),
            )

    def chain(self) -> list[str]:
        """A drawn chain: a popular root, a conversation, a length."""
        root = f"root{int(self.rng.paretovariate(1.0)) % 5}"
        talk = int(self.rng.paretovariate(0.6)) % 60
        return [root, *(f"{root}/{talk}/{i}" for i in range(self.rng.randrange(1, 9)))]

    def play(self, requests: int, size: int | None = 1) -> None:
        """A program of requests, removals and overwrites."""
        for _ in range(requests):
            self.now += self.rng.expovariate(1.0)
            self.request(self.chain(), size or self.rng.randrange(1, 9), known=self.rng.random() < 0.8)
            if self.held and self.rng.random() < 0.2:
                self.remove(self.rng.choice(sorted(self.held)), RemoveReason.REMOVED)
            if self.held and self.rng.random() < 0.2:
                key = self.rng.choice(sorted(self.held))
                size_before = self.held[key]
                self.remove(key, RemoveReason.REPLACED)
                self.use(key, size_before, AccessContext(self.now))
