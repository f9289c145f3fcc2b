"""A secondary tier below a primary tier of its own, and the steps of a scheduler.

Chunks are numbers: the row of chunk `n` is `content(n, row)`. Slots are rows of the primary tier.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

import numpy

from lms_conformance import gauges
from lms_conformance.adapters.driven import CANARY, Driven, content, told
from lms_conformance.violation import violate

ROW: Final = 3 * 4096
SLOTS: Final = 8

_PARALLEL: Final = {
    "rank": 0, "world_size": 1, "tp_size": 1, "pp_size": 1, "pcp_size": 1, "dcp_size": 1,
    "data_parallel_index": 0, "data_parallel_size": 1, "data_parallel_rank_local": None,
    "is_parallelism_agnostic": False,
}  # fmt: skip
_RUN: Final = {
    "kv_cache_layout": "LBNHC", "canonical_layout": False, "replicated_layout": False, "name": "llama",
    "dtype": "bfloat16", "tokens_per_hash": 16, "layers": ("l0", "l1"), "events": True,
}  # fmt: skip


def spec(**changes: Any) -> Any:
    """What vLLM tells a tier of its run.

    Raises
    ------
    TypeError
        A change of something unknown.
    """
    unknown = changes.keys() - _PARALLEL.keys() - _RUN.keys()
    if unknown:
        raise TypeError(f"a run of vLLM is not described by {sorted(unknown)}")
    parallel = {name: changes.get(name, value) for name, value in _PARALLEL.items()}
    run: dict[str, Any] = {name: changes.get(name, value) for name, value in _RUN.items()}
    return SimpleNamespace(
        config=SimpleNamespace(
            groups=[SimpleNamespace(tokens_per_block=16, layer_names=run["layers"])],
            model=SimpleNamespace(name=run["name"], dtype=run["dtype"]),
            cache=SimpleNamespace(tokens_per_hash=run["tokens_per_hash"], blocks_per_chunk=1),
            parallel=SimpleNamespace(**parallel), kv_cache_layout=run["kv_cache_layout"],
            canonical_layout=run["canonical_layout"], replicated_layout=run["replicated_layout"],
        ),
        kv_events_config=SimpleNamespace(enable_kv_cache_events=run["events"]), blocks_per_chunk=1,
    )  # fmt: skip


def name(key: int) -> bytes:
    """The key of a chunk, as vLLM makes them: a hash, and four bytes of the group."""
    return key.to_bytes(32, "big") + (0).to_bytes(4, "big")


def request(req_id: str = "request") -> Any:
    """A request, as far as tiers know it."""
    return SimpleNamespace(req_id=req_id, kv_transfer_params=None)


class Primary:
    """The primary tier's memory, with a view as vLLM gives it: signed bytes in two dimensions, full of canaries."""

    def __init__(self, row: int, slots: int) -> None:
        self.memory = mmap.mmap(-1, row * slots)
        self.memory[:] = bytes([CANARY]) * (row * slots)
        rows: Any = numpy.frombuffer(self.memory, dtype=numpy.int8).reshape(-1, row)
        self.view = memoryview(rows)

    def close(self) -> None:
        """Give the memory back.

        Raises
        ------
        BufferError
            Somebody has a view of it.
        """
        self.view.release()
        self.memory.close()


