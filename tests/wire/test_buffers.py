"""Buffers for bytes that are on their way: as long as asked for, and nobody else's."""

from __future__ import annotations

import pytest

from lms_tiers.wire.buffers import paged_buffer

PAGE = 4096


@pytest.mark.parametrize("length", [0, 1, PAGE - 1, 32 * PAGE - 1, 32 * PAGE, 32 * PAGE + 1, 100_001, 1 << 20, 3 << 20])
def test_a_buffer_whose_pages_are_made_at_once_is_as_long_as_asked_for_and_leaves_others_alone(length: int) -> None:
    held = []
    for i in range(1, 9):
        buffer = paged_buffer(length)
        assert type(buffer) is bytearray
        assert len(buffer) == length
        buffer[:] = bytes([i]) * length
        held.append(buffer)
    assert [buffer == bytes([i]) * length for i, buffer in enumerate(held, 1)] == [True] * 8
    held[0].append(1)  # nothing holds it fast
