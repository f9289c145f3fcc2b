"""Replays a trace through one live tier in the trace's own time: what simulations of that tier are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lms_tiers.device import parse_device
from lms_tiers.factory import open_backend
from lms_tiers.hookspecs import PolicySpec
from lms_tiers.registry import load_attribute
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.keys import BlockKeys, key_types
from lms_tiers.replay.replay import Replay, ReplayResult
from lms_tiers.replay.trace import Request
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore


class _NoMeter:
    def sample(self) -> tuple[int, ...]:
        return ()


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _TimedReplay(Replay):
    def __init__(self, store: TieredStore, block_bytes: int, clock: _Clock) -> None:
        super().__init__(store, BlockBytes(block_bytes), BlockKeys(block_bytes, key_types("native")), _NoMeter())
        self._clock = clock

    def _one(self, request: Request, keys: Sequence[Any]) -> None:
        self._clock.now = request.timestamp / 1000
        super()._one(request, keys)


def replay_live(
    spec: PolicySpec, requests: Sequence[Request], blocks: int, *, block_bytes: int = 4096, device: str = "cpu"
) -> ReplayResult:
    """Run a trace with real bytes through one tier that holds `blocks` blocks.

    Parameters
    ----------
    spec : PolicySpec
    requests : sequence of Request
    blocks : int
        Capacity.
    block_bytes : int
        Bytes of a block.
    device : str
        The tier's backend.
    """
    backend = open_backend(parse_device(device).tiers[0])
    capacity = blocks * backend.reserve_bytes(block_bytes)
    clock = _Clock()
    policy = load_attribute(spec.factory)(capacity, clock)
    with TieredStore([TierConfig(spec.name, backend, capacity, policy)], clock=clock) as store:
        return _TimedReplay(store, block_bytes, clock).run(requests)
