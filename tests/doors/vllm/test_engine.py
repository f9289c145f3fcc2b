"""The tier under vLLM's own specification, manager and shared region of memory."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from lms_conformance.adapters.vllm_tier.drive import name

from lms_tiers.errors import DeadlineExceededError
from tests.depth import drawn
from tests.doors.vllm.conftest import PATIENCE, REAL, metrics_of
from tests.doors.vllm.test_trouble import FAULTS, READS

pytestmark = pytest.mark.skipif(not REAL, reason="vLLM is not installed: make doors")

#: Bytes of a chunk as the workers fill it; a row of the primary tier is rounded up to pages.
FILLED = 10_000
OWN = {"type": "LMSTier", "module_path": "lms_tiers.doors.vllm"}


class Engine:
    """vLLM's scheduler side: a manager, and what the workers would do to its rows."""

    def __init__(self, tier: dict[str, Any], rows: int = 8, **changes: Any) -> None:
        from vllm.v1.kv_offload.config import (
            OffloadingCacheConfig,
            OffloadingConfig,
            OffloadingGroupConfig,
            OffloadingModelConfig,
            OffloadingParallelConfig,
        )
        from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

        extra = {"cpu_bytes_to_use": rows * 12_288, "secondary_tiers": [dict(tier)], **changes.pop("extra", {})}
        config = OffloadingConfig(
            groups=(OffloadingGroupConfig(tokens_per_block=16, layer_names=("l0", "l1"), group_id=0),),
            worker_kv_bytes_per_block=FILLED,
            enable_kv_cache_events=True,
            extra_config=extra,
            engine_id=uuid.uuid4().hex,
            model=OffloadingModelConfig(name=changes.get("model", "llama"), dtype=changes.get("dtype", "bfloat16")),
            cache=OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
            parallel=OffloadingParallelConfig(
                rank=0, world_size=1, tp_size=1, pp_size=1, pcp_size=1, dcp_size=1, data_parallel_index=0,
                data_parallel_size=1, data_parallel_rank_local=None, is_parallelism_agnostic=False,
            ),
            kv_cache_layout="LBNHC",
        )  # fmt: skip
        self.spec = TieringOffloadingSpec(config)
        self.extra = extra
        self.manager: Any = self.spec.get_manager()
        (self.tier,) = self.manager.secondary_tiers
        self.requests = 0

    @property
    def store(self) -> Any:
        return self.tier._store.backend

    def request(self) -> Any:
        from vllm.v1.kv_offload.base import ReqContext

        self.requests += 1
        context = ReqContext(req_id=f"request-{self.requests}")
        self.manager.on_new_request(context)
        return context

    def step(self) -> None:
        from vllm.v1.kv_offload.base import ScheduleEndContext

        self.manager.on_schedule_end(ScheduleEndContext(new_req_ids=(), preempted_req_ids=()))

    def settle(self) -> None:
        """Steps until no transfer is under way."""
        deadline = time.monotonic() + PATIENCE
        while self.manager._jobs:
            assert time.monotonic() < deadline, "a transfer never ended"
            self.step()
            threading.Event().wait(0.001)

    def row(self, slot: int) -> Any:
        flat = numpy.asarray(self.manager.primary_tier.get_kv_memoryview())
        return flat[slot]

    def put(self, keys: list[int]) -> None:
        """A request computes chunks, which go to the primary tier and from there to ours."""
        context = self.request()
        output = self.manager.prepare_store([name(key) for key in keys], context)
        assert output is not None, "the primary tier has no room"
        for key, slot in zip(output.keys_to_store, output.store_spec.chunk_ids, strict=True):
            self.row(slot)[:] = content(_number(key))
        if output.keys_to_store:
            self.manager.complete_store(output.keys_to_store, context)
        self.settle()
        self.manager.on_request_finished(context)

    def get(self, keys: list[int]) -> dict[int, bytes]:
        """A request looks for chunks until all is known, and reads those that came."""
        context = self.request()
        deadline = time.monotonic() + PATIENCE
        found = {}
        for key in keys:
            while (answer := self.manager.lookup(name(key), context).name) in ("RETRY", "HIT_PENDING"):
                assert time.monotonic() < deadline, "a look-up never came to an end"
                self.step()
                threading.Event().wait(0.001)
            if answer == "HIT":
                loaded = self.manager.prepare_load([name(key)], context)
                found[key] = self.row(int(loaded.chunk_ids[0])).tobytes()
                self.manager.complete_load([name(key)], context)
        self.manager.on_request_finished(context)
        self.step()
        return found

    def close(self) -> None:
        self.manager.shutdown()


