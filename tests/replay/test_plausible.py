"""Figures that no machine and no trace can have are doubted, with the option that would mend them."""

from __future__ import annotations

import pytest

from lms_tiers.replay.generate import TraceShape, generate_trace
from lms_tiers.replay.plausible import reading_doubts, write_doubts
from lms_tiers.replay.trace import Request


def requests(count: int, apart_ms: float, tokens: int, blocks: int, block_tokens: int = 512) -> list[Request]:
    return [Request(i * apart_ms, tokens, 1, tuple(range(blocks)), block_tokens) for i in range(count)]


def test_seconds_read_as_milliseconds_are_a_rate_that_no_machine_serves() -> None:
    (doubt,) = reading_doubts(requests(100, 0.15, 1024, 2))
    assert "6,667 requests a second" in doubt
    assert "--time-unit s" in doubt


def test_a_block_count_that_does_not_fit_names_the_one_that_would() -> None:
    (doubt,) = reading_doubts(requests(100, 150, 1000, 63))
    assert "100 of 100 requests" in doubt
    assert "1,000 tokens in 63 blocks" in doubt
    assert "--block-tokens 16" in doubt


def test_a_block_count_that_fits_no_size_is_doubted_without_a_guess() -> None:
    odd = [Request(0, 1000, 1, tuple(range(63))), Request(150, 1000, 1, (1,))]
    (doubt,) = reading_doubts(odd)
    assert "1 of 2 requests" in doubt
    assert "--block-tokens" in doubt
    assert "16" not in doubt.replace("1,000", "")


@pytest.mark.parametrize("blocks", [62, 63])
def test_a_trace_of_full_blocks_only_fits_as_well(blocks: int) -> None:
    assert reading_doubts(requests(100, 150, 1000, blocks, 16)) == []


def test_a_sound_trace_is_not_doubted() -> None:
    assert reading_doubts(generate_trace(TraceShape(requests=300, seed=1))) == []
    assert reading_doubts([]) == []


def test_a_few_requests_at_one_time_are_no_rate() -> None:
    assert reading_doubts(requests(5, 0.0, 1024, 2)) == []


def test_bytes_that_no_device_writes_are_doubted() -> None:
    day = 86_400
    (doubt,) = write_doubts([("cpu", 10**9 * day), ("disk", 400 * 10**9 * day)])
    assert "disk" in doubt
    assert "400 GB a second" in doubt
    assert write_doubts([("cpu", 20 * 10**9 * day), ("disk", 10**9 * day)]) == []
