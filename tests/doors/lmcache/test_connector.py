"""The connector under LMCache's own memory: bytes as they were, and memory that is held while it is in use.

LMCache only: `make doors` makes the environment; without LMCache these are skipped.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from lms_tiers import LMSLocalBackend
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from tests.doors.lmcache.engine import pattern
from tests.doors.lmcache.test_adapter import until

pytest.importorskip("lmcache.v1.storage_backend.connector", reason="LMCache is not installed: make doors")

from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector import CreateConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

pytestmark = [pytest.mark.leaks_allowed, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

KINDS = [
    (MemoryFormat.KV_2LTD, torch.bfloat16, (2, 4, 256, 512)),
    (MemoryFormat.KV_2LTD, torch.bfloat16, (2, 4, 17, 512)),
    (MemoryFormat.KV_MLA_FMT, torch.bfloat16, (1, 4, 256, 576)),
]


class Worker:
    """LMCache's memory and loop around a connector of ours, made as LMCache makes it."""

    def __init__(self, device: str, dtype: torch.dtype = torch.bfloat16, revision: str = "") -> None:
        extra = {
            "remote_storage_plugin.lms.module_path": "lms_tiers.doors.lmcache",
            "remote_storage_plugin.lms.class_name": "ConnectorAdapter",
            "remote_storage_plugin.lms.device": device,
            "remote_storage_plugin.lms.revision": revision,
        }
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=256, local_cpu=False, max_local_cpu_size=0.25, extra_config=extra, remote_storage_plugins=["lms"]
        )
        metadata = LMCacheMetadata("interop/model", 1, 1, 0, 0, dtype, (4, 2, 256, 8, 64))
        self.dtype = dtype
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.memory: Any = LocalCPUBackend(config, metadata, dst_device="cpu")
        made = CreateConnector("plugin://lms", self.loop, self.memory, config, metadata)
        self.connector: Any = made.getWrappedConnector()

    def begin(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, coroutine: Any) -> Any:
        return self.begin(coroutine).result(60)

    def key(self, i: int) -> Any:
        return CacheEngineKey("interop/model", 1, 0, 0x1F00 + i, self.dtype)

    def chunk(self, i: int, kind: Any = KINDS[0]) -> Any:
        fmt, dtype, shape = kind
        obj = self.memory.allocate(torch.Size(shape), dtype, fmt)
        raw = torch.frombuffer(obj.byte_array, dtype=torch.uint8)
        raw.copy_(pattern(i, raw.numel()))
        return obj

    def close(self) -> None:
        self.call(self.connector.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


Open = Callable[..., Worker]


@pytest.fixture
def backend() -> FaultyBackend:
    return FaultyBackend(LMSLocalBackend())


@pytest.fixture
def worker(backend: FaultyBackend) -> Iterator[Open]:
    """Make workers over one server of ours."""
    with ExitStack() as stack:
        server = stack.enter_context(
            Server(stack.enter_context(backend), make_settings(None, {"port": 0, "threads": 4}))
        )

        def opened(**given: Any) -> Worker:
            made = Worker(f"lm:127.0.0.1:{server.port}", **given)
            stack.callback(made.close)
            return made

        yield opened


def test_chunks_come_back_as_they_were_to_another_worker(worker: Open) -> None:
    one, other = worker(), worker()
    for i, kind in enumerate(KINDS):
        obj = one.chunk(i, kind)
        one.call(one.connector.put(one.key(i), obj))
        assert obj.get_ref_count() == 1, "it keeps no memory"
        obj.ref_count_down()
    assert other.call(other.connector.batched_async_contains("l", [other.key(i) for i in (0, 1, 2, 9)])) == 3
    for i, (fmt, dtype, shape) in enumerate(KINDS):
        assert other.connector.exists_sync(other.key(i))
        obj = other.call(other.connector.get(other.key(i)))
        raw = torch.frombuffer(obj.byte_array, dtype=torch.uint8)
        assert torch.equal(raw, pattern(i, raw.numel()))
        assert (tuple(obj.get_shape()), obj.get_dtype(), obj.get_memory_format()) == (shape, dtype, fmt)
        obj.ref_count_down()
    assert other.call(other.connector.get(other.key(99))) is None
    assert sorted(other.call(other.connector.list())) == sorted(other.key(i).to_string() for i in range(3))
    assert other.call(other.connector.ping()) == 0
    assert other.connector.remove_sync(other.key(1))
    assert not one.connector.exists_sync(one.key(1))


def test_another_revision_or_dtype_is_a_miss(worker: Open) -> None:
    one = worker()
    obj = one.chunk(1)
    one.call(one.connector.put(one.key(1), obj))
    obj.ref_count_down()
    for other in (worker(revision="b"), worker(dtype=torch.float16)):
        assert not other.connector.exists_sync(one.key(1))
        assert other.call(other.connector.get(one.key(1))) is None


def test_memory_of_calls_that_were_given_up_is_held_until_they_are_over_and_then_given_back(
    worker: Open, backend: FaultyBackend
) -> None:
    one = worker()
    obj = one.chunk(1)
    one.call(one.connector.put(one.key(1), obj))
    backend.inject("*", Fault.BLOCK)
    get = one.begin(one.connector.get(one.key(1)))
    again = one.chunk(2)
    put = one.begin(one.connector.put(one.key(2), again))
    until(lambda: backend.blocked >= 2)
    assert again.get_ref_count() == 2
    get.cancel()
    put.cancel()
    one.call(asyncio.sleep(0))
    assert again.get_ref_count() == 2, "a thread still reads it"
    backend.heal()
    backend.release()
    until(lambda: again.get_ref_count() == 1)
    until(lambda: one.connector.exists_sync(one.key(2)))
    obj.ref_count_down()
    again.ref_count_down()


def test_no_plugin_whose_name_begins_alike_is_taken_for_it() -> None:
    from lms_tiers.doors.lmcache import ConnectorAdapter

    adapter = ConnectorAdapter()
    assert [adapter.can_parse(f"plugin://{name}") for name in ("lms", "lms.one", "lmsx", "other")] == [
        True,
        True,
        False,
        False,
    ]
    assert not adapter.can_parse("lm://host:1")
