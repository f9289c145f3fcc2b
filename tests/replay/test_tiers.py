"""Measuring tiers: bytes on disk are counted, not believed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from lms_conformance.shared import SharedReference, forget_engine

from lms_tiers.device import parse_device
from lms_tiers.interface import BackendStats
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat
from lms_tiers.place.machine import disk_bytes
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.replay.tiers import TierFigures, TierMeter
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore


class Boastful(LMSLocalBackend):
    """Says it holds nothing."""

    def stats(self) -> BackendStats:
        return BackendStats(bytes_used=1, bytes_peak=2, bytes_written=30, bytes_read=40)


def write(path: Path, nbytes: int) -> None:
    with path.open("wb") as file:
        file.write(os.urandom(nbytes))
        os.fsync(file.fileno())


def test_files_below_a_directory_are_summed_up(tmp_path: Path) -> None:
    write(tmp_path / "a", 8192)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "deep" / "er" / "b", 100_000)
    assert 108_192 <= disk_bytes(tmp_path) < 108_192 + 8192
    assert disk_bytes(tmp_path / "a") == 8192


def test_holes_take_nothing(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert disk_bytes(tmp_path) < 65536


def test_what_is_not_there_takes_nothing(tmp_path: Path) -> None:
    assert disk_bytes(tmp_path / "absent") == 0


def test_a_file_larger_than_the_backend_says_is_seen(tmp_path: Path) -> None:
    write(tmp_path / "data", 50_000)
    meter = TierMeter(Boastful(), parse_device(f"cpu:{tmp_path}"))
    (used,) = meter.sample()
    (tier,) = meter.figures(7)
    assert used == tier.peak_bytes >= 50_000
    assert (tier.hits, tier.bytes_written, tier.bytes_read) == (7, 30, 40)


def test_the_peak_outlives_what_was_deleted_since(tmp_path: Path) -> None:
    write(tmp_path / "data", 50_000)
    meter = TierMeter(Boastful(), parse_device(f"cpu:{tmp_path}"))
    meter.sample()
    (tmp_path / "data").unlink()
    assert meter.sample() == (0,)
    assert meter.figures(0)[0].peak_bytes >= 50_000


def test_a_tier_in_memory_is_measured_by_what_it_says() -> None:
    backend = LMSLocalBackend()
    key = CacheEngineKey("m", 1, 0, 1, torch.uint8)
    message = ClientMetaMessage(ClientCommand.PUT, key, 5, MemoryFormat.BINARY, torch.uint8, torch.Size([5]))
    backend.put(message, bytearray(5))
    meter = TierMeter(backend, parse_device("cpu"))
    assert meter.sample() == (5,)
    assert meter.figures(0)[0].peak_bytes == 5


def test_a_tier_shared_with_others_is_shown_as_the_lowest_by_what_crossed_the_edge() -> None:
    tiers = [
        TierConfig("ram", LMSLocalBackend(), 1000, Lru(1000, time.monotonic)),
        TierConfig("pool", SharedReference("measured"), None, None, deadline=60.0),
    ]
    key = CacheEngineKey("m", 1, 0, 1, torch.uint8)
    message = ClientMetaMessage(ClientCommand.PUT, key, 5, MemoryFormat.BINARY, torch.uint8, torch.Size([5]))
    SharedReference("measured").put(message, bytearray(5))
    with TieredStore(tiers) as store:
        meter = TierMeter(store, parse_device("cpu?capacity=1000B > lm:host:1"))
        assert meter.sample() == (0, 0)
        assert store.get(key) is not None
        _, shared = meter.figures(1)
    forget_engine("measured")
    assert shared == TierFigures("pool", 1, None, 0, 0, 5)


@pytest.mark.parametrize(("capacity", "over"), [(None, False), (100, False), (99, True)])
def test_one_byte_over_capacity_is_over(capacity: int | None, over: bool) -> None:
    assert TierFigures("t", 0, capacity, 100, 0, 0).over_capacity is over
