"""A live tier with real bytes hits what the simulation of its policy says."""

from __future__ import annotations

import pytest

from benchmarks.live_replay import replay_live
from lms_tiers.replay.generate import TraceShape, generate_trace
from lms_tiers.replay.simulate import policy_spec, prepare, simulate


@pytest.mark.parametrize("policy", ["lru", "leaf_lru", "hazard"])
@pytest.mark.parametrize("share", [2, 5])
def test_a_live_tier_hits_what_was_simulated(policy: str, share: int) -> None:
    requests = generate_trace(TraceShape(requests=300, seed=5))
    stream = prepare(requests)
    blocks = stream.unique * share // 100
    live = replay_live(policy_spec(policy), requests, blocks)
    assert (live.wrong, live.refused, live.vanished) == (0, 0, 0)
    assert live.prefix_hits == simulate(policy_spec(policy), stream, blocks).prefix_hits > 0
