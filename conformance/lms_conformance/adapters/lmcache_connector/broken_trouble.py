"""Connectors that break promises about media that fail, restarts and `close`. Needs LMCache."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

from lms_conformance.adapters.lmcache_connector.broken_chunks import ZOO
from lms_conformance.adapters.lmcache_connector.reference import Reference


@ZOO("DOR-C16")
class CallsEveryPutASuccess(Reference):
    """A chunk that could not be written is answered as put."""

    def write(self, key: Any, head: dict[str, Any], data: memoryview) -> None:
        try:
            super().write(key, head, data)
        except OSError:
            return


@ZOO("DOR-C16")
class KnowsBeforeItWrites(Reference):
    """A chunk is found as soon as it is to be written."""

    def has(self, key: Any) -> bool:
        return self.name(key) in getattr(self, "known", ()) or super().has(key)

    def write(self, key: Any, head: dict[str, Any], data: memoryview) -> None:
        self.known = {*getattr(self, "known", ()), self.name(key)}
        super().write(key, head, data)


@ZOO("DOR-C16")
class KeepsWhatFailed(Reference):
    """The memory of a put that failed is kept, to be tried again by nobody."""

    def write(self, key: Any, head: dict[str, Any], data: memoryview) -> None:
        try:
            super().write(key, head, data)
        except OSError:
            self.memory.arena.lent[-1].ref_count_up()
            raise


@ZOO("DOR-C17")
class Trusts(Reference):
    """It reads what the medium answers."""

    def read(self, key: Any) -> tuple[dict[str, Any], bytes] | None:
        self.stall()
        file = self.shelf.file(self.name(key))
        if not file.exists():
            return None
        head, _, data = file.read_bytes()[32:].partition(b"\n")
        return json.loads(head), data


@ZOO("DOR-C18")
class RaisesAtShortFiles(Trusts):
    """A file of another length is an error."""


@ZOO("DOR-C18")
class FillsWhatThereIs(Trusts):
    """Of a short file the beginning of the memory is filled."""

    def copy(self, data: bytes, into: memoryview) -> bool:
        into[: len(data)] = data
        return True


@ZOO("DOR-C19", failing={"fail": 0.3})
class WritesBeforeItKnows(Reference):
    """A read that ends half-way is answered as a hit."""

    def copy(self, data: bytes, into: memoryview) -> bool:
        super().copy(data, into)
        return True


@ZOO("DOR-C19", failing={"fail": 0.3})
class KeepsWhatItCouldNotRead(Reference):
    """The memory of a read that ends half-way is kept."""

    def made(self, head: dict[str, Any], data: bytes) -> Any:
        obj = self.allocated(head)
        return obj if self.copy(data, memoryview(obj.byte_array).cast("B")) else None


@ZOO("DOR-C19", failing={"fail": 0.3})
class RaisesWhereItFails(Reference):
    """A get of a medium that fails is an error."""

    def read(self, key: Any) -> tuple[dict[str, Any], bytes] | None:
        if random.Random(self.name(key)).random() < self.options.get("fail", 0.0):
            raise OSError("not today")
        return super().read(key)


@ZOO("DOR-C20")
class ForgetsTheLast(Reference):
    """The chunk that was put last is written when the next one is."""

    waiting: tuple[Any, dict[str, Any], memoryview] | None = None

    def write(self, key: Any, head: dict[str, Any], data: memoryview) -> None:
        if self.waiting is not None:
            super().write(*self.waiting)
        self.waiting = key, head, memoryview(bytes(data))


@ZOO("DOR-C21")
class WritesAtTheEnd(ForgetsTheLast):
    """The chunk that was put last is written when the next one is, or by `close`."""

    async def close(self) -> None:
        await super().close()
        if self.waiting is not None:
            Reference.write(self, *self.waiting)


class _Slow(Reference):
    """It copies in pieces."""

    def copy(self, data: bytes, into: memoryview) -> bool:
        for at in range(0, len(data), len(data) // 8):
            into[at : at + len(data) // 8] = data[at : at + len(data) // 8]
            time.sleep(0.004)
        return True


@ZOO("DOR-C22")
class ClosesAtOnce(_Slow):
    """`close` does not wait for what runs."""

    async def close(self) -> None:
        self.pool.shutdown(wait=False)


@ZOO("DOR-C22")
class WaitsForTheCancelled(_Slow):
    """`close` waits for calls that it has cancelled itself, for ever."""

    left = 0

    async def get(self, key: Any) -> Any:
        self.left += 1
        obj = await super().get(key)
        self.left -= 1
        return obj

    async def close(self) -> None:
        await super().close()
        while self.left:
            await asyncio.sleep(0.01)


@ZOO("DOR-C23")
class LeavesCallsBehind(_Slow):
    """Calls that wait for a thread when `close` is called are never answered."""

    async def get(self, key: Any) -> Any:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        future = self.pool.submit(self.load, key)
        future.add_done_callback(
            lambda done: None if done.cancelled() else loop.call_soon_threadsafe(answer.set_result, done.result())
        )
        return await answer


@ZOO("DOR-C23")
class KeepsWhatItClosedOn(_Slow):
    """What was got for calls that `close` ended is kept."""

    closing = False

    def load(self, key: Any) -> Any:
        obj = super().load(key)
        return None if self.closing else obj

    async def close(self) -> None:
        self.closing = True
        await super().close()