def content(key: int) -> Any:
    """A row as the workers leave it: filled, and what stood in the padding."""
    return numpy.random.default_rng(key).integers(-128, 128, 12_288, dtype=numpy.int8)


def _number(key: bytes) -> int:
    return int.from_bytes(key[:-4], "big")


def _is_right(found: dict[int, bytes]) -> bool:
    return all(data == content(key).tobytes() for key, data in found.items())


@pytest.fixture
def start() -> Iterator[Any]:
    engines: list[Engine] = []

    def starting(device: str, **changes: Any) -> Engine:
        options = changes.pop("options", {})
        engines.append(Engine({**OWN, "device": device, **options}, **changes))
        return engines[-1]

    yield starting
    for engine in engines:
        if engine.spec._scheduler_mmap is not None and engine.spec._scheduler_mmap.mmap_obj is not None:
            engine.close()
        assert not list(Path("/dev/shm").glob(f"vllm_offload_{engine.spec._engine_id}*"))


@pytest.mark.parametrize("by", ["module path", "plugin"])
def test_chunks_that_left_the_primary_tier_come_back_whole(start: Any, tmp_path: Path, by: str) -> None:
    from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

    from lms_tiers.doors.vllm.plugin import register

    options = {}
    if by == "plugin":
        register()
        options = {"type": "lms", "module_path": "nowhere"}
    try:
        engine = start(f"lmdb:{tmp_path}/kv?capacity=64MiB", options=options)
        for at in range(0, 24, 4):
            engine.put(list(range(at, at + 4)))
        found = engine.get(list(range(4)))
        assert sorted(found) == [0, 1, 2, 3]
        assert _is_right(found)
        assert engine.get([99]) == {}
    finally:
        SecondaryTierFactory._registry.pop("lms", None)


def test_the_region_is_given_back_at_the_shutdown(start: Any) -> None:
    engine = start("cpu?capacity=4MiB")
    engine.put([1, 2])
    region = engine.spec._scheduler_mmap
    engine.close()
    assert region.mmap_obj is None, "somebody still has a view of it"
    assert not os.path.exists(region.mmap_path)


def test_the_region_stays_mapped_where_a_transfer_is_inside_the_store(start: Any) -> None:
    engine = start("cpu?capacity=4MiB", options={"close_timeout": "20ms"})
    engine.put([1])
    for at in range(10, 26, 4):
        engine.put(list(range(at, at + 4)))
    gate, inside = threading.Event(), threading.Event()
    call = engine.store.get_many_into

    def waits(*given: Any, **named: Any) -> Any:
        inside.set()
        assert gate.wait(PATIENCE)
        return call(*given, **named)

    engine.store.get_many_into, close = waits, engine.store.close
    engine.store.close = lambda: None
    context = engine.request()
    while not inside.is_set():
        engine.manager.lookup(name(1), context)
        engine.step()
    region = engine.spec._scheduler_mmap
    with pytest.raises(DeadlineExceededError):
        engine.close()
    assert region.mmap_obj is not None
    gate.set()
    engine.tier._close_timeout = 10 * PATIENCE
    engine.close()
    assert region.mmap_obj is None
    close()


