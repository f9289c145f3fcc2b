"""The adapter under LMCache's own storage manager, its loops, its memory and its fault injector.

LMCache only: `make doors` makes the environment; without LMCache these are skipped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.doors.lmcache.engine import Listener, key, layout, pattern
from tests.doors.lmcache.test_adapter import until

pytest.importorskip("lmcache.v1.distributed.storage_manager", reason="LMCache is not installed: make doors")

from lmcache.v1.distributed import api
from lmcache.v1.distributed.config import EvictionConfig, L1ManagerConfig, L1MemoryManagerConfig, StorageManagerConfig
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache.v1.distributed.storage_manager import StorageManager

# Its threads, notifiers and shared memory are its own: some outlive a manager.
pytestmark = [pytest.mark.leaks_allowed, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SHAPES, DTYPES = [(2, 2, 64, 128)], [torch.bfloat16]
HYBRID = [(2, 3, 64, 128), (1, 5, 8)], [torch.bfloat16, torch.float32]


def device(place: Path) -> str:
    return f"lmdb:{place}?capacity=256MiB&codec=raw&sync=none"


def adapter_json(place: Path, **outer: Any) -> str:
    ours = {
        "type": "plugin", "module_path": "lms_tiers.doors.lmcache", "class_name": "L2Adapter",
        "adapter_params": {"device": device(place)},
    }  # fmt: skip
    return json.dumps({**outer, "inner": ours} if outer else ours)


@contextmanager
def managed(spec: str) -> Iterator[Any]:
    """LMCache's storage manager over one adapter."""
    memory = L1MemoryManagerConfig(size_in_bytes=64 << 20, use_lazy=False, shm_name="")
    manager = StorageManager(
        StorageManagerConfig(
            l1_manager_config=L1ManagerConfig(memory_config=memory),
            eviction_config=EvictionConfig(eviction_policy="LRU"),
            l2_adapter_config=parse_args_to_l2_adapters_config(argparse.Namespace(l2_adapter=[spec])),
        )
    )
    try:
        yield manager
    finally:
        manager.close()


def adapter_of(manager: Any) -> Any:
    adapters = manager._l2_adapters
    return next(iter(adapters.values())) if isinstance(adapters, dict) else adapters[0]


def written(manager: Any, keys: list[Any], desc: Any) -> None:
    """Write chunks as workers do; they flow to the adapter behind that."""
    try:
        objects = manager.reserve_write(keys, desc)
    except TypeError:  # before 0.5.6
        objects = manager.reserve_write(keys, desc, "new")
    for i, one in enumerate(keys):
        raw = torch.frombuffer(objects[one].byte_array, dtype=torch.uint8)
        raw.copy_(pattern(i, raw.numel()))
    manager.finish_write(keys)


def read(manager: Any, keys: list[Any], desc: Any) -> list[bool]:
    """Prefetch keys, and look at the bytes of the leading run that is there: which of it came as they were."""
    group = keys[0].object_group_id
    if hasattr(api, "PrefetchTaskSpec"):
        row = api.GroupedObjectKeys(keys=keys, object_group_id=group, layout_desc=desc)
        spec = api.PrefetchTaskSpec(key_groups=[row])
    else:  # before 0.5.6
        spec = api.PrefetchRequestSpec(keys=keys, group_layout_descs={group: desc})
    handle = manager.submit_prefetch_task(spec)
    found: list[Any] = []

    def done() -> bool:
        found.extend(result for result in [manager.query_prefetch_status(handle)] if result is not None)
        return bool(found)

    until(done)
    bits = found[0].hit_cells[0] if hasattr(found[0], "hit_cells") else found[0]
    there = keys[: bits.count_leading_ones()]
    right = []
    if there:
        with manager.read_prefetched_results(there) as objects:
            assert objects is not None
            for i, obj in enumerate(objects):
                raw = torch.frombuffer(obj.byte_array, dtype=torch.uint8)
                right.append(bool(torch.equal(raw, pattern(i, raw.numel()))))
        manager.finish_read_prefetched(there)
    return right


@pytest.mark.parametrize("groups", [(SHAPES, DTYPES), HYBRID], ids=["one group", "hybrid"])
def test_chunks_flow_down_and_come_back_into_a_new_process_memory(tmp_path: Path, groups: Any) -> None:
    keys, desc = [key(i) for i in range(16)], layout(*groups)
    with managed(adapter_json(tmp_path)) as manager:
        assert read(manager, keys, desc) == []
        written(manager, keys, desc)
        until(lambda: len(list(adapter_of(manager).list_l2_keys().entries)) == 16)
        usage = adapter_of(manager).get_usage().total_bytes_used
        assert usage == 16 * sum(torch.Size(s).numel() * d.itemsize for s, d in zip(*groups, strict=True))
    with managed(adapter_json(tmp_path)) as manager:
        assert adapter_of(manager).get_usage().total_bytes_used == usage
        assert read(manager, keys, desc) == [True] * 16
        assert manager.report_status()["l2_adapters"][0]["is_healthy"]


def test_another_dtype_is_a_miss_there(tmp_path: Path) -> None:
    keys = [key(i) for i in range(4)]
    with managed(adapter_json(tmp_path)) as manager:
        written(manager, keys, layout(SHAPES, DTYPES))
        until(lambda: len(list(adapter_of(manager).list_l2_keys().entries)) == 4)
    with managed(adapter_json(tmp_path)) as manager:
        assert read(manager, keys, layout(SHAPES, [torch.float16])) == []
        assert read(manager, keys, layout([(2, 2, 128, 64)], DTYPES)) == []
        assert read(manager, keys, layout(SHAPES, DTYPES)) == [True] * 4


@pytest.mark.parametrize("seed", range(4))
def test_with_failures_injected_no_byte_is_wrong_and_no_lock_is_left(tmp_path: Path, seed: int) -> None:
    keys, desc = [key(i) for i in range(24)], layout(SHAPES, DTYPES)
    with managed(adapter_json(tmp_path)) as manager:
        written(manager, keys, desc)
        until(lambda: len(list(adapter_of(manager).list_l2_keys().entries)) == 24)
    with managed(adapter_json(tmp_path, type="fault_inject", rate=0.3, seed=seed)) as manager:
        for count in (24, 12, 6, 24):
            right = read(manager, keys[:count], desc)
            assert False not in right
            manager.clear(force=False)
        ours = adapter_of(manager)._inner
        assert manager.report_status()["l2_adapters"][0]["fault_inject"]["rate"] == 0.3
        # Every lock was given back: nothing here is in the way of a removal, or of an eviction.
        barrier: list[Any] = []
        ours._tasks.aside(lambda: iter_once(barrier))
        until(lambda: barrier)
        assert not pinned(ours._place.store, [ours._names.key(one) for one in keys])


def iter_once(barrier: list[Any]) -> Iterator[tuple[list[int], int]]:
    barrier.append(True)
    yield [], 0


def pinned(store: Any, keys: list[Any]) -> list[Any]:
    return [k for k in keys if (info := store.info(k)) is not None and info.pinned_until is not None]


def test_what_leaves_the_store_is_told_to_listeners_of_the_manager(tmp_path: Path) -> None:
    keys, desc = [key(i) for i in range(8)], layout(SHAPES, DTYPES)
    with managed(adapter_json(tmp_path)) as manager:
        listener = Listener()
        adapter_of(manager).register_listener(listener)
        written(manager, keys, desc)
        until(lambda: len(listener.sizes) == 8)
        adapter_of(manager).delete(keys[:3])
        assert set(listener.sizes) == set(keys[3:])
        assert not listener.wrong
