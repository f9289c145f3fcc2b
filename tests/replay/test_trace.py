"""Traces are read whole, and a bad line is named by its number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import TraceError
from lms_tiers.replay.trace import Request, iter_trace, read_trace


def line(**fields: Any) -> str:
    return json.dumps({"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]} | fields)


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_requests_come_in_order_with_ids_of_both_kinds(tmp_path: Path) -> None:
    path = write(tmp_path, line(), "", line(timestamp=5, hash_ids=["x", 3]))
    assert read_trace(path) == [Request(0, 600, 1, (1, 2)), Request(5, 600, 1, ("x", 3))]
    assert len(list(iter_trace(path, limit=1))) == 1


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"timestamp": 0}', "hash_ids"),
        (line(timestamp="now"), "timestamp"),
        (line(input_length=-1), "input_length"),
        (line(output_length=1.5), "output_length"),
        (line(hash_ids=[1.5]), "hash_ids"),
        (line(hash_ids=[True]), "hash_ids"),
        (line(hash_ids=5), "hash_ids"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, word: str) -> None:
    with pytest.raises(TraceError, match=word) as caught:
        read_trace(write(tmp_path, line(), bad))
    assert caught.value.line == 2


def test_timestamps_that_go_back_are_reported_or_taken(tmp_path: Path) -> None:
    path = write(tmp_path, line(timestamp=9), line(timestamp=3))
    with pytest.raises(TraceError, match="sort the trace") as caught:
        read_trace(path)
    assert caught.value.line == 2
    assert [request.timestamp for request in read_trace(path, any_order=True)] == [9, 3]


def test_an_empty_or_missing_trace_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no requests"):
        read_trace(write(tmp_path, ""))
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "none.jsonl")


def test_the_last_block_is_partial_where_the_input_does_not_fill_it() -> None:
    assert Request(0, 1000, 1, (1, 2)).tail_is_partial()
    assert not Request(0, 1024, 1, (1, 2)).tail_is_partial()
