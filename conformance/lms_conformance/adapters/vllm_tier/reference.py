"""A secondary tier that keeps every property, as plainly as it can be written. Needs vLLM."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from vllm.v1.kv_offload.base import LookupResult, Medium, OffloadingEvent, RequestOffloadingContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

from lms_conformance.adapters.shelf import Shelf


class Reference(SecondaryTierManager):  # type: ignore[misc]  # vLLM is not there when types are checked
    """Rows in files; one thread moves them and looks them up.

    Parameters
    ----------
    place : str
        A directory.
    """

    medium = Medium.STORAGE

    def __init__(
        self, offloading_spec: Any, primary_kv_view: memoryview, tier_type: str, place: str,
        backpressure_detector: Any = None, fail: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.fail = fail
        self.rows = primary_kv_view.cast("B")
        self.row = primary_kv_view.shape[1] if primary_kv_view.shape else 0
        self.shelf = Shelf(place, self.whose(offloading_spec.config))
        self.known: dict[tuple[str, bytes], bool] = {}
        self.asked: set[tuple[str, bytes]] = set()
        self.done: deque[Any] = deque()
        self.told: deque[Any] = deque()
        self.work: deque[Any] = deque()
        self.wake = threading.Condition()
        self.running = 0
        self.closed = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # -- whose -------------------------------------------------------------------------------------------------------

    def whose(self, config: Any) -> object:
        """What a row depends on, and its key does not tell."""
        return [self.kind(config), self.layout(config), self.model(config), self.ranks(config)]

    def kind(self, config: Any) -> object:
        return config.model.dtype, self.row

    def layout(self, config: Any) -> object:
        return config.kv_cache_layout, config.canonical_layout

    def model(self, config: Any) -> object:
        groups = [(group.tokens_per_block, tuple(group.layer_names)) for group in config.groups]
        return config.model.name, config.cache.tokens_per_hash, groups

    def ranks(self, config: Any) -> object:
        return config.parallel.rank, config.parallel.tp_size, config.parallel.pp_size

    # -- the thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            with self.wake:
                self.wake.wait_for(lambda: self.closed or self.work)
                if self.closed:
                    return
                call, *given = self.work.popleft()
                self.running = 1
            call(*given)
            with self.wake:
                self.running = 0
                self.wake.notify_all()

    def hand(self, *work: Any) -> None:
        with self.wake:
            self.work.append(work)
            self.wake.notify_all()

    def slot(self, number: Any) -> memoryview:
        return self.rows[int(number) * self.row : (int(number) + 1) * self.row]

    def stores(self, job: Any) -> None:
        good = [self.store_one(key, slot) for key, slot in zip(job.keys, job.chunk_ids, strict=True)]
        self.report(JobResult(job_id=job.job_id, success=all(good), transfer_bytes=self.row * len(good)))
        kept = [key for key, held in zip(job.keys, good, strict=True) if held]
        if kept:
            self.tell(kept)

    def tell(self, keys: list[bytes]) -> None:
        self.told.append(OffloadingEvent(keys=keys, medium=self.medium, removed=False))

    def store_one(self, key: bytes, slot: Any) -> bool:
        try:
            if not self.shelf.has(key.hex()):
                self.shelf.put(key.hex(), self.slot(slot))
        except OSError:
            return False
        return True

    def loads(self, job: Any) -> None:
        good = [self.load_one(key, slot) for key, slot in zip(job.keys, job.chunk_ids, strict=True)]
        came = [key for key, there in zip(job.keys, good, strict=True) if there]
        self.failed(job, [key for key, there in zip(job.keys, good, strict=True) if not there])
        self.report(JobResult(job_id=job.job_id, success=all(good), successful_keys=came or None))

    def failed(self, job: Any, keys: list[bytes]) -> None:
        """The request of a load that failed reads MISS."""
        for key in keys:
            self.known[job.req_context.req_id, key] = False

    def load_one(self, key: bytes, slot: Any) -> bool:
        data = self.read(key)
        if data is None or len(data) != self.row:
            return False
        self.copy(data, slot)
        return True

    def read(self, key: bytes) -> bytes | None:
        return self.shelf.get(key.hex())

    def copy(self, data: bytes, slot: Any) -> None:
        self.slot(slot)[:] = data

    def report(self, result: Any) -> None:
        self.done.append(result)

    def looks(self, one: tuple[str, bytes]) -> None:
        self.known.setdefault(one, self.shelf.has(one[1].hex()))

    # -- vLLM's ------------------------------------------------------------------------------------------------------

    def lookup(self, key: bytes, req_context: Any) -> Any:
        one = (req_context.req_id, key)
        if one not in self.known:
            if one not in self.asked:
                self.asked.add(one)
                self.hand(self.looks, one)
            return LookupResult.RETRY
        return LookupResult.HIT if self.known[one] else LookupResult.MISS

    def submit_store(self, job_metadata: Any) -> None:
        self.hand(self.stores, job_metadata)

    def submit_load(self, job_metadata: Any) -> None:
        self.hand(self.loads, job_metadata)

    def get_finished_jobs(self) -> Iterable[Any]:
        found = []
        while self.done:
            found.append(self.done.popleft())
        return found

    def take_events(self) -> Iterable[Any]:
        while self.told:
            yield self.told.popleft()

    def on_new_request(self, req_context: Any) -> Any:
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: Any) -> None:
        for one in [one for one in self.asked | self.known.keys() if one[0] == req_context.req_id]:
            self.asked.discard(one)
            self.known.pop(one, None)

    def drain_jobs(self) -> None:
        with self.wake:
            self.wake.wait_for(lambda: not self.work and not self.running)

    def shutdown(self) -> None:
        with self.wake:
            self.closed = True
            self.wake.notify_all()
        self.thread.join()
        self.rows.release()