def test_slots_are_free_again_after_transfers_that_failed(start: Any) -> None:
    from lms_tiers.plugins.faulty.backend import Fault

    engine = start("store?breaker_threshold=1000 > faulty:cpu?capacity=4MiB", rows=4)
    engine.put([1, 2, 3, 4])
    engine.put([5, 6, 7, 8])
    faulty = engine.store._h.tiers[0].backend
    for operation in (*READS, "put", "put_many", "put_from"):
        faulty.inject(operation, Fault.FAIL)
    assert engine.get([1, 2]) == {}
    engine.put([11, 12, 13, 14])  # needs all of the primary tier, and is not stored
    faulty.heal()
    engine.put([15, 16, 17, 18])
    assert sorted(engine.get([1, 2, 11, 12])) == [1, 2]


def test_a_reset_of_the_primary_tier_costs_nothing_here(start: Any, tmp_path: Path) -> None:
    engine = start(f"lmdb:{tmp_path}/kv?capacity=64MiB")
    engine.put([1, 2, 3])
    engine.manager.reset_cache()
    if hasattr(engine.manager, "on_reset_flushed"):  # since 0.33
        engine.manager.on_reset_flushed()
    found = engine.get([1, 2, 3])
    assert sorted(found) == [1, 2, 3]
    assert _is_right(found)


def test_another_engine_starts_warm_and_another_dtype_does_not(start: Any, tmp_path: Path) -> None:
    device = f"lmdb:{tmp_path}/kv?capacity=64MiB"
    first = start(device)
    first.put([1, 2, 3])
    first.close()
    second = start(device, dtype="float16")
    assert second.get([1, 2, 3]) == {}
    second.close()
    third = start(device)
    found = third.get([3, 2, 1])
    assert sorted(found) == [1, 2, 3]
    assert _is_right(found)


def test_events_and_metrics_reach_the_engine(start: Any) -> None:
    engine = start("cpu?capacity=49152B")  # four chunks
    engine.put([1, 2, 3])
    engine.put([4, 5, 6])
    present: dict[int, bool] = {}
    deadline = time.monotonic() + PATIENCE
    while sorted(key for key, held in present.items() if held) != sorted(
        key for key in range(1, 7) if engine.store.contains(engine.tier._store.key(_opaque(key)))
    ):
        assert time.monotonic() < deadline
        for event in engine.manager.take_events():
            if event.medium.value == "STORAGE":
                present.update(dict.fromkeys(map(_number, event.keys), not event.removed))
    assert len(present) == 6
    defined = engine.spec.build_metric_definitions(engine.extra)
    stats = engine.manager.get_stats()
    ours = [metric for metric in metrics_of(stats) if metric.startswith("vllm:kv_offload_lms_")]
    assert "vllm:kv_offload_lms_stored_chunks" in ours
    assert set(ours) <= set(defined)


def _opaque(key: int) -> Any:
    from lms_tiers import OpaqueKey

    return OpaqueKey(name(key).hex())


@pytest.mark.parametrize("seeds", drawn(4, 24))
def test_under_the_manager_a_third_of_all_calls_failing_gives_no_wrong_byte(
    start: Any, tmp_path: Path, seeds: range
) -> None:
    hits = 0
    for seed in seeds:
        rng = random.Random(seed)
        place = rng.choice(["faulty:cpu?capacity=300KiB", f"faulty:lmdb:{tmp_path}/{seed}?capacity=64MiB"])
        engine = start(f"store?breaker_threshold=1000&back_pressure=10ms > {place}&seed={seed}")
        for tier in engine.store._h.tiers:
            for fault, probability in FAULTS:
                tier.backend.inject("*", fault, probability=probability)
        for _ in range(30):
            keys = rng.sample(range(20), rng.randint(1, 4))
            if rng.random() < 0.5:
                engine.put(keys)
            else:
                found = engine.get(keys)
                assert _is_right(found), f"seed {seed}"
                hits += len(found)
        assert not engine.manager._jobs
        for tier in engine.store._h.tiers:
            tier.backend.heal()
        engine.close()
    assert hits > 20
