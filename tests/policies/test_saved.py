"""What policies save is read back whole or not at all."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.policies.saved import pack, unpack


@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.floats(allow_nan=False)))
def test_arrays_come_back(keys: list[int], values: list[float]) -> None:
    sections: dict[str, array[Any]] = {"keys": array("Q", keys), "values": array("d", values)}
    assert unpack("p/1", pack("p/1", sections)) == sections


@given(st.binary())
def test_foreign_bytes_are_nothing(data: bytes) -> None:
    assert unpack("p/1", data) is None


@given(st.integers(0), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(where: int, flip: int) -> None:
    data = bytearray(pack("p/1", {"keys": array("Q", [1, 2, 3])}))
    data[where % len(data)] ^= flip
    assert unpack("p/1", bytes(data)) is None


def test_the_state_of_another_policy_is_refused() -> None:
    assert unpack("q/1", pack("p/1", {})) is None
