"""An L2 adapter that keeps every property, as plainly as it can be written. Needs LMCache."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import KeyEntry, KeyListPage
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.platform import create_event_notifier

from lms_conformance.adapters.shelf import Shelf


def name(key: Any) -> str:
    """Every field of a key."""
    return repr((key.model_name, key.kv_rank, key.object_group_id, key.chunk_hash, key.cache_salt))


def what(obj: Any) -> str:
    """What an object is made of."""
    meta = obj.metadata
    shapes, dtypes = meta.shapes or [meta.shape], meta.dtypes or [meta.dtype]
    return repr([(tuple(shape), str(dtype)) for shape, dtype in zip(shapes, dtypes, strict=True)])


class Reference(L2AdapterInterface):  # type: ignore[misc]  # LMCache is not there when types are checked
    """Objects in files; one thread does what is handed in, in order.

    Parameters
    ----------
    params : dict
        `place`, a directory.
    """

    def __init__(self, params: dict[str, Any], **_: Any) -> None:
        super().__init__(0)
        self.params = params
        self.shelf = self.shelf_of(params["place"])
        self.known: dict[Any, int] = {}
        self.numbers = itertools.count()
        self.results: dict[str, dict[int, Any]] = {"store": {}, "lookup": {}, "load": {}}
        self.notifiers = {what: create_event_notifier() for what in self.results}
        self.work: deque[Callable[[], None]] = deque()
        self.wake = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def shelf_of(self, place: str) -> Shelf:
        return Shelf(place, "l2")

    # -- tasks -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            with self.wake:
                self.wake.wait_for(lambda: self.closed or self.work)
                if self.closed:
                    return
                task = self.work.popleft()
            task()

    def submit(self, kind: str, work: Callable[[], Any]) -> int:
        """Hand work over; its result is put down, and then told of."""
        task = next(self.numbers)

        def done() -> None:
            self.done(kind, task, work())

        with self.wake:
            self.work.append(done)
            self.wake.notify()
        return task

    def done(self, kind: str, task: int, result: Any) -> None:
        self.results[kind][task] = result
        self.notifiers[kind].notify()

    def close(self) -> None:
        with self.wake:
            self.closed = True
            self.wake.notify()
        self.thread.join()
        for notifier in self.notifiers.values():
            notifier.close()

    # -- what the thread does ----------------------------------------------------------------------------------------

    def name(self, key: Any) -> str:
        return name(key)

    def what(self, obj: Any) -> str:
        return what(obj)

    def stores(self, keys: list[Any], objects: list[Any]) -> Any:
        moved = [self.store_one(key, obj) for key, obj in zip(keys, objects, strict=True)]
        return L2StoreResult(None not in moved, sum(n or 0 for n in moved))

    def store_one(self, key: Any, obj: Any) -> int | None:
        """Bytes that were stored; None where that failed."""
        if self.shelf.has(self.name(key)):
            return 0
        data = memoryview(obj.byte_array).cast("B")
        try:
            self.shelf.put(self.name(key), data, self.what(obj))
        except OSError:
            return None
        self.known[key] = data.nbytes
        self._notify_keys_stored([key], [data.nbytes])
        return data.nbytes

    def bits(self, there: list[bool]) -> Any:
        bitmap = Bitmap(len(there))
        for i, good in enumerate(there):
            if good:
                bitmap.set(i)
        return bitmap

    def looks(self, keys: list[Any]) -> Any:
        return self.bits([self.shelf.has(self.name(key)) for key in keys])

    def loads(self, keys: list[Any], objects: list[Any]) -> Any:
        there = [self.load_one(key, obj) for key, obj in zip(keys, objects, strict=True)]
        used = [key for key, good in zip(keys, there, strict=True) if good]
        if used:
            self._notify_keys_accessed(used)
        return self.bits(there)

    def load_one(self, key: Any, obj: Any) -> bool:
        data = self.read(key, obj)
        into = memoryview(obj.byte_array).cast("B")
        if data is None or len(data) != into.nbytes:
            return False
        self.copy(data, into, obj)
        return True

    def read(self, key: Any, obj: Any) -> bytes | None:
        file = self.shelf.file(self.name(key))
        with contextlib.suppress(OSError):
            import hashlib

            found = file.read_bytes()
            if found[:32] == hashlib.sha256(repr(self.what(obj)).encode() + found[32:]).digest():
                return found[32:]
        return None

    def copy(self, data: bytes, into: memoryview, obj: Any) -> None:
        into[:] = data

    # -- LMCache's ---------------------------------------------------------------------------------------------------

    def get_store_event_fd(self) -> int:
        return int(self.notifiers["store"].fileno())

    def get_lookup_and_lock_event_fd(self) -> int:
        return int(self.notifiers["lookup"].fileno())

    def get_load_event_fd(self) -> int:
        return int(self.notifiers["load"].fileno())

    def submit_store_task(self, keys: list[Any], objects: list[Any]) -> int:
        return self.submit("store", lambda: self.stores(keys, objects))

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        found, self.results["store"] = self.results["store"], {}
        return found

    def submit_lookup_and_lock_task(self, keys: list[Any], group_layout_descs: Any) -> int:
        return self.submit("lookup", lambda: self.looks(keys))

    def query_lookup_and_lock_result(self, task_id: int) -> Any:
        return self.results["lookup"].pop(task_id, None)

    def submit_unlock(self, keys: list[Any]) -> None:
        """Nothing is evicted here."""

    def submit_load_task(self, keys: list[Any], objects: list[Any]) -> int:
        return self.submit("load", lambda: self.loads(keys, objects))

    def query_load_result(self, task_id: int) -> Any:
        return self.results["load"].pop(task_id, None)

    def delete(self, keys: list[Any]) -> None:
        gone = [key for key in keys if key in self.known]
        for key in gone:
            self.shelf.drop(self.name(key))
        if gone:
            self._notify_keys_deleted(gone, [self.known.pop(key) for key in gone])

    def list_l2_keys(self, model_name: str | None = None, page_size: int = 500, cursor: str | None = None) -> Any:
        begin = int(cursor or 0)
        held = [(key, size) for key, size in self.known.items() if model_name in (None, key.model_name)]
        page = held[begin : begin + page_size]
        following = begin + page_size
        return KeyListPage(
            tuple(KeyEntry(key.to_encoded_object_key(), size) for key, size in page),
            str(following) if following < len(held) else None,
        )

    def report_status(self) -> dict[str, Any]:
        return {"is_healthy": self.thread.is_alive()}
