"""A fleet on paper: agrees with a plain model, and with the simulation of one store where it is one."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import ConfigError
from lms_tiers.replay.generate import TraceShape, generate_trace, write_trace
from lms_tiers.replay.simulate import Stream, policy_spec, prepare, simulate
from lms_tiers.replay.simulate_engine import Engine
from lms_tiers.replay.simulate_fleet import Route, simulate_fleet

LRU = policy_spec("lru")
ALL = 1 << 30


@pytest.fixture(scope="module")
def stream() -> Stream:
    return prepare(list(generate_trace(TraceShape(requests=400, seed=3))))


class Model:
    """LRU caches of single blocks over one that all share, written as plainly as can be."""

    def __init__(self, instances: int, private: int, shared: int) -> None:
        self.caches: list[OrderedDict[object, None]] = [OrderedDict() for _ in range(instances)]
        self.private, self.shared = private, shared
        self.engine: OrderedDict[object, None] = OrderedDict()
        self.hits, self.read, self.sent = 0, 0, 0

    @staticmethod
    def use(cache: OrderedDict[object, None], key: object, room: int) -> None:
        cache[key] = None
        cache.move_to_end(key)
        if len(cache) > room:
            cache.popitem(last=False)

    def request(self, instance: int, keys: tuple[object, ...]) -> None:
        cache = self.caches[instance]
        run = 0
        for key in keys:
            if key in cache:
                self.hits += 1
            elif key in self.engine:
                self.read += 1
                self.engine.move_to_end(key)
            else:
                break
            run += 1
        for key in keys[run:]:
            self.use(self.engine, key, self.shared)
            self.sent += 1
        for key in keys:
            self.use(cache, key, self.private)


@pytest.mark.parametrize(("instances", "private", "shared"), [(1, 50, 400), (3, 20, 150), (7, 200, 90)])
def test_it_agrees_with_a_plain_model(instances: int, private: int, shared: int) -> None:
    stream = prepare(list(generate_trace(TraceShape(requests=400, seed=3))), flat=True)  # without chains `lru` is plain
    model = Model(instances, private, shared)
    for number, keys in enumerate(stream.keys):
        model.request(number % instances, keys)
    found = simulate_fleet(LRU, stream, instances, [private], shared, Route.ROUND_ROBIN, samples=0)
    assert (found.private_hits, found.shared_hits, found.shared_writes) == ((model.hits,), model.read, model.sent)
    assert model.read > 0
    assert found.busiest_instance == pytest.approx(1.0, abs=0.05)


def test_one_instance_without_a_shared_tier_is_the_simulation_of_one_store(stream: Stream) -> None:
    for name in ("lru", "hazard", "s3fifo"):
        alone = simulate(policy_spec(name), stream, 60)
        found = simulate_fleet(policy_spec(name), stream, 1, [60], 0, Route.SESSION)
        assert found.prefix_hits == alone.prefix_hits
        assert found.shared_writes == found.shared_hits == 0


def test_what_the_shared_tier_holds_no_route_loses(stream: Stream) -> None:
    first = simulate_fleet(LRU, stream, 1, [ALL], 0, Route.SESSION).prefix_hits
    for route in Route:
        for instances in (2, 8):
            assert simulate_fleet(LRU, stream, instances, [5, 20], ALL, route).prefix_hits == first


def test_routes_that_know_chains_find_more_in_private_tiers(stream: Stream) -> None:
    hits = {
        route: sum(simulate_fleet(LRU, stream, 4, [400], 0, route).private_hits) for route in Route
    }  # fmt: skip
    assert hits[Route.SESSION] > hits[Route.ROUND_ROBIN]
    assert hits[Route.PREFIX] > hits[Route.ROUND_ROBIN]


def test_shards_have_their_slots(stream: Stream) -> None:
    even = simulate_fleet(LRU, stream, 2, [50], ALL, Route.SESSION, shards=1)
    odd = simulate_fleet(LRU, stream, 2, [50], ALL, Route.SESSION, shards=8)
    assert even.busiest_shard == 1.0
    assert 1.0 < odd.busiest_shard < 8.0


def test_an_engine_that_samples_keeps_what_was_used_lately_but_for_some() -> None:
    engine = Engine(400, 4, samples=5)
    for key in range(2000):
        engine.write(key)
        assert engine.read(0)  # used all the time
    there = [key for key in range(2000) if engine.read(key)]
    assert 390 <= len(there) <= 400
    assert sum(key >= 1900 for key in there) >= 95
    assert sum(key < 1400 for key in there) < 20
    assert there[1:] != list(range(2000 - len(there) + 1, 2000)), "exact LRU would leave no hole"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "made.jsonl"
    with path.open("w") as file:
        write_trace(generate_trace(TraceShape(requests=100, seed=7)), file)
    return path


def test_the_command_simulates_every_combination(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "fleet.json"
    words = ["--policies", "lru,hazard", "--instances", "1,4", "--route", "session,round-robin"]
    sizes = ["--private", "cpu=64MiB,disk=1GiB", "--shared", "0,8GiB", "--block-bytes", "1MiB", "--json", str(out)]
    done = CliRunner().invoke(app, ["simulate", str(trace), *words, *sizes])
    assert done.exit_code == 0, done.output
    results = json.loads(out.read_text())["results"]
    assert len(results) == 16
    assert {tuple(r["private_blocks"]) for r in results} == {(64, 1024)}
    assert {r["shared_blocks"] for r in results} == {0, 8192}
    for r in results:
        assert r["prefix_hit_ratio"] == r["prefix_hits"] / r["references"]


@pytest.mark.parametrize(("words", "told"), [
    (["--instances", "0"], "numbers above 0"),
    (["--instances", "two"], "numbers above 0"),
    (["--instances", "2", "--route", "sesion"], "Did you mean 'session'?"),
    (["--instances", "2", "--policies", "opt"], "leave it out with --instances"),
    (["--instances", "2", "--tiers", "1%,2%"], "--tiers is not for a fleet"),
    (["--instances", "2", "--capacity", "1%"], "--capacity is for a single tier"),
    (["--private", "1%"], "--private is for a fleet: give --instances"),
    (["--tiers", "1%,2%", "--shared", "1%"], "--shared is for a fleet: give --instances"),
])  # fmt: skip
def test_what_does_not_fit_together_is_said(trace: Path, words: list[str], told: str) -> None:
    policies = [] if "--policies" in words else ["--policies", "lru"]
    done = CliRunner().invoke(app, ["simulate", str(trace), *policies, *words])
    assert isinstance(done.exception, ConfigError)
    assert told in str(done.exception)
