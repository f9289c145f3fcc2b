"""A replay through two tiers: all that fits is hit, with either kind of keys, and measured as it is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from lms_tiers.device import parse_device
from lms_tiers.factory import open_device
from lms_tiers.place.machine import disk_bytes
from lms_tiers.replay.blocks import BlockBytes
from lms_tiers.replay.generate import TraceShape, generate_trace, summarize_trace
from lms_tiers.replay.keys import BlockKeys, KeyKind, key_types
from lms_tiers.replay.replay import Replay, ReplayResult
from lms_tiers.replay.restart import warm_blocks
from lms_tiers.replay.tiers import TierFigures, TierMeter

SIZE = 16384
TRACE = generate_trace(TraceShape(requests=60, seed=4))
UNIQUE = summarize_trace(TRACE).unique


def run(folder: Path, kind: KeyKind) -> tuple[ReplayResult, list[TierFigures], int]:
    device = parse_device(
        f"store?stall=60s > cpu?capacity=2MiB > lmdb:{folder}?capacity=128MiB"
    )  # on a busy machine, too
    keys = BlockKeys(SIZE, key_types(kind))
    with open_device(device) as store:
        meter = TierMeter(store, device)
        result = Replay(store, BlockBytes(SIZE), keys, meter).run(TRACE)
        return result, meter.figures(result.verified), len(warm_blocks(store, keys, TRACE))


@pytest.mark.parametrize("kind", ["native", "lmcache"])
def test_what_fits_on_disk_is_hit_and_should_be_warm(tmp_path: Path, kind: KeyKind, lmcache: None) -> None:
    result, (cpu, lmdb), warm = run(tmp_path / "kv", kind)
    assert (result.wrong, result.refused, result.vanished) == (0, 0, 0)
    assert result.prefix_hits == result.verified == summarize_trace(TRACE).infinite_hits
    assert result.put.blocks == UNIQUE == warm
    assert UNIQUE * SIZE > 4 * 2**21  # most of it had to leave memory
    assert cpu.hits + lmdb.hits == result.verified
    assert lmdb.hits > 0
    assert 0 < cpu.peak_bytes <= 2 * 2**20
    assert lmdb.peak_bytes >= disk_bytes(tmp_path / "kv")
    assert not cpu.over_capacity
    assert not lmdb.over_capacity
    assert [len(s.tier_bytes) for s in result.samples] == [2] * 60


def test_chunks_put_with_keys_of_lmcache_are_read_with_native_ones(tmp_path: Path, lmcache: None) -> None:
    run(tmp_path / "kv", "lmcache")
    result, _, _ = run(tmp_path / "kv", "native")
    assert (result.wrong, result.vanished) == (0, 0)
    assert result.prefix_hits == result.blocks
