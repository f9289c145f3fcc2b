"""A connector that keeps every property, as plainly as it can be written. Needs LMCache."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import torch
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

from lms_conformance.adapters.shelf import Shelf

_OPTION = "remote_storage_plugin.conformance."


class Reference(RemoteConnector):  # type: ignore[misc]  # LMCache is not there when types are checked
    """Chunks in files; threads of its own do the work.

    Options are `place`, a directory, and for trouble `fail`, the share of chunks whose reads end half-way, and
    `stall`, seconds that every call waits for the medium.
    """

    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        super().__init__(config, local_cpu_backend.metadata)
        extra = config.extra_config
        self.options = {name.removeprefix(_OPTION): value for name, value in extra.items() if name.startswith(_OPTION)}
        self.memory = local_cpu_backend
        self.shelf = Shelf(self.options["place"], "connector")
        self.pool = ThreadPoolExecutor(4)

    # -- what the threads do -----------------------------------------------------------------------------------------

    def name(self, key: Any) -> str:
        return str(key.to_string())

    def stall(self) -> None:
        time.sleep(self.options.get("stall", 0.0))

    def has(self, key: Any) -> bool:
        self.stall()
        return self.shelf.has(self.name(key))

    def count(self, keys: list[Any]) -> int:
        return next((i for i, key in enumerate(keys) if not self.has(key)), len(keys))

    def what(self, obj: Any) -> dict[str, Any]:
        """What a chunk is made of."""
        dtypes = [str(dtype).removeprefix("torch.") for dtype in obj.get_dtypes()]
        return {"shapes": [list(s) for s in obj.get_shapes()], "dtypes": dtypes, "fmt": obj.get_memory_format().value}

    def store(self, key: Any, obj: Any) -> None:
        self.stall()
        self.write(key, {"key": self.name(key), **self.what(obj)}, memoryview(obj.byte_array).cast("B"))

    def write(self, key: Any, head: dict[str, Any], data: memoryview) -> None:
        self.shelf.put(self.name(key), json.dumps(head).encode() + b"\n" + bytes(data))

    def read(self, key: Any) -> tuple[dict[str, Any], bytes] | None:
        self.stall()
        found = self.shelf.get(self.name(key))
        if found is None:
            return None
        head, _, data = found.partition(b"\n")
        return json.loads(head), data

    def load(self, key: Any) -> Any:
        found = self.read(key)
        return None if found is None else self.made(*found)

    def made(self, head: dict[str, Any], data: bytes) -> Any:
        """A chunk in memory of LMCache's, or None where there is none."""
        obj = self.allocated(head)
        if obj is None:
            return None
        good = False
        try:
            good = self.copy(data, memoryview(obj.byte_array).cast("B"))
        finally:
            if not good:
                obj.ref_count_down()
        return obj if good else None

    def allocated(self, head: dict[str, Any]) -> Any:
        shapes = [torch.Size(shape) for shape in head["shapes"]]
        return self.memory.allocate(shapes, [getattr(torch, d) for d in head["dtypes"]], MemoryFormat(head["fmt"]))

    def copy(self, data: bytes, into: memoryview) -> bool:
        """Whether all was copied; which chunks fail is the same in every run."""
        if random.Random(data[:16]).random() < self.options.get("fail", 0.0):
            into[: len(data) // 2] = data[: len(data) // 2]
            return False
        into[:] = data
        return True

    def names(self) -> list[str]:
        self.stall()
        found = [self.shelf_key(file.read_bytes()[32:]) for file in self.shelf.place.iterdir()]
        return [name for name in found if name is not None]

    @staticmethod
    def shelf_key(raw: bytes) -> str | None:
        with contextlib.suppress(ValueError):
            return str(json.loads(raw.partition(b"\n")[0])["key"])
        return None

    # -- LMCache's ---------------------------------------------------------------------------------------------------

    async def run(self, call: Callable[..., Any], *given: Any) -> Any:
        """Do something in a thread."""
        return await asyncio.wrap_future(self.pool.submit(call, *given))

    async def exists(self, key: Any) -> bool:
        return bool(await self.run(self.has, key))

    def exists_sync(self, key: Any) -> bool:
        return self.has(key)

    async def batched_async_contains(self, lookup_id: str, keys: list[Any], pin: bool = False) -> int:
        return int(await self.run(self.count, keys))

    def support_batched_contains(self) -> bool:
        return True

    def batched_contains(self, keys: list[Any]) -> int:
        return self.count(keys)

    async def put(self, key: Any, memory_obj: Any) -> None:
        # A thread reads it, whatever becomes of this coroutine: it has a reference of its own.
        memory_obj.ref_count_up()
        future = self.pool.submit(self.store, key, memory_obj)
        future.add_done_callback(lambda _: memory_obj.ref_count_down())
        await asyncio.wrap_future(future)

    async def get(self, key: Any) -> Any:
        future = self.pool.submit(self.load, key)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(self.unclaimed)
            raise

    @staticmethod
    def unclaimed(future: Future[Any]) -> None:
        """Give back what was got for nobody."""
        with contextlib.suppress(CancelledError, Exception):
            obj = future.result()
            if obj is not None:
                obj.ref_count_down()

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: list[Any]) -> list[Any]:
        return [await self.get(key) for key in keys]

    def support_batched_put(self) -> bool:
        return True

    async def batched_put(self, keys: list[Any], memory_objs: list[Any]) -> None:
        for key, obj in zip(keys, memory_objs, strict=True):
            await self.put(key, obj)

    def remove_sync(self, key: Any) -> bool:
        there = self.has(key)
        self.shelf.drop(self.name(key))
        return there

    async def list(self) -> list[str]:
        return list(await self.run(self.names))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: self.pool.shutdown(cancel_futures=True))
