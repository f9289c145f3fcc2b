"""simulate, advise and replay on traces as others publish them, from a file or a pipe, and what they warn of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lms_tiers.cli import app
from lms_tiers.replay.generate import TraceShape, generate_trace

ADVISE = ["advise", "--block-bytes", "64KiB", "--budget", "cpu=1MiB,disk=4MiB", "--policies", "lru"]


def qwen(seconds_apart: float = 0.15, count: int = 60) -> str:
    """Chats of 32 blocks of 16 tokens, the last of each full."""
    return "".join(
        json.dumps(
            {
                "chat_id": i, "parent_chat_id": -1, "timestamp": seconds_apart * i, "input_length": 512,
                "output_length": 9, "type": "text", "turn": 1, "hash_ids": [f"{i // 2}-{j}" for j in range(32)],
            }
        ) + "\n"
        for i in range(count)
    )  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "qwen.jsonl"
    path.write_text(qwen())
    return path


def document(arguments: list[str], **runner: Any) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(app, [*arguments, "--json", "-"], **runner)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_advise_counts_the_writes_of_a_day_in_the_traces_own_seconds(trace: Path) -> None:
    best, said = document([*ADVISE, str(trace)])
    # 30 chats of 32 blocks in 8.85 s, whatever the policy: 60 requests 0.15 s apart.
    unique = 30 * 32 * 65536 * 86_400 / 8.85
    assert max(best["best"]["writes_per_day"]) < 2 * unique
    assert best["format"] == {"name": "qwen", "block_tokens": 16, "time_unit": "s"}
    assert "warning" not in said
    assert "qwen" in said


def test_a_rate_that_cannot_be_is_a_warning(trace: Path) -> None:
    wrong, said = document([*ADVISE, str(trace), "--time-unit", "ms"])
    assert "requests a second" in said
    assert "--time-unit s" in said
    assert wrong["warnings"]
    _, said = document(["simulate", str(trace), "--format", "mooncake"])
    assert "--block-tokens 16" in said


def test_options_override_the_format(trace: Path) -> None:
    figures, _ = document(["simulate", str(trace), "--format", "mooncake", "--block-tokens", "16", "--time-unit", "s"])
    assert figures["format"] == {"name": "mooncake", "block_tokens": 16, "time_unit": "s"}
    assert figures["warnings"] == []


@pytest.mark.parametrize("arguments", [["simulate"], ADVISE, ["replay", "--device", "cpu", "--block-bytes", "64B"]])
def test_a_hyphen_is_standard_input(arguments: list[str], trace: Path) -> None:
    piped, _ = document([*arguments, "-"], input=qwen())
    filed, _ = document([*arguments, str(trace)])
    for key in ("requests", "references", "prefix_hit_blocks", "best"):
        assert piped.get(key) == filed.get(key)


def test_full_blocks_are_put_where_partial_ones_are_skipped(trace: Path) -> None:
    device = ["replay", str(trace), "--device", "cpu", "--block-bytes", "64B", "--skip-partial"]
    figures, _ = document(device)
    assert figures["run"]["put_blocks"] == 30 * 32
    assert figures["run"]["format"] == {"name": "qwen", "block_tokens": 16, "time_unit": "s"}
    wrong, said = document([*device, "--block-tokens", "32"])
    assert wrong["run"]["put_blocks"] == 30 * 31
    assert "--block-tokens 16" in said


def test_every_trace_command_takes_timestamps_that_go_back(tmp_path: Path) -> None:
    lines = qwen().splitlines(keepends=True)
    path = tmp_path / "back.jsonl"
    path.write_text("".join(reversed(lines)))
    for arguments in (["simulate"], ADVISE, ["replay", "--device", "cpu", "--block-bytes", "64B"]):
        document([*arguments, str(path), "--any-order"])


def test_a_trace_made_here_is_read_without_a_word(tmp_path: Path) -> None:
    assert generate_trace(TraceShape(requests=5, seed=1))[0].block_tokens == 512
    path = tmp_path / "made.jsonl"
    assert CliRunner().invoke(app, ["make-trace", str(path), "--requests", "50"]).exit_code == 0
    figures, said = document(["simulate", str(path)])
    assert figures["format"] == {"name": "mooncake", "block_tokens": 512, "time_unit": "ms"}
    assert "warning" not in said
    assert "read as" not in said
