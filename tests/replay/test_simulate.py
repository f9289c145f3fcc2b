"""Simulations count what a tier would hit, run every policy, and agree with the referee hit for hit."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest

from lms_tiers.errors import ConfigError, PolicyError
from lms_tiers.policies.base import EvictionPolicy
from lms_tiers.policies.lfu import Lfu
from lms_tiers.policies.lru import Lru
from lms_tiers.replay.advise import advise, parse_budget
from lms_tiers.replay.generate import TraceShape, generate_trace
from lms_tiers.replay.simulate import Stream, capacity_blocks, policy_spec, prepare, simulate
from lms_tiers.replay.simulate_tiers import Composition, simulate_tiers
from lms_tiers.replay.trace import Request, read_trace

POLICIES = ["fifo", "lru", "leaf_lru", "lfu", "sieve", "s3fifo", "arc", "twoq", "gdsf", "wtinylfu", "hazard"]


@pytest.fixture(scope="module")
def generated() -> Stream:
    return prepare(list(generate_trace(TraceShape(requests=1500, seed=3))))


@pytest.fixture(scope="module")
def real(shared_trace: Path) -> list[Request]:
    return read_trace(shared_trace)


@pytest.fixture(scope="module")
def shared_trace() -> Path:
    import os

    root = Path(os.environ.get("LMS_TIERS_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    path = root / "traces" / "conversation_trace.jsonl"
    if not path.exists():
        pytest.skip(f"the real trace is not at {path}: set LMS_TIERS_SHARED")
    return path


def percent(stream: Stream, share: float) -> int:
    return int(stream.unique * share / 100)


def test_prefix_hits_are_counted_before_the_request_inserts() -> None:
    stream = prepare([Request(0, 1024, 1, (1, 2)), Request(1, 1536, 1, (1, 2, 3)), Request(2, 1024, 1, (9, 2))])
    result = simulate(policy_spec("lru"), stream, 10)
    assert (result.prefix_hits, result.block_hits, result.references) == (2, 3, 7)


@pytest.fixture(scope="module")
def optimum(generated: Stream) -> tuple[int, int]:
    """What hits at most where a twentieth fits, and where all does."""
    blocks = percent(generated, 5), generated.unique
    few, everything = (simulate(policy_spec("opt"), generated, fit).prefix_hits for fit in blocks)
    return few, everything


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_stays_below_the_optimum_and_hits_all_when_all_fits(
    name: str, generated: Stream, optimum: tuple[int, int]
) -> None:
    few, everything = optimum
    assert 0 < simulate(policy_spec(name), generated, percent(generated, 5)).prefix_hits <= few
    kept_partial = simulate(policy_spec(name), generated, generated.unique * 2).prefix_hits
    assert everything * 0.97 <= kept_partial <= everything


@pytest.mark.parametrize("share", [1, 5, 20])
def test_hazard_is_above_lru_on_a_generated_trace(share: float, generated: Stream) -> None:
    blocks = percent(generated, share)
    lru = simulate(policy_spec("lru"), generated, blocks).prefix_hits
    assert simulate(policy_spec("hazard"), generated, blocks).prefix_hits >= lru


def test_ids_may_be_strings(generated: Stream) -> None:
    requests = list(generate_trace(TraceShape(requests=200, seed=1)))
    texts = [
        Request(r.timestamp, r.input_length, r.output_length, tuple(f"k{i}" for i in r.hash_ids)) for r in requests
    ]
    for name in ("lru", "s3fifo", "hazard"):
        a, b = (simulate(policy_spec(name), prepare(r), 100).prefix_hits for r in (requests, texts))
        assert a == b


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("0%", "above 0"),
        ("101%", "at most 100"),
        ("x%", "percentage"),
        ("5", "percentage"),
        ("0.0001%", "less than one"),
    ],
)
def test_a_capacity_that_makes_no_sense_is_an_error(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        capacity_blocks(text, 1000, None)


def test_capacities_may_be_sizes() -> None:
    assert capacity_blocks("1GiB", 10, 1 << 20) == 1024


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="hazard"):
        policy_spec("hazzard")


class Absent(Lru):
    """Proposes what it does not hold."""

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        yield "nowhere"


class Empty(Lru):
    """Proposes nothing."""

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        return iter(())


@pytest.mark.parametrize("policy", [Absent, Empty])
def test_a_policy_that_breaks_its_contract_is_named(
    policy: Callable[[int, Callable[[], float]], EvictionPolicy],
) -> None:
    with pytest.raises(PolicyError) as caught:
        simulate(("wrong", policy), prepare([Request(0, 1024, 1, (1, 2, 3))]), 1)
    assert caught.value.policy == "wrong"


def test_two_tiers_never_write_more_with_clean_copies(generated: Stream) -> None:
    spec = policy_spec("leaf_lru")
    specs = [(spec, percent(generated, 2)), (spec, percent(generated, 20))]
    clean, exclusive, through = (
        simulate_tiers(specs, generated, c)
        for c in (Composition.CLEAN_COPY, Composition.EXCLUSIVE, Composition.WRITE_THROUGH)
    )
    assert clean.tiers[1].writes < exclusive.tiers[1].writes
    # Not the same: what one of them still has below is hit there first, where another puts it anew above.
    hot = [result.tiers[0].hits for result in (clean, exclusive, through)]
    assert max(hot) <= 1.05 * min(hot)
    assert through.tiers[1].writes <= through.references


def test_the_second_hit_below_makes_a_block_rise_and_the_first_where_there_is_room() -> None:
    def run(top: int, *keys: int) -> list[tuple[int, int]]:
        stream = prepare([Request(i, 512, 1, (key,)) for i, key in enumerate(keys)])
        specs = [(policy_spec("lru"), top), (policy_spec("lru"), 10)]
        return [(tier.hits, tier.writes) for tier in simulate_tiers(specs, stream, Composition.CLEAN_COPY).tiers]

    assert run(2, 1, 2, 3, 1, 1, 1) == [(1, 4), (2, 3)]  # three puts and one that rose; each put is copied down
    assert run(2, 1, 2, 3, 1) == [(0, 3), (1, 3)]
    assert run(2, 1, 2, 3, 1, 1, 4, 5, 1) == [(0, 6), (3, 5)]  # it has left again, and is hit for the first time


@pytest.mark.deep
def test_advice_is_a_device_line_with_the_most_hits(generated: Stream) -> None:
    found = advise(generated, parse_budget("cpu=8MiB,disk=64MiB"), 64 << 10, ("lru", "leaf_lru"))
    assert found[0].hit_ratio >= max(a.hit_ratio for a in found) - 0.001
    assert found[0].device.startswith("cpu?capacity=8MiB&policy=")
    assert "> lmdb:DIR?capacity=64MiB" in found[0].device
    assert all(writes >= 0 for writes in found[0].writes_per_day)


@pytest.mark.parametrize("text", ["cpu", "tape=1TiB", "cpu=5"])
def test_a_budget_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_budget(text)


@pytest.mark.deep
def test_the_real_trace_gives_the_published_figures(real: list[Request]) -> None:
    stream = prepare(real)
    for name, share, hits in (("lru", 1, 5.25), ("leaf_lru", 5, 20.30), ("opt", 1, 24.64)):
        result = simulate(policy_spec(name), stream, percent(stream, share))
        assert round(100 * result.prefix_hit_ratio, 2) == hits


@pytest.mark.deep
def test_hazard_is_above_all_others_in_a_small_tier_of_the_real_trace(real: list[Request]) -> None:
    stream = prepare(real)
    blocks = percent(stream, 1)
    hits = {
        name: simulate(policy_spec(name), stream, blocks).prefix_hits for name in ("lru", "s3fifo", "arc", "hazard")
    }
    assert max(hits, key=hits.__getitem__) == "hazard"
    assert hits["hazard"] / stream.references > 0.11


REFEREE = {
    "fifo": "FIFO", "lru": "LRU", "lfu": "LFU", "sieve": "Sieve", "s3fifo": "S3FIFO", "arc": "ARC", "twoq": "TwoQ",
}  # fmt: skip


@pytest.mark.deep
@pytest.mark.parametrize("name", REFEREE)
@pytest.mark.parametrize("share", [1, 5, 20])
def test_policies_agree_hit_for_hit_with_libcachesim(name: str, share: int, real: list[Request]) -> None:
    libcachesim = pytest.importorskip("libcachesim", reason="the referee is not installed: pip install libcachesim")
    stream = prepare(real, flat=True)
    blocks = percent(stream, share)
    # The referee's LFU does not age; ours does unless told otherwise.
    spec = ("lfu", lambda c, clock: Lfu(c, clock, ageing=False)) if name == "lfu" else policy_spec(name)
    ours = simulate(spec, stream, blocks).block_hits
    cache, request, theirs = getattr(libcachesim, REFEREE[name])(blocks), libcachesim.Request(), 0
    request.obj_size = 1
    for keys in stream.keys:
        for key in keys:
            request.obj_id = key
            theirs += cache.get(request)
    assert ours == theirs


def test_between_requests_the_oldest_three_quarters_of_a_tier_are_copied_into_a_larger_one() -> None:
    stream = prepare([Request(i, 512, 1, (i,)) for i in range(8)])
    specs = [(policy_spec("lru"), 8), (policy_spec("lru"), 9)]
    upper, lower = simulate_tiers(specs, stream, Composition.CLEAN_COPY).tiers
    assert (upper.writes, lower.writes) == (8, 6)
    _, same = simulate_tiers([specs[0], (policy_spec("lru"), 8)], stream, Composition.CLEAN_COPY).tiers
    assert same.writes == 0  # it would lose them to what comes next
    _, exclusive = simulate_tiers(specs, stream, Composition.EXCLUSIVE).tiers
    assert exclusive.writes == 0