class Drive(Driven):
    """One tier.

    Parameters
    ----------
    tier : SecondaryTierManager
    primary : Primary
    row, slots : int
        Bytes a row, and rows.
    """

    def __init__(self, tier: Any, primary: Primary, row: int, slots: int) -> None:
        self.tier = tier
        self.primary = primary
        self.row = row
        self.slots = slots
        self.results: dict[int, Any] = {}
        self.jobs = 0
        self.closed = False

    # -- the primary tier --------------------------------------------------------------------------------------------

    def fill(self, slot: int, key: int) -> None:
        """Write a chunk's row."""
        self.primary.memory[slot * self.row : (slot + 1) * self.row] = content(key, self.row)

    def slot(self, slot: int) -> bytes:
        """A row."""
        return self.primary.memory[slot * self.row : (slot + 1) * self.row]

    def holds(self, slot: int, key: int) -> bool:
        """Whether a row is a chunk's."""
        return self.slot(slot) == content(key, self.row)

    def wipe(self) -> None:
        """Canaries in every row."""
        self.primary.memory[:] = bytes([CANARY]) * (self.row * self.slots)

    def touched(self, *but: int) -> list[int]:
        """Rows that hold no canaries, these left out."""
        clean = bytes([CANARY]) * self.row
        return [slot for slot in range(self.slots) if slot not in but and self.slot(slot) != clean]

    # -- the scheduler -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """The end of a step: results are taken."""
        self.tier.on_schedule_end(SimpleNamespace(new_req_ids=(), preempted_req_ids=()))
        self.finished()

    def finished(self) -> None:
        """Take the results that are there."""
        for result in self.tier.get_finished_jobs():
            if result.job_id in self.results or not 0 < result.job_id <= self.jobs:
                violate("each job to be reported once", f"job {result.job_id} again, or never submitted")
            self.results[result.job_id] = result

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Step until something is so."""
        began = time.monotonic()
        while not (found := condition()):
            if time.monotonic() - began > self.patience * gauges.busy():
                violate(f"{what} within {self.patience:g} s", "it never came")
            self.step()
            threading.Event().wait(0.001)
        return found

    def soon(self, condition: Callable[[], Any], seconds: float = 3.0) -> None:
        """Step until something is so, but not for long."""
        end = time.monotonic() + seconds * gauges.busy()
        while not condition() and time.monotonic() < end:
            self.step()
            threading.Event().wait(0.001)

    def job(self, keys: Sequence[int], slots: Sequence[int], load: bool, req_id: str = "request") -> Any:
        """A job, as the tiering manager describes it."""
        self.jobs += 1
        return SimpleNamespace(
            job_id=self.jobs, keys=[name(k) for k in keys], chunk_ids=numpy.array(list(slots), dtype=numpy.int32),
            req_context=request(req_id), is_promotion=load, submit_time=time.monotonic(),
        )  # fmt: skip

    def result(self, job: Any) -> Any:
        """A job's result, in the end."""
        return self.until(lambda: self.results.get(job.job_id), f"a result of job {job.job_id}")

    # -- whole calls -------------------------------------------------------------------------------------------------

    @told
    def store(self, keys: Sequence[int], slots: Sequence[int] | None = None) -> bool:
        """Fill rows, store them, and leave canaries; whether all are held."""
        slots = list(range(len(keys))) if slots is None else slots
        for key, slot in zip(keys, slots, strict=True):
            self.fill(slot, key)
        job = self.job(keys, slots, False)
        self.tier.submit_store(job)
        good = bool(self.result(job).success)
        spoilt = [slot for key, slot in zip(keys, slots, strict=True) if not self.holds(slot, key)]
        if spoilt or self.touched(*slots):
            violate("a store to write no row", f"rows {spoilt + self.touched(*slots)} were written")
        self.wipe()
        return good

    @told
    def load(self, keys: Sequence[int], slots: Sequence[int], req_id: str = "request") -> list[str]:
        """Load chunks into rows: ``"whole"`` or ``"wrong"`` of each that is said to be there, else ``"failed"``."""
        job = self.job(keys, slots, True, req_id)
        self.tier.submit_load(job)
        result = self.result(job)
        good = set(job.keys if result.success else result.successful_keys or ())
        if not good <= set(job.keys):
            violate("successful keys to be of the job", sorted(good - set(job.keys)))
        if self.touched(*slots):
            violate(f"only rows {list(slots)} to be written", f"rows {self.touched(*slots)} were written")
        return [
            "failed" if name(key) not in good else "whole" if self.holds(slot, key) else "wrong"
            for key, slot in zip(keys, slots, strict=True)
        ]

    @told
    def look(self, keys: Sequence[int], req_id: str | None = None) -> list[str]:
        """What look-ups of a request come to in the end; it ends then unless it is named."""
        one = req_id or f"look {self.jobs} {list(keys)}"
        self.tier.on_new_request(request(one))
        found: dict[int, str] = {}

        def known() -> bool:
            for key in keys:
                answer = self.tier.lookup(name(key), request(one)).name
                if answer != "RETRY":
                    found.setdefault(key, answer)
            return len(found) == len(set(keys))

        self.until(known, "an answer other than RETRY")
        if req_id is None:
            self.end_of(one)
        return [found[key] for key in keys]

    def end_of(self, req_id: str) -> None:
        """A request has finished."""
        self.tier.on_request_finished(request(req_id))

    def events(self) -> list[tuple[int, bool]]:
        """What is told of chunks: number, and whether it went."""
        return [
            (int.from_bytes(key[:-4], "big"), bool(event.removed))
            for event in self.tier.take_events()
            for key in event.keys
        ]

    def close(self) -> None:
        """End the tier, and give the primary tier's memory back."""
        if self.closed:
            return
        self.closed = True
        self.tier.shutdown()
        self.tier._primary_kv_view = None
        try:
            self.primary.close()
        except BufferError as error:
            violate("no view of the primary tier to be kept after shutdown", error)
