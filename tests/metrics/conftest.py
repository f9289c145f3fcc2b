"""Stores behind a metrics port, with a sick tier where a test wants one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from lms_tiers import CacheEngineKey, ChunkMeta, MemoryFormat
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import FaultyBackend
from lms_tiers.policies.lru import Lru
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.store import TieredStore


class Bench:
    """Two tiers of 1,000 and 4,000 bytes, and chunks of 100."""

    def __init__(self) -> None:
        self.lower = FaultyBackend(LMSLocalBackend())
        self.store = TieredStore(
            [
                TierConfig("ram", LMSLocalBackend(), 1000, Lru(1000, time.monotonic)),
                TierConfig("disk", self.lower, 4000, Lru(4000, time.monotonic)),
            ],
            back_pressure=60.0,
            stall=60.0,
        )

    @staticmethod
    def key(i: int) -> CacheEngineKey:
        return CacheEngineKey("model", 1, 0, i, torch.float32)

    def put(self, *numbers: int) -> None:
        meta = ChunkMeta(100, MemoryFormat.KV_2LTD, "uint8", (100,))
        for i in numbers:
            self.store.put(meta.message(self.key(i)), bytearray([i % 256]) * 100)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.lower.heal()
    bench.store.close()
