"""What policies save is read back whole or not at all."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lms_tiers.policies.arc import Arc
from lms_tiers.policies.base import AccessContext
from lms_tiers.policies.queued import QueuePolicy
from lms_tiers.policies.s3fifo import S3Fifo
from lms_tiers.policies.saved import pack, unpack
from lms_tiers.policies.twoq import TwoQ
from lms_tiers.policies.wtinylfu import WTinyLfu


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


@pytest.mark.parametrize(("kind", "second"), [(Arc, "_t2"), (TwoQ, "_main"), (S3Fifo, "_main"), (WTinyLfu, "_proven")])
def test_each_key_is_back_in_the_queue_that_it_stood_in(kind: type[QueuePolicy[Any]], second: str) -> None:
    policy, fresh = kind(1000, lambda: 0.0), kind(1000, lambda: 0.0)
    now = AccessContext(0.0)
    for each in (policy, fresh):
        for i in range(8):
            each.on_insert(f"k{i}", 10, now)
    queue = getattr(policy, second)
    for key in ("k5", "k2"):
        node = policy._nodes[key]
        node.queue.unlink(node)
        queue.append(node)
    fresh.restore(policy.state())
    for name, saved in policy._queues.items():
        assert [node.key for node in fresh._queues[name]] == [node.key for node in saved]
    assert {"k5", "k2"} <= {node.key for node in getattr(fresh, second)}
