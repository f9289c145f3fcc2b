"""The rules of policies, one function each; a name is the rule, a docstring what breaks when it does not hold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Final

from lms_conformance.policies.drive import Driver, PolicyMaker, require
from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason


def victims_are_right_after_any_program(make: PolicyMaker) -> None:
    """Distinct, held, unprotected, and enough: else a tier goes over budget or drops what is in use."""
    for seed in range(8):
        driver = Driver(make, 64, seed)
        driver.play(120)


def victims_are_right_for_chunks_of_many_sizes(make: PolicyMaker) -> None:
    """Bytes are covered, not counts."""
    for seed in range(4):
        driver = Driver(make, 256, seed)
        driver.play(100, size=None)


def proposing_changes_nothing(make: PolicyMaker) -> None:
    """The mover peeks all the time: peeking must not age, reorder or forget."""
    one, other = Driver(make, 64, 1), Driver(make, 64, 1)
    for _ in range(60):
        one.play(2)
        other.play(2)
        other.propose(5)
        other.propose(10_000)
        next(iter(other.policy.victims(7, ())), None)
    require(one.hits == other.hits, "the same hits with and without peeking")
    require(list(one.policy.victims(10_000, ())) == list(other.policy.victims(10_000, ())), "and the same order")


def protected_keys_are_never_named(make: PolicyMaker) -> None:
    """Keys being written, deleted or pinned stay; all others can still leave."""
    driver = Driver(make, 64, 2)
    driver.play(80)
    keys = sorted(driver.held)
    for protected in (frozenset(keys[::2]), frozenset(keys), frozenset(keys[:1])):
        driver.propose(10_000, protected)
        driver.propose(3, protected)


def victims_need_not_leave(make: PolicyMaker) -> None:
    """A tier may drop some, others, or none of what was named."""
    driver = Driver(make, 64, 3)
    for step in range(60):
        driver.play(1)
        named = driver.propose(6)
        for victim in named[step % 3 :: 2]:
            driver.remove(victim, RemoveReason.EVICTED)
    for key in sorted(driver.held):
        driver.remove(key, RemoveReason.EVICTED)
    require(len(driver.policy) == 0 and not driver.propose(10), "nothing is left when all are gone")


def unknown_chains_are_no_harm(make: PolicyMaker) -> None:
    """Single accesses without request, parent or position, and parents never seen."""
    driver = Driver(make, 32, 4)
    for i in range(300):
        driver.now += 0.1
        key = f"k{driver.rng.randrange(60)}"
        driver.use(key, 1, AccessContext(driver.now, None, f"p{i % 7}" if i % 2 else key, -1))


def a_policy_shrinks_with_its_tier(make: PolicyMaker) -> None:
    """`on_resize` is followed by proposals that fit the new capacity."""
    driver = Driver(make, 64, 5)
    driver.play(60)
    driver.capacity = 16
    driver.policy.on_resize(16)
    if driver.used > 16:
        for victim in driver.propose(driver.used - 16):
            driver.remove(victim, RemoveReason.EVICTED)
    driver.play(60)
    driver.capacity = 128
    driver.policy.on_resize(128)
    driver.play(60)


def a_zero_clock_is_no_harm(make: PolicyMaker) -> None:
    """A clock that stands still or a time that goes back."""
    driver = Driver(make, 32, 6)
    for i in range(120):
        driver.now = float(-i if i % 2 else 0)
        driver.request(driver.chain(), 1)


def state_round_trips(make: PolicyMaker) -> None:
    """What was saved is taken over by a fresh policy that holds the same keys; foreign bytes are ignored."""
    driver = Driver(make, 64, 7)
    driver.play(120)
    saved = driver.policy.state()
    require(isinstance(saved, bytes) and len(saved) < 64 << 20, "state is bytes of a bounded size")
    require(b"\x80\x04\x95" not in saved[:3], "state is not a pickle")
    for state in (
        saved,
        b"",
        b"\x00" * 40,
        saved[: len(saved) // 2],
        saved[:-1] + bytes([saved[-1] ^ 1] if saved else []),
    ):
        fresh = Driver(make, 64, 7)
        fresh.now = driver.now
        for key, size in driver.held.items():
            fresh.held[key] = size
            fresh.policy.on_insert(key, size, AccessContext(fresh.now))
        fresh.policy.restore(state)
        require(len(fresh.policy) == len(fresh.held), "restoring neither adds nor loses keys")
        fresh.propose(10_000)
        fresh.play(40)


def what_is_gone_is_forgotten_in_time(make: PolicyMaker) -> None:
    """Memory is bounded by what is held: a stream of keys used once may not pile up."""
    driver = Driver(make, 256, 8)

    def stream(start: int, count: int) -> None:
        for i in range(start, start + count):
            driver.now += 0.01
            key = f"stream/{i}/{'x' * 60}"
            context = AccessContext(driver.now, i // 8, None, -1)
            if driver.policy.admit(key, 1, context):
                if len(driver.held) >= 256:
                    for victim in driver.policy.victims(1, ()):
                        driver.remove(victim, RemoveReason.EVICTED)
                driver.held[key] = 1
                driver.policy.on_insert(key, 1, context)

    stream(0, 80_000)  # past any bound on ghosts
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        stream(80_000, 20_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # New keys replace old ones, allocated before tracing: up to all 20,000 may show, but no more than they take.
    require(grown < 20_000 * 700, f"memory does not grow with keys that are gone ({grown} bytes for 20,000 keys)")


def what_shrinks_counts_with_what_it_takes(make: PolicyMaker) -> None:
    """A backend that encodes what is cold makes chunks smaller; a policy that is not told is asked for more victims."""
    for seed in range(10, 14):
        driver = Driver(make, 256, seed)
        if type(driver.policy).on_shrink is EvictionPolicy.on_shrink:
            return
        for _ in range(20):
            driver.play(4, size=None)
            driver.shrink()
            for need in (1, 7, 60):
                driver.propose(need)


def removed_keys_leave_no_trace_among_victims(make: PolicyMaker) -> None:
    """A key that was removed is never named again, and may come back."""
    driver = Driver(make, 64, 9)
    driver.play(60)
    for key in sorted(driver.held)[::2]:
        driver.remove(key, RemoveReason.REMOVED)
    driver.propose(10_000)
    driver.play(60)


CHECKS: Final[tuple[Callable[[PolicyMaker], None], ...]] = (
    victims_are_right_after_any_program,
    victims_are_right_for_chunks_of_many_sizes,
    proposing_changes_nothing,
    protected_keys_are_never_named,
    victims_need_not_leave,
    unknown_chains_are_no_harm,
    a_policy_shrinks_with_its_tier,
    a_zero_clock_is_no_harm,
    state_round_trips,
    what_shrinks_counts_with_what_it_takes,
    removed_keys_leave_no_trace_among_victims,
    what_is_gone_is_forgotten_in_time,
)
