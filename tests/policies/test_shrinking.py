"""A chunk that takes less than it did is known to do so: what all policies keep the kit checks, the rest is here."""

from __future__ import annotations

import pytest
from lms_conformance.policies import PolicyViolation
from lms_conformance.policies.checks import what_shrinks_counts_with_what_it_takes

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason
from lms_tiers.policies.hazard import Hazard
from lms_tiers.policies.lru import Lru
from lms_tiers.policies.opt import Opt
from lms_tiers.policies.queue import Node, Queue
from lms_tiers.registry import default_registry, load_attribute
from lms_tiers.tiered.state.stand_ins import LatePolicy

NAMES = [spec.name for spec in default_registry().policies.specs() if not spec.simulation_only]


def held(policy: EvictionPolicy, count: int, size: int) -> EvictionPolicy:
    for n in range(count):
        context = AccessContext(0.0, None, None, 0)
        assert policy.admit(str(n), size, context)
        policy.on_insert(str(n), size, context)
    return policy


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_knows_what_shrank(name: str) -> None:
    factory = load_attribute(default_registry().policies[name].factory)
    assert factory.on_shrink is not EvictionPolicy.on_shrink
    what_shrinks_counts_with_what_it_takes(factory)


def test_the_kit_notices_a_policy_that_believes_in_the_old_size() -> None:
    class Deaf(Lru):
        def on_shrink(self, key: str, size: int) -> None:
            pass

    with pytest.raises(PolicyViolation, match="cover"):
        what_shrinks_counts_with_what_it_takes(Deaf)


def test_a_queue_counts_the_bytes_of_what_shrank() -> None:
    queue = Queue[Node]()
    nodes = [Node(key, 5) for key in "abc"]
    for node in nodes:
        queue.append(node)
    queue.resize(nodes[1], 2)
    assert ([node.key for node in queue], queue.nbytes) == (["a", "b", "c"], 12)
    for node in nodes:
        queue.unlink(node)
    assert queue.nbytes == 0


def test_the_optimum_counts_what_shrank() -> None:
    policy = Opt(100, lambda: 0.0)
    policy.foresee([[str(n) for n in range(10)]] * 2)
    held(policy, 10, 10)
    policy.on_shrink("9", 1)
    named = list(policy.victims(10, ()))
    assert "9" not in named or len(named) == 2


def test_what_shrank_makes_room_for_others_in_hazard() -> None:
    policy = held(Hazard(100, lambda: 0.0), 10, 10)
    for n in range(10):
        policy.on_shrink(str(n), 5)
    assert policy.admit("new", 50, AccessContext(1.0, "r", None, 0))


def test_a_policy_that_is_being_loaded_hears_of_what_shrank_in_time() -> None:
    inner = held(Lru(100, lambda: 0.0), 3, 10)
    late = LatePolicy(inner, b"")
    late.on_insert("kept", 10, AccessContext(0.0))
    late.on_shrink("kept", 4)
    late.on_shrink("0", 5)
    assert list(late.victims(10, ())) == ["0", "1"]
    late.freeze()  # from here on the policy is the loader's
    late.on_shrink("1", 2)
    late.on_shrink("2", 2)
    late.on_remove("2", RemoveReason.REMOVED)
    assert list(inner.victims(10, ())) == ["0", "1"]
    late.restore_state()
    policy = late.thaw()
    assert [list(policy.victims(need, ())) for need in (6, 8)] == [["0", "1"], ["0", "1", "kept"]]
