"""RES, by slope: what each method keeps of each call, down to a kibibyte, over hundreds and thousands of calls."""

from __future__ import annotations

import gc
import itertools
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from lms_conformance import gauges
from lms_conformance.chunks import KIB, Chunk, key
from lms_conformance.damage import allocated_bytes
from lms_conformance.spec import prop
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_conformance.zoo.memory import MemoryReference
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import LMSBackendInterface

#: Calls between two looks at what is allocated, and how often it is looked; a leak shows between any two looks.
CALLS, LOOKS = 40, 4

#: A call that keeps this much, each time, leaks. Python's own books need some tens of bytes in some hundred calls.
LEAK = 512

#: Of metadata that is ever another some of it may be kept to be found again, in a cache that has an end.
SHAPE = 2 * KIB


def _methods(b: LMSBackendInterface, chunk: Chunk) -> dict[str, Callable[[int], Any]]:
    """Each method as a call of one number, which changes nothing that is stored in the end."""
    import torch

    held, absent, device = key("a"), key("absent"), getattr(b, "device", "cpu")
    room, source, bad = bytearray(2 * len(chunk)), MemoryReference(), chunk.message(key("a"))
    source.put(chunk.message(held), chunk.data())
    bad.length += 1
    tensor = torch.zeros(len(chunk), dtype=torch.uint8, device=device)

    def view(i: int) -> None:
        with b.view(held):
            pass

    def refused(i: int) -> None:
        try:
            b.put(bad, chunk.data())
        except LmsTiersError:
            return

    calls: dict[str, Callable[[int], Any]] = {
        "put": lambda i: b.put(chunk.message(held), chunk.data()),
        "put that is refused": refused,
        "put_many": lambda i: b.put_many([(chunk.message(held), chunk.data())] * 2),
        "put_from": lambda i: b.put_from([chunk.message(held)], source),
        "put_tensor": lambda i: b.put_tensor(chunk.message(held), tensor),
        "get": lambda i: b.get(held),
        "get of what is absent": lambda i: b.get(absent),
        "get of ever other absent keys": lambda i: b.get(key(f"absent{i}")),
        "get_many": lambda i: b.get_many([held, absent, held]),
        "get_into": lambda i: b.get_into(held, room),
        "get_scattered": lambda i: b.get_scattered(held, [room]),
        "get_many_into": lambda i: b.get_many_into([(held, [room]), (absent, [room])]),
        "get_tensor": lambda i: b.get_tensor(held),
        "view": view,
        "contains": lambda i: b.contains(held),
        "contains of ever other absent keys": lambda i: b.contains(key(f"absent{i}")),
        "contains_many": lambda i: b.contains_many([held, absent]),
        "contains_prefix": lambda i: b.contains_prefix([held, absent]),
        "list_keys": lambda i: b.list_keys(),
        "scan": lambda i: list(b.scan()),
        "a scan that is left": lambda i: next(iter(b.scan())),
        "stats": lambda i: b.stats(),
        "touch": lambda i: b.touch([held, absent]),
        "stored_bytes": lambda i: b.stored_bytes(held),
        "shrunk": lambda i: b.shrunk(),
        "save_state": lambda i: b.save_state(b"state"),
        "load_state": lambda i: b.load_state(),
    }
    if b.capabilities.remove:

        def come_and_go(i: int) -> None:
            b.put(chunk.message(key(f"new{i}")), chunk.data())
            b.remove(key(f"new{i}"))

        calls["put and remove of ever other keys"] = come_and_go
        calls["remove of ever other absent keys"] = lambda i: b.remove(key(f"absent{i}"))
        calls["remove_many"] = lambda i: b.remove_many([absent, key(f"absent{i}")])
    return calls


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@prop(
    "RES-09", "No method keeps a kibibyte of each call: Python's allocations do not grow with the calls.", since="1.1"
)
def _python_slope(trial: Trial) -> None:
    backend = trial.open()
    chunk = Chunk(3, 2 * KIB, meta=("uint8", "KV_2LTD", (2 * KIB,)))
    backend.put("a", chunk)
    methods = _methods(backend.backend, chunk)
    number = itertools.count()

    def ever_other_shapes(i: int) -> None:
        other = Chunk(3, len(chunk), meta=("uint8", "KV_2LTD", (1 + i, len(chunk))))
        backend.backend.put(other.message(key("a")), other.data())

    def keeps(calls: Sequence[Callable[[int], Any]]) -> int:
        """Bytes that are kept at least of each round of `calls`."""
        looks = []
        for _ in range(LOOKS + 1):
            for _ in range(CALLS):
                for call in calls:
                    call(next(number))
            looks.append(_allocated())
        trial.ran(CALLS * (LOOKS + 1) * len(calls))
        return min(after - before for before, after in itertools.pairwise(looks)) // CALLS

    trial.record(f"# all methods in turn, {CALLS * (LOOKS + 1)} times each")
    began = not tracemalloc.is_tracing()
    if began:
        tracemalloc.start(1)
    gauges.settle()  # what was there before is looked through once, not at each look
    try:
        named, kept = list(methods.items()), keeps(list(methods.values()))
        while kept >= LEAK and len(named) > 1:  # which half of them is it?
            half = named[: len(named) // 2]
            named = half if keeps([call for _, call in half]) >= LEAK else named[len(half) :]
        expect(kept < LEAK, f"less than {LEAK} bytes kept of each {named[0][0]}", f"{kept} bytes or more")
        kept = keeps([ever_other_shapes])
        expect(kept < SHAPE, f"less than {SHAPE} bytes kept of each put of ever other shapes", f"{kept} bytes or more")
    finally:
        if began:
            tracemalloc.stop()
    backend.put("a", chunk)
    backend.expect_chunk("a", chunk)


#: Rounds of all methods between two looks at resident memory: so many, or as many as there is time for.
ROUNDS, FEWEST = 100, 20

#: Growth between two looks that may be an allocator's.
ARENA = 64 * KIB


@prop(
    "RES-10",
    "All methods together keep no memory outside of Python's books either: what is resident does not grow for ever.",
    since="1.1",
)
def _resident_slope(trial: Trial) -> None:
    backend = trial.open()
    chunk = Chunk(3, 8 * KIB, meta=("uint8", "KV_2LTD", (8 * KIB,)))
    backend.put("a", chunk)
    number = itertools.count()
    methods = list(_methods(backend.backend, chunk).values())

    def rounds(n: int) -> int:
        for _ in range(n):
            for call in methods:
                call(next(number))
        trial.ran(n * len(methods))
        gc.collect()
        return gauges.trimmed_bytes()

    began = time.monotonic()
    rounds(FEWEST)
    each = (time.monotonic() - began) / FEWEST
    n = min(ROUNDS, max(FEWEST, int(trial.profile.example_seconds * gauges.busy() / 2 / each)))
    trial.record(f"# all methods in turn: {n} rounds, and 5 times as many again")
    gauges.settle()
    looks = [rounds(n) for _ in range(6)]
    grown = [after - before for before, after in itertools.pairwise(looks)]
    most = max(n * 768, ARENA)
    # In one of the looks an allocator may have given back what it had kept since before.
    expect(sorted(grown)[1] < most, f"less than {most >> 10} KiB more with each {n} rounds of all methods",
           f"{[g >> 10 for g in grown]} KiB")  # fmt: skip


@prop(
    "RES-11",
    "Overwrites, removals and refusals leave nothing on the medium: a place of few chunks does not grow for ever.",
    since="1.1",
    needs=["persistent", "local"],
)
def _place_slope(trial: Trial) -> None:
    backend = trial.open()
    number = iter(range(1_000_000))
    methods = _methods(backend.backend, Chunk(3, 2 * KIB, meta=("uint8", "KV_2LTD", (2 * KIB,))))
    writing = [call for name, call in methods.items() if name.startswith(("put", "remove", "save", "touch"))]
    files: list[tuple[int, int]] = []
    trial.record("# every way to write and to forget in turn, 60 rounds, and 3 times as many again")
    for _ in range(4):
        for _ in range(60):
            for call in writing:
                call(next(number))
        trial.ran(60 * len(writing))
        backend.flush()
        files.append((sum(1 for p in backend.path.rglob("*")), allocated_bytes(backend.path)))
    grown = [b[0] - a[0] for a, b in itertools.pairwise(files)]
    expect(min(grown) < 30, "no more files with each 60 rounds", f"{grown} files more")
    sizes = [b[1] - a[1] for a, b in itertools.pairwise(files)]
    expect(
        min(sizes) < 60 * KIB, "a place that does not grow with each 60 rounds", f"{[s >> 10 for s in sizes]} KiB more"
    )
