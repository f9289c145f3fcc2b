"""What `advise --fleet` says: the figures of simulations, steps that are what buying would do, and a plot."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import ConfigError
from lms_tiers.replay.advise import parse_budget
from lms_tiers.replay.advise_fleet import STEPS, Plan, advise_fleet
from lms_tiers.replay.fleet_plot import plot_fleets
from lms_tiers.replay.generate import TraceShape, generate_trace, write_trace
from lms_tiers.replay.simulate import Stream, policy_spec, prepare
from lms_tiers.replay.simulate_fleet import FleetResult, Route, simulate_fleet

BLOCK = 1 << 20
PLAN = Plan(tuple(parse_budget("cpu=20MiB,disk=60MiB")), 200 * BLOCK, 100 * BLOCK, BLOCK, Route.SESSION, shards=3)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return prepare(list(generate_trace(TraceShape(requests=400, seed=3))))


def run(stream: Stream, policy: str, instances: int, private: list[int], shared: int) -> FleetResult:
    return simulate_fleet(policy_spec(policy), stream, instances, private, shared, Route.SESSION, 3)


def test_each_step_is_what_a_simulation_with_it_says(stream: Stream) -> None:
    advice = advise_fleet(stream, PLAN, 4, ["lru"])
    before = run(stream, "lru", 4, [20, 60], 200)
    assert advice.result == before
    bought = [run(stream, "lru", *size) for size in ((5, [20, 60], 200), (4, [20, 85], 200), (4, [20, 60], 300))]
    for step, after in zip(advice.steps, bought, strict=True):
        assert step.hits == pytest.approx(100 * (after.prefix_hits - before.prefix_hits) / before.references)
        moved = after.shared_hits + after.shared_writes - before.shared_hits - before.shared_writes
        assert step.network == pytest.approx(moved * BLOCK / stream.seconds)
    assert advice.steps[2].hits > 0.5, "a shared tier that is too small is the thing to buy"


def test_rates_are_bytes_a_second_of_the_whole_the_busiest_shard_and_the_busiest_disk(stream: Stream) -> None:
    advice = advise_fleet(stream, PLAN, 1, ["lru"])
    result = advice.result
    moved = (result.shared_hits + result.shared_writes) * BLOCK / stream.seconds
    assert advice.network == pytest.approx(moved)
    assert advice.shard == pytest.approx(moved / 3 * result.busiest_shard)
    assert moved / 3 < advice.shard < moved
    disk = (result.private_hits[1] + result.private_writes[1]) * BLOCK / stream.seconds  # one host has all of it
    assert advice.disk == pytest.approx(disk)
    four = advise_fleet(stream, PLAN, 4, ["lru"])
    total = (four.result.private_hits[1] + four.result.private_writes[1]) * BLOCK / stream.seconds
    assert total / 4 < four.disk < total


def test_the_best_policy_is_taken_and_progress_is_told_of_all(stream: Stream) -> None:
    told: list[int] = []
    advice = advise_fleet(stream, PLAN, 2, ["fifo", "hazard"], told.append)
    hits = {name: run(stream, name, 2, [20, 60], 200).prefix_hits for name in ("fifo", "hazard")}
    assert hits["fifo"] != hits["hazard"]
    assert advice.result.prefix_hits == max(hits.values())
    assert f"policy={advice.result.policy}" in advice.device
    assert told == sorted(told)
    assert (2 + STEPS - 1) * len(stream.keys) <= told[-1] <= (2 + STEPS) * len(stream.keys)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "made.jsonl"
    with path.open("w") as file:
        write_trace(generate_trace(TraceShape(requests=100, seed=7)), file)
    return path


SIZES = ["--block-bytes", "1MiB", "--budget", "cpu=64MiB,disk=1GiB", "--policies", "lru"]


@pytest.fixture
def fonts(stream: Stream, tmp_path: Path) -> None:
    """matplotlib opens its fonts once and keeps them open: let it, before leaks are counted."""
    pytest.importorskip("matplotlib", reason="plots need the extra plot")
    plot_fleets([advise_fleet(stream, PLAN, 1, ["lru"])], ["cpu", "disk"], tmp_path / "warm.png")


@pytest.mark.leaks_allowed
def test_the_command_prints_writes_and_draws(fonts: None, trace: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "fleet.json", tmp_path / "fleet.png"
    words = ["--fleet", "--instances", "1,4", "--shared", "8GiB", "--step", "1GiB"]
    files = ["--json", str(out), "--plot", str(plot)]
    done = CliRunner().invoke(app, ["advise", str(trace), *SIZES, *words, *files], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    fleets = json.loads(out.read_text())["fleets"]
    assert [fleet["instances"] for fleet in fleets] == [1, 4]
    for fleet in fleets:
        assert f"{100 * fleet['prefix_hit_ratio']:.2f}" in done.output
        assert f"device: {fleet['device']}" in done.output
        assert [step["what"] for step in fleet["steps"]] == [
            "one more host", "1 GiB of disk, over all hosts", "1 GiB of the shared tier"
        ]  # fmt: skip
        assert all(math.isfinite(step["network"]) for step in fleet["steps"])
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("words", "told"), [
    (["--instances", "4"], "--instances is for a fleet"),
    (["--plot", "x.png"], "--plot is for a fleet"),
    (["--fleet", "--instances", "none"], "numbers above 0"),
    (["--fleet", "--route", "session,prefix"], "takes one --route"),
    (["--fleet", "--route", "sesion"], "Did you mean 'session'?"),
    (["--fleet", "--shared", "1KiB"], "'shared' holds less than one block"),
    (["--fleet", "--policies", "opt"], "needs to know the future"),
])  # fmt: skip
def test_what_does_not_fit_together_is_said(trace: Path, words: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["advise", str(trace), *SIZES, *words])
    assert isinstance(done.exception, ConfigError)
    assert told in str(done.exception)
