"""The plot of a replay: a PNG that opens, or an error that says what to install."""

from __future__ import annotations

import dataclasses
import struct
import sys
from pathlib import Path

import pytest

from lms_tiers.errors import ConfigError, StorageUnavailableError
from lms_tiers.replay.plot import plot_replay
from lms_tiers.replay.replay import ReplayResult, Sample, Timing
from lms_tiers.replay.report import Report
from lms_tiers.replay.tiers import TierFigures


def report(samples: int) -> Report:
    result = ReplayResult(requests=samples, blocks=10 * samples, prefix_hits=4 * samples)
    result.samples = [Sample(i, 1000.0 * i, 10 * i + 10, 4 * i, (i, 2 * i)) for i in range(samples)]
    result.get = result.put = Timing(1.0, 10, [0.1] * 10)
    tiers = [TierFigures("cpu", 3, 100, 90, 0, 0), TierFigures("lmdb", 1, None, 200, 0, 0)]
    return Report("trace.jsonl", "cpu?capacity=100B > lmdb:x", "native", 8, result, tiers)


@pytest.fixture(scope="module", autouse=True)
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """matplotlib opens its fonts once and keeps them open."""
    pytest.importorskip("matplotlib")
    plot_replay(report(1), tmp_path_factory.mktemp("fonts") / "first.png")


@pytest.mark.parametrize("samples", [0, 1, 300])
def test_a_png_of_any_number_of_requests_is_written(samples: int, tmp_path: Path) -> None:
    path = tmp_path / "replay.png"
    plot_replay(report(samples), path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 700


@pytest.mark.parametrize("name", ["t\udcff.jsonl", "a$\\frac$.jsonl"])
def test_a_trace_of_any_name_is_drawn(name: str, tmp_path: Path) -> None:
    plot_replay(dataclasses.replace(report(3), trace=name), tmp_path / "replay.png")
    assert (tmp_path / "replay.png").stat().st_size > 1000


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'lms-tiers\[plot\]'"):
        plot_replay(report(1), tmp_path / "replay.png")


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be written"):
        plot_replay(report(2), tmp_path / "absent" / "replay.png")
