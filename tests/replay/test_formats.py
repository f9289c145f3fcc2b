"""Traces as others publish them: known by their fields, read in their own units, or as one is told."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import TraceError
from lms_tiers.replay.formats import FORMATS, TimeUnit, TraceReading, layout_of
from lms_tiers.replay.trace import Request, load_trace, read_trace

#: A line as in Qwen's public usage traces: a chat, seconds, 16 tokens a block.
QWEN: dict[str, Any] = {
    "chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 48, "output_length": 132, "type": "text",
    "turn": 1, "hash_ids": ["1089", "1090", "6326"],
}  # fmt: skip
MOONCAKE = {"timestamp": 61, "input_length": 1024, "output_length": 5, "hash_ids": [1, 2]}


def write(tmp_path: Path, *records: dict[str, Any]) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_trace_of_chats_is_read_in_seconds_and_blocks_of_16_tokens(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, QWEN, QWEN | {"timestamp": 62.5, "input_length": 47}))
    assert (trace.layout.format, trace.layout.block_tokens, trace.layout.time_unit) == ("qwen", 16, TimeUnit.SECONDS)
    full, partial = trace.requests
    assert full.timestamp == pytest.approx(61114)
    assert partial.timestamp == 62500
    assert (full.tail_is_partial(), partial.tail_is_partial()) == (False, True)


def test_other_traces_are_read_in_milliseconds_and_blocks_of_512_tokens(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, MOONCAKE))
    assert (trace.layout.format, trace.layout.block_tokens) == ("mooncake", 512)
    assert trace.requests == [Request(61, 1024, 5, (1, 2))]
    assert not trace.requests[0].tail_is_partial()


def test_what_one_is_told_wins_over_what_the_fields_say(tmp_path: Path) -> None:
    path = write(tmp_path, QWEN)
    told = TraceReading(block_tokens=64, time_unit=TimeUnit.MICROSECONDS)
    (request,) = read_trace(path, reading=told)
    assert request == Request(request.timestamp, 48, 132, tuple(QWEN["hash_ids"]), 64)
    assert request.timestamp == pytest.approx(0.061114)
    as_mooncake = load_trace(path, reading=TraceReading(format="mooncake"))
    assert (as_mooncake.layout.block_tokens, as_mooncake.layout.time_unit) == (512, TimeUnit.MILLISECONDS)
    as_qwen = load_trace(write(tmp_path, MOONCAKE), reading=TraceReading(format="qwen"))
    assert as_qwen.requests[0].timestamp == 61_000


def test_every_format_has_fields_of_its_own() -> None:
    for known in FORMATS.values():
        assert layout_of(dict.fromkeys(known.fields), TraceReading()).format == known.name


@pytest.mark.parametrize("unit", TimeUnit)
def test_an_order_that_goes_back_is_told_in_the_units_of_the_file(tmp_path: Path, unit: TimeUnit) -> None:
    path = write(tmp_path, MOONCAKE | {"timestamp": 7.5}, MOONCAKE | {"timestamp": 6.25})
    with pytest.raises(TraceError, match=r"timestamp 6\.25 lies before 7\.5"):
        read_trace(path, reading=TraceReading(time_unit=unit))


def test_a_timestamp_that_is_no_number_is_told_with_its_unit(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="not a number of s"):
        read_trace(write(tmp_path, QWEN | {"timestamp": "now"}))


def test_standard_input_is_read_where_the_path_is_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(QWEN) + "\n{\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert len(read_trace("-", limit=1)) == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    with pytest.raises(TraceError, match=r"standard input:2: is not JSON"):
        read_trace(Path("-"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TraceError, match="standard input: is closed"):
        read_trace("-")


def test_an_id_of_any_text_has_a_key_and_bytes() -> None:
    from lms_tiers.replay.blocks import BlockBytes
    from lms_tiers.replay.keys import BlockKeys, key_types

    (lone,) = json.loads('["\\udcff"]')
    assert BlockKeys(64, key_types("native")).key(lone).to_string()
    assert BlockBytes(64).matches(lone, BlockBytes(64).make(lone))


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400])
def test_a_timestamp_without_bounds_is_named(tmp_path: Path, number: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f'{{"timestamp": {number}, "input_length": 1, "hash_ids": [1]}}\n')
    with pytest.raises(TraceError, match="not a number of ms"):
        read_trace(path)
