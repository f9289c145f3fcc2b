"""The commands simulate, advise and conform-policy: figures in JSON, exit codes, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.errors import ConfigError, TraceError
from lms_tiers.replay.generate import TraceShape, generate_trace, write_trace
from lms_tiers.replay.simulate import Result
from lms_tiers.replay.simulate_plot import plot_simulation


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "made.jsonl"
    with path.open("w") as file:
        write_trace(generate_trace(TraceShape(requests=200, seed=7)), file)
    return path


def test_simulate_writes_figures_of_every_policy_and_capacity(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = CliRunner().invoke(
        app, ["simulate", str(trace), "--policies", "lru,hazard,opt", "--capacity", "5%,20%", "--json", str(out)]
    )
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())["results"]
    assert [(r["policy"], r["capacity"]) for r in results] == [
        (policy, capacity) for policy in ("lru", "hazard", "opt") for capacity in ("5%", "20%")
    ]
    for r in results:
        assert r["prefix_hit_ratio"] == r["prefix_hits"] / r["references"]
        assert r["block_hits"] >= r["prefix_hits"]
        assert r["seconds"] > 0


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """matplotlib opens its fonts once and keeps them open: let it, before leaks are counted."""
    pytest.importorskip("matplotlib", reason="plots need the extra plot")
    drawn = [Result("warm", f"{share}%", share, 1, 1, 2, 1.0) for share in (1, 10)]
    plot_simulation(drawn, 100, tmp_path_factory.mktemp("fonts") / "warm.png")


def test_simulate_plots(fonts: None, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "plot.png"
    result = CliRunner().invoke(app, ["simulate", str(trace), "--policies", "lru,opt", "--plot", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_plot_is_a_png_whatever_its_file_is_called(fonts: None, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "plot.xyz"
    result = CliRunner().invoke(app, ["simulate", str(trace), "--policies", "lru", "--plot", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(b"\x89PNG")


def test_simulate_takes_two_tiers(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiers.json"
    arguments = ["--policies", "leaf_lru", "--tiers", "2%,20%", "--composition", "exclusive", "--json", str(out)]
    result = CliRunner().invoke(app, ["simulate", str(trace), *arguments])
    assert result.exit_code == 0, result.output
    (figures,) = json.loads(out.read_text())["results"]
    assert figures["composition"] == "exclusive"
    assert len(figures["tiers"]) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--policies", "lur"], "lru"),
        (["--capacity", "0%"], "above 0"),
        (["--capacity", "150%"], "at most 100"),
        (["--capacity", "4GiB"], "block-bytes"),
        (["--tiers", "2%,20%", "--composition", "mirror"], "clean-copy"),
        (["--tiers", "2%,20%", "--policies", "opt"], "single tier"),
        (["--policies", ""], "no policy is named"),
        (["--composition", "exclusive"], "--composition is for several tiers"),
        (["--tiers", "2%,20%", "--warm", "3"], "--warm is for a single tier"),
        (["--tiers", "2%,20%", "--capacity", "3%"], "--capacity is for a single tier"),
        (["--tiers", "2%,20%", "--plot", "p.png"], "--plot is for a single tier"),
        (["--warm", "200"], "leave nothing to count of 200"),
    ],
)
def test_simulate_says_what_is_wrong(trace: Path, arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(app, ["simulate", str(trace), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert word in str(result.exception)


def test_simulate_refuses_an_empty_trace(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "empty.jsonl")])
    assert isinstance(result.exception, TraceError)


@pytest.mark.parametrize(
    "arguments", [["simulate"], ["advise", "--block-bytes", "64KiB", "--budget", "cpu=4MiB", "--policies", "lru"]]
)
def test_no_bar_is_left_where_there_is_no_terminal(trace: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, str(trace)])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


def test_advise_without_a_policy_to_try_says_so(trace: Path) -> None:
    arguments = ["--block-bytes", "64KiB", "--budget", "cpu=4MiB", "--policies", ","]
    result = CliRunner().invoke(app, ["advise", str(trace), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert "no policy is named" in str(result.exception)


def test_advise_prints_a_device_line(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "advice.json"
    arguments = ["--block-bytes", "64KiB", "--budget", "cpu=4MiB,disk=64MiB", "--policies", "lru,leaf_lru"]
    result = CliRunner().invoke(app, ["advise", str(trace), *arguments, "--json", str(out)])
    assert result.exit_code == 0, result.output
    best = json.loads(out.read_text())["best"]
    assert f"device: {best['device']}" in result.output


def test_conform_policy_passes_a_built_in(tmp_path: Path) -> None:
    out = tmp_path / "rules.json"
    result = CliRunner().invoke(app, ["conform-policy", "fifo", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["passed"]


def test_conform_policy_refuses_the_optimum() -> None:
    result = CliRunner().invoke(app, ["conform-policy", "opt"])
    assert isinstance(result.exception, ConfigError)
