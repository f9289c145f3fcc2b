"""RES, by cycles: neither a place that opens and closes nor threads that come and go leave anything behind."""

from __future__ import annotations

import gc
import itertools
import threading
import tracemalloc
from collections.abc import Callable

from lms_conformance import gauges
from lms_conformance.chunks import KIB, Chunk, key
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, expect, violate

#: Looks after the first, and cycles between two of them.
_LOOKS, _CYCLES, _THREADS = 3, 5, 24


def _slopes(measure: Callable[[], int], cycle: Callable[[], None]) -> tuple[int, ...]:
    """How much more there is after each turn of cycles; the first turn, in which caches fill, is not counted."""
    looks = []
    gauges.settle()  # what was there before is looked through once, not at each look
    for _ in range(_LOOKS + 1):
        cycle()
        gc.collect()
        looks.append(measure())
    return tuple(after - before for before, after in itertools.pairwise(looks))


def _allocated() -> int:
    return tracemalloc.get_traced_memory()[0]


@prop(
    "RES-12",
    "A place that is opened, used and closed for ever keeps no memory of it, and no more files.",
    since="1.1",
)
def _cycles(trial: Trial) -> None:
    first = trial.open()
    path, harness, capacity = first.path, trial.harness, first.capacity
    chunk = Chunk(3, 2 * KIB)
    files: list[int] = []
    first.backend.put(chunk.message(key("a")), chunk.data())
    first.close()
    trial.record(f"# the same place is opened, used and closed {_CYCLES * (_LOOKS + 1)} times more")

    def cycle() -> None:
        for _ in range(_CYCLES):
            backend = harness.reopen(path, capacity)
            backend.put(chunk.message(key("a")), chunk.data())
            backend.get(key("a"))
            backend.close()
            trial.ran(3)
        files.append(sum(1 for _ in path.rglob("*")) if path.is_dir() else 0)

    began = not tracemalloc.is_tracing()
    if began:
        tracemalloc.start(1)
    try:
        grown = min(_slopes(_allocated, cycle)) // _CYCLES
    finally:
        if began:
            tracemalloc.stop()
    expect(grown < 4 * KIB, f"less than {4 * KIB} bytes kept of each opening and closing", f"{grown} bytes")
    more = min(after - before for before, after in itertools.pairwise(files))
    expect(more < _CYCLES, f"no more files with each {_CYCLES} openings", f"{more} more")


@prop(
    "RES-13",
    "Threads that come, call and go leave nothing: no memory of each, no descriptor, no thread.",
    since="1.1",
)
def _threads(trial: Trial) -> None:
    backend = trial.open()
    b, chunk = backend.backend, Chunk(3, 2 * KIB, meta=("uint8", "KV_2LTD", (2 * KIB,)))
    b.put(chunk.message(key("a")), chunk.data())
    room = bytearray(len(chunk))
    wrong: list[BaseException] = []

    def use() -> None:
        try:
            b.put(chunk.message(key("a")), chunk.data())
            b.contains(key("a"))
            b.get(key("a"))
            b.get_many([key("a"), key("absent")])
            b.get_into(key("a"), room)
            b.contains_many([key("a")])
            b.list_keys()
            b.stats()
        except Exception as error:
            wrong.append(error)

    def cycle() -> None:
        for _ in range(_THREADS):
            thread = threading.Thread(target=use, name="conformance-short")
            thread.start()
            thread.join()
        trial.ran(8 * _THREADS)

    trial.record(f"# {_THREADS * (_LOOKS + 1)} threads, one after the other: each calls, and ends")
    began = not tracemalloc.is_tracing()
    if began:
        tracemalloc.start(1)
    held: list[tuple[int, int]] = []

    def measure() -> int:
        held.append((gauges.descriptors(), gauges.native_threads()))
        return _allocated()

    try:
        grown = min(_slopes(measure, cycle)) // _THREADS
    finally:
        if began:
            tracemalloc.stop()
    if wrong:
        if isinstance(wrong[0], Violation):
            raise wrong[0]
        violate("calls of threads that come and go to raise nothing", repr(wrong[0]))
    expect(grown < 2 * KIB, f"less than {2 * KIB} bytes kept of each thread that ended", f"{grown} bytes")
    for i, what in enumerate(("descriptors", "native threads")):
        more = min(after[i] - before[i] for before, after in itertools.pairwise(held))
        expect(more < _THREADS // 2, f"no more {what} with each {_THREADS} threads that ended", f"{more} more")
