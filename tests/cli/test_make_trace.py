"""`lms-tiers make-trace` at the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lms_tiers.cli import main
from lms_tiers.replay.trace import read_trace


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lms-tiers", "make-trace", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_a_trace_and_its_summary_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, summary = tmp_path / "trace.jsonl", tmp_path / "summary.json"
    assert call(monkeypatch, str(trace), "--requests", "50", "--json", str(summary)) == 0
    requests = read_trace(trace)
    document = json.loads(summary.read_text())
    assert document["requests"] == len(requests) == 50
    assert document["references"] == sum(len(r.hash_ids) for r in requests)
    assert document["unique"] == len({b for r in requests for b in r.hash_ids})
    assert "infinite cache hits" in capsys.readouterr().out


def test_one_seed_writes_one_file_byte_for_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for path, seed in ((a, "1"), (b, "1"), (c, "2")):
        assert call(monkeypatch, "-o", str(path), "--requests", "40", "--conversations", "9", "--seed", seed) == 0
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


def test_standard_output_holds_the_trace_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "-o", "-", "--requests", "5") == 0
    out = capsys.readouterr().out
    assert [sorted(json.loads(line)) for line in out.splitlines()] == [
        ["hash_ids", "input_length", "output_length", "timestamp"]
    ] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "-", "--json", "-"), "cannot both go to standard output"),
        (("-o", "-", "--requests", "3", "--conversations", "4"), "4 conversations do not fit 3 requests"),
        (("/absent/trace.jsonl",), "cannot be written"),
        ((), "name one file to write"),
        (("a", "-o", "b"), "name one file to write"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
