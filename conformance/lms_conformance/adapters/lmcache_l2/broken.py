"""L2 adapters that break one promise each, and which property must say so. Needs LMCache."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from lms_conformance.adapters.broken import Zoo
from lms_conformance.adapters.lmcache_l2.reference import Reference

ZOO = Zoo("lmcache-l2", {"place": "{tmp}/kv"})


@ZOO("DOR-L01")
class FirstGroupOnly(Reference):
    """Fills the first group of a hybrid object only."""

    def copy(self, data: bytes, into: memoryview, obj: Any) -> None:
        meta = obj.metadata
        size = meta.shape.numel() * meta.dtype.itemsize
        into[:size] = data[:size]


@ZOO("DOR-L02")
class ClearsMisses(Reference):
    """Clears the memory of a miss."""

    def load_one(self, key: Any, obj: Any) -> bool:
        good = super().load_one(key, obj)
        if not good:
            memoryview(obj.byte_array).cast("B")[:8] = bytes(8)
        return good


@ZOO("DOR-L02")
class StopsAtAMiss(Reference):
    """Loads nothing behind a miss."""

    def loads(self, keys: list[Any], objects: list[Any]) -> Any:
        count = next((i for i, key in enumerate(keys) if not self.shelf.has(self.name(key))), len(keys))
        there = [self.load_one(key, obj) for key, obj in zip(keys[:count], objects[:count], strict=True)]
        return self.bits([*there, *[False] * (len(keys) - count)])


@ZOO("DOR-L03")
class LooksUpAPrefix(Reference):
    """A look-up ends at the first key that is absent."""

    def looks(self, keys: list[Any]) -> Any:
        there = [self.shelf.has(self.name(key)) for key in keys]
        return self.bits([all(there[: i + 1]) for i in range(len(there))])


@ZOO("DOR-L04")
class GivesResultsAgain(Reference):
    """The result of a load is given as often as it is asked for."""

    def query_load_result(self, task_id: int) -> Any:
        return self.results["load"].get(task_id)


@ZOO("DOR-L04")
class PopsTwice(Reference):
    """The result of a store comes with the next pop, too."""

    last: dict[int, Any] | None = None

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        found = super().pop_completed_store_tasks()
        both = {**(self.last or {}), **found}
        self.last = found
        return both


@ZOO("DOR-L04")
class OneDescriptor(Reference):
    """Look-ups and loads are told of by one descriptor."""

    def get_load_event_fd(self) -> int:
        return self.get_lookup_and_lock_event_fd()

    def done(self, kind: str, task: int, result: Any) -> None:
        super().done("lookup" if kind == "load" else kind, task, result)

    def query_load_result(self, task_id: int) -> Any:
        return self.query_lookup_and_lock_result(task_id)


@ZOO("DOR-L05")
class DropsTheSalt(Reference):
    """Its names leave out the salt."""

    def name(self, key: Any) -> str:
        return repr((key.model_name, key.kv_rank, key.object_group_id, key.chunk_hash))


@ZOO("DOR-L05")
class FoldsTheModel(Reference):
    """Its names hold the model with dashes for slashes."""

    def name(self, key: Any) -> str:
        return super().name(key).replace("/", "-")


@ZOO("DOR-L05")
class DropsTheGroup(Reference):
    """Its names leave out the group of a hybrid model."""

    def name(self, key: Any) -> str:
        return repr((key.model_name, key.kv_rank, key.chunk_hash, key.cache_salt))


@ZOO("DOR-L06")
class RefusesWhatItHolds(Reference):
    """Storing an object that is held fails."""

    def store_one(self, key: Any, obj: Any) -> int | None:
        return None if self.shelf.has(self.name(key)) else super().store_one(key, obj)


@ZOO("DOR-L07")
class WorksInTheCall(Reference):
    """Does the work in the call that hands it in."""

    def submit(self, kind: str, work: Callable[[], Any]) -> int:
        task = next(self.numbers)
        self.done(kind, task, work())
        return task


@ZOO("DOR-L08")
class CountsLocks(Reference):
    """Unlocking what is not locked raises."""

    def __init__(self, params: dict[str, Any], **named: Any) -> None:
        super().__init__(params, **named)
        self.locks: dict[Any, int] = {}

    def looks(self, keys: list[Any]) -> Any:
        for key in keys:
            if self.shelf.has(self.name(key)):
                self.locks[key] = self.locks.get(key, 0) + 1
        return super().looks(keys)

    def submit_unlock(self, keys: list[Any]) -> None:
        for key in keys:
            self.locks[key] -= 1


@ZOO("DOR-L09")
class TellsWhatItSkipped(Reference):
    """An object that is held is told to be stored again."""

    def store_one(self, key: Any, obj: Any) -> int | None:
        moved = super().store_one(key, obj)
        if moved == 0:
            self._notify_keys_stored([key], [self.known[key]])
        return moved


@ZOO("DOR-L09")
class TellsNoUse(Reference):
    """Loads are not told."""

    def _notify_keys_accessed(self, keys: list[Any]) -> None:
        """Nobody is told."""


@ZOO("DOR-L10")
class DeletesInSilence(Reference):
    """What is deleted is not told."""

    def _notify_keys_deleted(self, keys: list[Any], sizes: list[int]) -> None:
        """Nobody is told."""


@ZOO("DOR-L10")
class DeletesTheNews(Reference):
    """What is deleted is told, and stays."""

    def delete(self, keys: list[Any]) -> None:
        gone = [key for key in keys if key in self.known]
        self._notify_keys_deleted(gone, [self.known.pop(key) for key in gone])


@ZOO("DOR-L11")
class ListsTheFirstPage(Reference):
    """Lists one page."""

    def list_l2_keys(self, model_name: str | None = None, page_size: int = 500, cursor: str | None = None) -> Any:
        import dataclasses

        return dataclasses.replace(super().list_l2_keys(model_name, page_size, cursor), next_page_token=None)


@ZOO("DOR-L12")
class SaysNothing(Reference):
    """Its status has no `is_healthy`."""

    def report_status(self) -> dict[str, Any]:
        return {}


@ZOO("DOR-L13")
class AnyKind(Reference):
    """Bytes of the right length will do, whatever they were."""

    def what(self, obj: Any) -> str:
        return ""


@ZOO("DOR-L13")
class FirstBytesWillDo(AnyKind):
    """Fills shorter memory with the beginning of an object."""

    def load_one(self, key: Any, obj: Any) -> bool:
        data = self.read(key, obj)
        into = memoryview(obj.byte_array).cast("B")
        if data is None or len(data) < into.nbytes:
            return False
        into[:] = data[: into.nbytes]
        return True


@ZOO("DOR-L14")
class OneBufferForAll(Reference):
    """Stores and loads go through one buffer, a thread each."""

    def submit(self, kind: str, work: Callable[[], Any]) -> int:
        task = next(self.numbers)
        threading.Thread(target=lambda: self.done(kind, task, work()), daemon=True).start()
        return task

    def load_one(self, key: Any, obj: Any) -> bool:
        data = self.read(key, obj)
        if data is None:
            return False
        self.buffer = data
        time.sleep(0)
        memoryview(obj.byte_array).cast("B")[:] = self.buffer
        return True

    def store_one(self, key: Any, obj: Any) -> int | None:
        self.buffer = bytes(memoryview(obj.byte_array).cast("B"))
        return super().store_one(key, obj)


@ZOO("DOR-L15")
class CallsEveryStoreASuccess(Reference):
    """An object that could not be written is told and answered as stored."""

    def store_one(self, key: Any, obj: Any) -> int | None:
        return super().store_one(key, obj) or 0


@ZOO("DOR-L15")
class TellsBeforeItWrites(Reference):
    """An object is told to be stored before it is written."""

    def store_one(self, key: Any, obj: Any) -> int | None:
        if not self.shelf.has(self.name(key)):
            size = memoryview(obj.byte_array).nbytes
            self.known[key] = size
            super()._notify_keys_stored([key], [size])
        return super().store_one(key, obj)

    def _notify_keys_stored(self, keys: list[Any], sizes: list[int]) -> None:
        """They were told already."""


@ZOO("DOR-L16")
class Trusts(Reference):
    """Reads what the medium answers."""

    def read(self, key: Any, obj: Any) -> bytes | None:
        file = self.shelf.file(self.name(key))
        return file.read_bytes()[32:] if file.exists() else None


@ZOO("DOR-L17")
class DiesOfShortFiles(Trusts):
    """A file of another length ends its thread."""

    def load_one(self, key: Any, obj: Any) -> bool:
        if self.shelf.has(self.name(key)):
            data = self.read(key, obj) or b""
            memoryview(obj.byte_array).cast("B")[: len(data)] = data
            return True
        return False


@ZOO("DOR-L18", failing={"fail": 0.3})
class WritesBeforeItKnows(Reference):
    """A read that fails half-way is answered as a hit."""

    def copy(self, data: bytes, into: memoryview, obj: Any) -> None:
        if self.params.get("fail") and random.Random(data[:16]).random() < self.params["fail"]:
            data = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        into[:] = data


@ZOO("DOR-L19")
class ForgetsTheLast(Reference):
    """The object that was stored last is written when the next one is."""

    waiting: tuple[str, bytes, str] | None = None

    def store_one(self, key: Any, obj: Any) -> int | None:
        if self.waiting is not None:
            self.shelf.put(*self.waiting)
        data = bytes(memoryview(obj.byte_array).cast("B"))
        self.waiting = (self.name(key), data, self.what(obj))
        return len(data)


@ZOO("DOR-L20")
class WritesAtTheEnd(ForgetsTheLast):
    """The object that was stored last is written when the next one is, or by `close`."""

    def close(self) -> None:
        super().close()
        if self.waiting is not None:
            self.shelf.put(*self.waiting)


@ZOO("DOR-L21")
class ClosesAtOnce(Reference):
    """`close` does not wait for what runs."""

    def close(self) -> None:
        """What was handed in is still done, by and by."""
        with self.wake:
            self.work.append(self.end)
            self.wake.notify()

    def end(self) -> None:
        """Nothing is left to be done: the thread ends."""
        self.closed = True
        for notifier in self.notifiers.values():
            notifier.close()
