"""Buffers of callers: which are taken, and what is said of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lms_tiers.buffers import writable_bytes
from lms_tiers.errors import InvalidBufferError


@pytest.mark.parametrize(
    "buffer", [bytearray(), np.empty(0, np.uint8), np.empty((0, 3), np.float32), np.empty((3, 0, 2))]
)
def test_a_buffer_without_bytes_has_room_for_a_chunk_without_bytes_whatever_its_shape(buffer: Any) -> None:
    view = writable_bytes(buffer, 0)
    assert (view.nbytes, view.format, view.ndim, view.readonly) == (0, "B", 1, False)
    with pytest.raises(InvalidBufferError, match="has 0 bytes"):
        writable_bytes(buffer, 1)


def test_the_bytes_are_the_callers_whatever_the_shape() -> None:
    buffer = np.zeros((2, 3), np.uint16)
    writable_bytes(buffer, 12)[:] = bytes(range(12))
    assert buffer.tobytes() == bytes(range(12))


@pytest.mark.parametrize("buffer", [b"read only", np.zeros((4, 4))[:, 1], 7])
def test_a_buffer_that_cannot_be_written_to_in_one_piece_is_a_typed_error(buffer: Any) -> None:
    with pytest.raises(InvalidBufferError):
        writable_bytes(buffer, 1)
