"""Connectors that break promises about LMCache's memory and its loop. Needs LMCache."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from lms_conformance.adapters.lmcache_connector.broken_chunks import ZOO
from lms_conformance.adapters.lmcache_connector.reference import Reference


@ZOO("DOR-C09")
class KeepsWhatItPut(Reference):
    """The memory of a put is never given back."""

    async def put(self, key: Any, memory_obj: Any) -> None:
        memory_obj.ref_count_up()
        await super().put(key, memory_obj)


@ZOO("DOR-C09")
class GivesBackLMCaches(Reference):
    """It gives back the reference that LMCache gives back, too."""

    async def put(self, key: Any, memory_obj: Any) -> None:
        await super().put(key, memory_obj)
        memory_obj.ref_count_down()


@ZOO("DOR-C09")
class TakesMemoryForMisses(Reference):
    """Memory is taken before it is known whether there is anything to read."""

    def load(self, key: Any) -> Any:
        obj = self.memory.allocate(self.meta_shapes, self.meta_dtypes, self.meta_fmt)
        found = super().load(key)
        if found is not None:
            obj.ref_count_down()
        return found


@ZOO("DOR-C09")
class LooksUpByGetting(Reference):
    """A look-up of many gets what it finds."""

    def count(self, keys: list[Any]) -> int:
        return [*map(self.load, keys), None].index(None)


@ZOO("DOR-C10")
class WritesOnceMore(Reference):
    """What was got is written again, in case it got lost."""

    def made(self, head: dict[str, Any], data: bytes) -> Any:
        obj = super().made(head, data)
        if obj is not None:
            threading.Timer(0.02, self.copy, (data, memoryview(obj.byte_array).cast("B"))).start()
        return obj


@ZOO("DOR-C11")
class CountsOnMemory(Reference):
    """It does not look whether it was given memory."""

    def allocated(self, head: dict[str, Any]) -> Any:
        obj = super().allocated(head)
        obj.get_size()
        return obj


@ZOO("DOR-C12")
class ForgetsCancelledGets(Reference):
    """What is got for nobody is kept."""

    @staticmethod
    def unclaimed(future: Any) -> None:
        """Nobody gives it back."""


@ZOO("DOR-C12")
class CatchesExceptionsOnly(Reference):
    """Memory is taken on the loop, and not given back where the coroutine is cancelled."""

    async def get(self, key: Any) -> Any:
        found = await self.run(self.read, key)
        obj = None if found is None else self.allocated(found[0])
        if obj is None:
            return None
        try:
            await self.run(self.copy, found[1], memoryview(obj.byte_array).cast("B"))
        except Exception:
            obj.ref_count_down()
            return None
        return obj


@ZOO("DOR-C12")
class GivesBackTooSoon(Reference):
    """A get that is cancelled gives its memory back while a thread still writes there."""

    async def get(self, key: Any) -> Any:
        found = await self.run(self.read, key)
        obj = None if found is None else self.allocated(found[0])
        if obj is None:
            return None
        try:
            await asyncio.shield(self.run(self.late, found[1], memoryview(obj.byte_array).cast("B")))
        except BaseException:
            obj.ref_count_down()
            raise
        return obj

    def late(self, data: bytes, into: memoryview) -> None:
        time.sleep(0.02)
        self.copy(data, into)


@ZOO("DOR-C13")
class LetsGoOfCancelledPuts(Reference):
    """Its thread has no reference of its own to what it reads."""

    def store(self, key: Any, obj: Any) -> None:
        time.sleep(0.02)
        super().store(key, obj)

    async def put(self, key: Any, memory_obj: Any) -> None:
        await self.run(self.store, key, memory_obj)


@ZOO("DOR-C13")
class LetsGoOfCancelledPutsAtOnce(Reference):
    """The same, and its thread copies what it reads at once: mostly before anybody else has the memory."""

    def store(self, key: Any, obj: Any) -> None:
        data = bytes(obj.byte_array)
        self.write(key, {"key": self.name(key), **self.what(obj)}, memoryview(data))

    async def put(self, key: Any, memory_obj: Any) -> None:
        await self.run(self.store, key, memory_obj)


@ZOO("DOR-C13")
class KeepsCancelledPuts(Reference):
    """The memory of a put that is cancelled is kept."""

    async def put(self, key: Any, memory_obj: Any) -> None:
        memory_obj.ref_count_up()
        await self.run(self.store, key, memory_obj)
        memory_obj.ref_count_down()


@ZOO("DOR-C14", "DOR-C15")
class WorksOnTheLoop(Reference):
    """It has coroutines that wait for the medium themselves."""

    async def run(self, call: Any, *given: Any) -> Any:
        return call(*given)

    async def put(self, key: Any, memory_obj: Any) -> None:
        self.store(key, memory_obj)

    async def get(self, key: Any) -> Any:
        return self.load(key)


@ZOO("DOR-C15")
class WorksInTheSecondStep(WorksOnTheLoop):
    """It lets others go first, and then waits for the medium on the loop."""

    async def put(self, key: Any, memory_obj: Any) -> None:
        await asyncio.sleep(0)
        self.store(key, memory_obj)

    async def get(self, key: Any) -> Any:
        await asyncio.sleep(0)
        return self.load(key)


@ZOO("DOR-C15")
class LooksUpOnTheLoop(Reference):
    """Look-ups alone wait for the medium on the loop."""

    async def exists(self, key: Any) -> bool:
        return self.has(key)
