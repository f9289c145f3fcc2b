"""A tier as vLLM's scheduler drives it: over vLLM's own classes where they are there, else over a small double."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from lms_conformance.adapters.driven import content
from lms_conformance.adapters.vllm_tier.drive import name, spec

from tests.doors.vllm import double

#: Whether vLLM itself is there (`make doors`).
REAL = os.environ.get("LMS_DOORS_ENGINE") == "vllm"
PATIENCE = 120

ROW, SLOTS = 4096 * 3, 8


@pytest.fixture(scope="package", autouse=True)
def engine() -> Iterator[None]:
    with nullcontext() if REAL else double.installed():
        yield


def request(req_id: str = "request") -> Any:
    return SimpleNamespace(req_id=req_id)


def chunk(key: int, row: int = ROW) -> bytes:
    return content(key, row)


def rows_of(memory: mmap.mmap, row: int) -> memoryview:
    """A view as vLLM gives it: signed bytes in two dimensions."""
    rows: Any = numpy.frombuffer(memory, dtype=numpy.int8).reshape(-1, row)
    return memoryview(rows)


def metrics_of(stats: Any) -> dict[str, float]:
    """What a record of vLLM's tells, by name; whatever release it is of."""
    if not REAL:
        return {**stats.counters, **stats.gauges}
    sections = stats.metric_sections() if hasattr(stats, "metric_sections") else (stats._types, stats._values)
    return {metric: next(iter(values.values())) for metric, values in sections[1].items()}


@dataclass
class Drive:
    """A tier with a primary tier of its own, and the steps of a scheduler."""

    tier: Any
    memory: mmap.mmap
    view: memoryview
    row: int
    results: dict[int, Any] = field(default_factory=dict)
    jobs: int = 0

    @property
    def store(self) -> Any:
        return self.tier._store.backend

    def faulty(self) -> Any:
        """The backend of the top tier, which takes orders."""
        return self.store._h.tiers[0].backend

    def step(self) -> None:
        self.tier.on_schedule_end(SimpleNamespace(new_req_ids=(), preempted_req_ids=()))
        for result in self.tier.get_finished_jobs():
            assert result.job_id not in self.results, "reported twice"
            self.results[result.job_id] = result

    def fill(self, slot: int, data: bytes) -> None:
        self.memory[slot * self.row : (slot + 1) * self.row] = data

    def slot(self, slot: int) -> bytes:
        return self.memory[slot * self.row : (slot + 1) * self.row]

    def job(self, keys: list[int], slots: list[int], req_id: str = "request") -> Any:
        self.jobs += 1
        return SimpleNamespace(
            job_id=self.jobs, keys=[name(k) for k in keys], chunk_ids=numpy.array(slots, dtype=numpy.int32),
            req_context=request(req_id),
        )  # fmt: skip

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, "it never happened"
            self.step()
            threading.Event().wait(0.001)
        return found

    def result(self, job: Any) -> Any:
        return self.until(lambda: self.results.get(job.job_id))

    def store_rows(self, keys: list[int], slots: list[int] | None = None) -> Any:
        """Fill slots with the chunks of `keys`, store them, and answer the result."""
        slots = list(range(len(keys))) if slots is None else slots
        for key, slot in zip(keys, slots, strict=True):
            self.fill(slot, chunk(key, self.row))
        job = self.job(keys, slots)
        self.tier.submit_store(job)
        return self.result(job)

    def load_rows(self, keys: list[int], slots: list[int]) -> Any:
        job = self.job(keys, slots)
        self.tier.submit_load(job)
        return self.result(job)

    def look(self, key: int, req_id: str = "request") -> str:
        """What a look-up comes to in the end."""
        found = ""

        def known() -> bool:
            nonlocal found
            found = self.tier.lookup(name(key), request(req_id)).name
            return bool(found != "RETRY")

        self.until(known)
        return found

    def looks(self, keys: list[int]) -> list[str]:
        """The same of a request of its own that ends then."""
        req_id = f"look {self.jobs} {keys}"
        found = [self.look(key, req_id) for key in keys]
        self.tier.on_request_finished(request(req_id))
        return found

    def close(self) -> None:
        self.tier.shutdown()
        self.release()

    def release(self) -> None:
        self.tier._primary_kv_view = None
        self.view.release()
        self.memory.close()  # a BufferError where anybody still has a view


Open = Callable[..., Drive]


@pytest.fixture
def open_tier(tmp_path: Path) -> Iterator[Open]:
    """Opens tiers: ``open_tier(device, row=…, spec changes…, options={…})``; what is left open is closed at the end."""
    drives: list[Drive] = []

    def opening(
        device: str = "cpu?capacity=64MiB", *, row: int = ROW, slots: int = SLOTS, options: Any = None, **changes: Any
    ) -> Drive:
        from lms_tiers.doors.vllm import LMSTier

        memory = mmap.mmap(-1, row * slots)
        memory[:] = b"\xa5" * (row * slots)
        view = rows_of(memory, row)
        try:
            tier = LMSTier(
                offloading_spec=spec(**changes), primary_kv_view=view, tier_type="lms", device=device, **options or {}
            )
        except BaseException:
            view.release()
            memory.close()
            raise
        drives.append(Drive(tier, memory, view, row))
        return drives[-1]

    yield opening
    for drive in drives:
        if not drive.memory.closed:
            drive.close()
