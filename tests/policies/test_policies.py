"""Every registered policy keeps the contract of policies, and the kit notices policies that do not."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import pytest
from lms_conformance.policies import PolicyViolation, check_policy
from lms_conformance.policies.checks import (
    proposing_changes_nothing,
    protected_keys_are_never_named,
    victims_are_right_after_any_program,
)

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.lru import Lru
from lms_tiers.registry import default_registry, load_attribute
from tests.depth import some

NAMES = [spec.name for spec in default_registry().policies.specs() if not spec.simulation_only]


def make(name: str, capacity: int = 100) -> EvictionPolicy:
    policy: EvictionPolicy = load_attribute(default_registry().policies[name].factory)(capacity, lambda: 0.0)
    return policy


@pytest.mark.parametrize("name", some(NAMES, {"lru", "sieve"}.__contains__))
def test_every_policy_keeps_every_rule(name: str) -> None:
    factory = load_attribute(default_registry().policies[name].factory)
    broken = {outcome.rule: outcome.error for outcome in check_policy(factory, name) if outcome.error}
    assert broken == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_is_named_as_it_is_registered(name: str) -> None:
    assert make(name).name == name


class Mutates(Lru):
    """Drops what it proposes."""

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        for key in list(super().victims(bytes_needed, protected)):
            self._queue.unlink(self._nodes[key])
            self._queue.append(self._nodes[key])
            yield key


class Stubborn(Lru):
    """Ignores protection."""

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        return super().victims(bytes_needed, ())


class Repeats(Lru):
    """Names a victim twice."""

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        for key in super().victims(bytes_needed, protected):
            yield key
            yield key


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (Mutates, proposing_changes_nothing),
        (Stubborn, protected_keys_are_never_named),
        (Repeats, victims_are_right_after_any_program),
    ],
)
def test_the_kit_catches_a_policy_that_breaks_a_rule(
    wrong: type[Lru], rule: Callable[[Callable[[int, Callable[[], float]], EvictionPolicy]], None]
) -> None:
    with pytest.raises(PolicyViolation):
        rule(wrong)


def chain(policy: EvictionPolicy, request: int, *keys: str, at: float = 0.0) -> None:
    for i, key in enumerate(keys):
        context = AccessContext(at, request, keys[i - 1] if i else None, i, False, len(keys))
        try:
            policy.on_hit(key, context)
        except KeyError:
            policy.on_insert(key, 1, context)


def test_lru_evicts_the_tail_of_a_chain_before_its_root() -> None:
    policy = make("lru")
    chain(policy, 1, "a", "b", "c")
    chain(policy, 2, "x", "y")
    assert list(policy.victims(100, ())) == ["c", "b", "a", "y", "x"]


def test_lru_keeps_the_chains_of_interleaved_requests_in_order() -> None:
    policy = make("lru")
    for i, (request, key, parent) in enumerate(
        [(1, "a0", None), (2, "b0", None), (1, "a1", "a0"), (2, "b1", "b0"), (1, "a2", "a1")]
    ):
        policy.on_insert(key, 1, AccessContext(float(i), request, parent, i))
    assert list(policy.victims(100, ())) == ["a2", "a1", "a0", "b1", "b0"]


def test_lru_without_chains_is_plain_lru() -> None:
    policy = make("lru")
    for key in "abc":
        policy.on_insert(key, 1, AccessContext(0.0))
    policy.on_hit("a", AccessContext(1.0))
    assert list(policy.victims(2, ())) == ["b", "c"]


@pytest.mark.parametrize("name", ["leaf_lru", "hazard"])
def test_children_pin_their_parents(name: str) -> None:
    policy = make(name)
    chain(policy, 1, "a", "b")
    chain(policy, 2, "a", "b", "c")
    chain(policy, 3, "z")
    named = list(policy.victims(100, ()))
    assert named.index("c") < named.index("b") < named.index("a")
    assert set(policy.victims(2, {"c"})) <= {"z", "b", "a"}


@pytest.mark.parametrize("name", ["leaf_lru", "hazard"])
def test_partial_tails_are_not_kept(name: str) -> None:
    assert not make(name).admit("k", 1, AccessContext(0.0, 1, None, 0, True, 1))


def test_a_key_that_stands_twice_in_a_chain_pins_nothing_for_ever() -> None:
    policy = make("leaf_lru")
    for key, parent in [("a", None), ("b", "a"), ("c", "b")]:
        policy.on_insert(key, 10, AccessContext(0.0, 1, parent))
    policy.on_remove("a", RemoveReason.REPLACED)
    policy.on_insert("a", 10, AccessContext(0.0, 1, "c"))
    policy.on_insert("newer", 10, AccessContext(0.0))
    assert list(policy.victims(30, ())) == ["c", "b", "a"]


@pytest.mark.parametrize("name", ["lru", "leaf_lru", "fifo", "sieve", "twoq", "arc", "s3fifo"])
def test_the_order_survives_a_restart(name: str) -> None:
    policy = make(name)
    for key in "abcdefgh":
        policy.on_insert(key, 1, AccessContext(0.0))
    for key in "cag":
        policy.on_hit(key, AccessContext(1.0))
    fresh = make(name)
    for key in "hgfedcba":
        fresh.on_insert(key, 1, AccessContext(2.0))
    fresh.restore(policy.state())
    assert list(fresh.victims(100, ())) == list(policy.victims(100, ()))


def test_gdsf_lets_large_chunks_leave_first() -> None:
    policy = make("gdsf")
    policy.on_insert("large", 50, AccessContext(0.0))
    policy.on_insert("small", 1, AccessContext(0.0))
    assert next(iter(policy.victims(1, ()))) == "large"


def test_lfu_forgets_old_popularity() -> None:
    policy = make("lfu")
    policy.on_insert("old", 1, AccessContext(0.0))
    for _ in range(5):
        policy.on_hit("old", AccessContext(0.0))
    for i in range(20):
        policy.on_insert(f"new{i}", 1, AccessContext(1.0))
        for _ in range(i):
            policy.on_hit(f"new{i}", AccessContext(1.0))
        victim = next(iter(policy.victims(1, ())))
        policy.on_remove(victim, RemoveReason.EVICTED)
        if victim == "old":
            return
    pytest.fail("what was popular once stayed for ever")
