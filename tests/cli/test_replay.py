"""`lms-tiers replay` at the command line: files, table, exit status."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lms_tiers.cli import main
from lms_tiers.interface import BackendStats
from lms_tiers.messages import CacheEngineKey, LMSMemoryObj
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.replay.generate import TraceShape, generate_trace, write_trace

Call = Callable[..., int]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    with path.open("w") as file:
        write_trace(generate_trace(TraceShape(requests=40, seed=2)), file)
    return path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, trace: Path) -> Call:
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str, trace: Path = trace) -> int:
        monkeypatch.setattr(sys, "argv", ["lms-tiers", "replay", str(trace), *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return call


def test_a_trace_flows_through_two_tiers_and_is_warm_after_a_restart(
    call: Call, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    device = f"cpu?capacity=4MiB > lmdb:{tmp_path}/kv?capacity=64MiB"
    assert call("--device", device, "--block-bytes", "16KiB", "--restart", "--json", str(out)) == 0
    document = json.loads(out.read_text())
    assert document["requests"] == 40
    assert document["wrong_blocks"] == 0
    assert document["verified_blocks"] >= document["prefix_hit_blocks"] > 0
    assert [t["name"] for t in document["tiers"]] == ["cpu", "lmdb"]
    assert all(0 < t["peak_bytes"] <= t["capacity_bytes"] for t in document["tiers"])
    assert document["restart"]["checked"] == document["restart"]["right"] > 0
    assert (document["restart"]["wrong"], document["restart"]["missing"]) == (0, 0)
    table = capsys.readouterr().out
    for part in ("verified byte for byte", "warm after restart", "lmdb", "64 MiB"):
        assert part in table
    # Another replay of the same trace finds the store warm.
    assert call("--device", device, "--block-bytes", "16KiB", "--json", str(out)) == 0
    assert json.loads(out.read_text())["prefix_hit_ratio"] > 0.9


def test_after_a_restart_of_what_is_not_persistent_nothing_is_said_to_be_missing(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--device", "cpu?capacity=4MiB", "--block-bytes", "16KiB", "--restart") == 0
    shown = capsys.readouterr()
    assert "nothing here is persistent" in shown.out
    assert "0 of 0" not in shown.out
    assert shown.err == ""


def test_the_named_number_of_requests_is_replayed(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--device", "cpu", "--block-bytes", "8KiB", "--requests", "7", "--json", "-") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["requests"], document["restart"]) == (7, None)
    assert "Replay" in captured.err


@pytest.fixture(scope="module")
def fonts() -> None:
    """matplotlib opens its fonts once and keeps them open: let it, before leaks are counted."""
    figure = pytest.importorskip("matplotlib.figure")
    figure.Figure().text(0, 0, "–").figure.savefig(io.BytesIO())


def test_a_plot_is_written_beside(fonts: None, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "replay.png"
    assert call("--device", "cpu", "--block-bytes", "8KiB", "--requests", "9", "--plot", str(path)) == 0
    assert path.read_bytes()[:4] == b"\x89PNG"


class Wrong(LMSLocalBackend):
    """Flips one bit in all it answers."""

    def get(self, key: CacheEngineKey) -> LMSMemoryObj | None:
        obj = super().get(key)
        if obj is not None:
            obj.data = bytearray(obj.data)
            obj.data[100] ^= 1
        return obj


class Obese(LMSLocalBackend):
    """Says it once held a byte more than it may."""

    def stats(self) -> BackendStats:
        return BackendStats(bytes_used=1, bytes_peak=2**20 + 1)


def test_wrong_bytes_end_with_status_1(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lms_tiers.plugins.cpu.LMSLocalBackend", Wrong)
    assert call("--device", "cpu", "--block-bytes", "8KiB", "--json", "-") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["wrong_blocks"] == document["verified_blocks"] > 0


def test_a_tier_over_its_capacity_ends_with_status_1(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lms_tiers.plugins.cpu.LMSLocalBackend", Obese)
    assert call("--device", "cpu?capacity=1MiB", "--block-bytes", "8KiB", "--requests", "3", "--json", "-") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["wrong_blocks"] == 0
    assert document["tiers"][0]["peak_bytes"] > document["tiers"][0]["capacity_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cqu"), "Did you mean 'cpu'?"),
        (("--device", "cpu", "--block-bytes", "256"), "has no unit"),
        (("--device", "cpu", "--block-bytes", "9B"), "multiple of 8"),
        (("--device", "cpu", "--json", "/absent/out.json"), "there is no directory /absent"),
        (("--device", "cpu:x?capacity=1MiB"), "backend 'cpu' has no location"),
        (("--device", "pinned?capacity=1MiB&page=5"), "option page = '5': size '5' has no unit"),
        (("--device", "cpu > "), "an empty tier beside '>'"),
        (("--device", "cpu?capacity=4KiB", "--block-bytes", "8KiB"), "holds at most"),
    ],
)
def test_what_cannot_be_replayed_is_one_line_and_status_2(
    arguments: tuple[str, ...], message: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_line_that_is_not_json_is_named_by_its_number(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]}\nnot json\n')
    assert call("--device", "cpu", trace=broken) == 2
    assert f"{broken}:2: is not JSON" in capsys.readouterr().err


def test_plots_without_matplotlib_are_refused_before_the_replay(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call("--device", "cpu", "--plot", str(tmp_path / "p.png")) == 2
    assert "pip install 'lms-tiers[plot]'" in capsys.readouterr().err
