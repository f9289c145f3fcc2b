"""Connectors that break promises about chunks, batches, keys and listings. Needs LMCache."""

from __future__ import annotations

import time
from typing import Any

from lmcache.v1.memory_management import MemoryFormat

from lms_conformance.adapters.broken import Zoo
from lms_conformance.adapters.lmcache_connector.reference import Reference

ZOO = Zoo("lmcache-connector", {"place": "{tmp}/kv"}, stalling={"stall": 0.6})


@ZOO("DOR-C01")
class ForgetsTheFormat(Reference):
    """What is got has the format that most chunks have."""

    def what(self, obj: Any) -> dict[str, Any]:
        return {**super().what(obj), "fmt": MemoryFormat.KV_2LTD.value}


@ZOO("DOR-C01")
class WholeChunksOnly(Reference):
    """A short chunk comes in the shape of a whole one."""

    def what(self, obj: Any) -> dict[str, Any]:
        return {**super().what(obj), "shapes": [list(shape) for shape in self.meta_shapes]}

    def copy(self, data: bytes, into: memoryview) -> bool:
        into[: len(data)] = data
        return True


@ZOO("DOR-C01")
class FirstGroupOnly(Reference):
    """The first group of a hybrid chunk is filled only."""

    def made(self, head: dict[str, Any], data: bytes) -> Any:
        obj = super().made(head, data)
        if obj is not None and len(head["shapes"]) > 1:
            size = obj.group_prefix_sum[1]
            memoryview(obj.byte_array).cast("B")[size:] = bytes(len(data) - size)
        return obj


@ZOO("DOR-C02")
class RaisesAtMisses(Reference):
    """A chunk that is not there is an error."""

    def load(self, key: Any) -> Any:
        if not self.has(key):
            raise KeyError(key)
        return super().load(key)


@ZOO("DOR-C02")
class CountsGaps(Reference):
    """A look-up of many counts what is there, not what leads."""

    def count(self, keys: list[Any]) -> int:
        return sum(map(self.has, keys))


@ZOO("DOR-C02")
class KnowsItsOwn(Reference):
    """The plain look-up answers False."""

    def exists_sync(self, key: Any) -> bool:
        return False


@ZOO("DOR-C03")
class KeepsTheHead(Reference):
    """Of a chunk that is put again the bytes are replaced, not what they are."""

    def write(self, key: Any, head: dict[str, Any], data: memoryview) -> None:
        held = self.read(key)
        super().write(key, head if held is None else held[0], data)

    def copy(self, data: bytes, into: memoryview) -> bool:
        count = min(len(data), len(into))
        into[:count] = data[:count]
        return True


@ZOO("DOR-C03")
class RefusesWhatItHolds(Reference):
    """A put of what is held raises."""

    def store(self, key: Any, obj: Any) -> None:
        if self.has(key):
            raise FileExistsError(self.name(key))
        super().store(key, obj)


@ZOO("DOR-C04")
class LeavesMissesOut(Reference):
    """A batch answers what was found, one behind the other."""

    async def batched_get(self, keys: list[Any]) -> list[Any]:
        return [obj for obj in await super().batched_get(keys) if obj is not None]


@ZOO("DOR-C04")
class KeepsWhatIsBehind(Reference):
    """A prefetch keeps the memory of chunks behind a gap."""

    async def batched_get_non_blocking(self, lookup_id: str, keys: list[Any]) -> list[Any]:
        objs = await super().batched_get(keys)
        return objs[: [*objs, None].index(None)]


@ZOO("DOR-C04")
class PutsTheFirst(Reference):
    """A batch of puts ends with its first."""

    async def batched_put(self, keys: list[Any], memory_objs: list[Any]) -> None:
        await super().batched_put(keys[:1], memory_objs[:1])


class _Renamed(Reference):
    """Names leave something out; keys are listed as they are."""

    def parts(self, key: Any) -> list[Any]:
        return [key.model_name, key.world_size, key.worker_id, key.chunk_hash, key.dtype, key.tags]

    def name(self, key: Any) -> str:
        return repr(self.parts(key))


@ZOO("DOR-C05")
class DropsTheTags(_Renamed):
    """Its names leave out the tags."""

    def parts(self, key: Any) -> list[Any]:
        return super().parts(key)[:5]


@ZOO("DOR-C05")
class DropsTagNames(_Renamed):
    """Its names hold the values of tags only."""

    def parts(self, key: Any) -> list[Any]:
        return [*super().parts(key)[:5], [value for _, value in key.tags or ()]]


@ZOO("DOR-C05")
class DropsTheWorker(_Renamed):
    """Its names leave out the worker."""

    def parts(self, key: Any) -> list[Any]:
        parts = super().parts(key)
        return parts[:2] + parts[3:]


@ZOO("DOR-C05")
class DropsTheWorld(_Renamed):
    """Its names leave out how many workers there are."""

    def parts(self, key: Any) -> list[Any]:
        parts = super().parts(key)
        return parts[:1] + parts[2:]


@ZOO("DOR-C05")
class DropsTheDtype(_Renamed):
    """Its names leave out the dtype."""

    def parts(self, key: Any) -> list[Any]:
        parts = super().parts(key)
        return parts[:4] + parts[5:]


@ZOO("DOR-C05")
class ShortensTheHash(_Renamed):
    """Its names hold the lower half of the hash."""

    def parts(self, key: Any) -> list[Any]:
        parts = super().parts(key)
        parts[3] &= 0xFFFFFFFF
        return parts


@ZOO("DOR-C05")
class FoldsTheModel(Reference):
    """Its names hold the model with dashes for slashes."""

    def name(self, key: Any) -> str:
        return super().name(key).replace("/", "-")


@ZOO("DOR-C06")
class ListsPuts(Reference):
    """A key is listed as often as it was put."""

    def store(self, key: Any, obj: Any) -> None:
        super().store(key, obj)
        self.puts = [*getattr(self, "puts", []), self.name(key)]

    def names(self) -> list[str]:
        return self.puts


@ZOO("DOR-C06")
class ListsFileNames(Reference):
    """Keys are listed with another letter for the slash."""

    def names(self) -> list[str]:
        return [name.replace("/", "-SEP-") for name in super().names()]


@ZOO("DOR-C07")
class RemovesTheNews(Reference):
    """A removal says so, and nothing goes."""

    def remove_sync(self, key: Any) -> bool:
        return True


@ZOO("DOR-C07")
class RemovesAll(Reference):
    """A removal takes the rest along."""

    def remove_sync(self, key: Any) -> bool:
        self.shelf.clear()
        return True


@ZOO("DOR-C08")
class OneBufferForAll(Reference):
    """Puts and gets go through one buffer."""

    def store(self, key: Any, obj: Any) -> None:
        self.buffer = bytes(obj.byte_array)
        time.sleep(0)
        self.write(key, {"key": self.name(key), **self.what(obj)}, memoryview(self.buffer))

    def copy(self, data: bytes, into: memoryview) -> bool:
        self.buffer = data
        time.sleep(0)
        into[:] = self.buffer
        return True
