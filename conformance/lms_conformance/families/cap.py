"""CAP: accounting tells the truth, and the budget holds at every moment."""

from __future__ import annotations

import contextlib
import random
import threading
from functools import partial

from lms_conformance.chunks import KIB, MIB, Chunk, key, same
from lms_conformance.damage import allocated_bytes
from lms_conformance.marks import OVERLAPPED, Overlap
from lms_conformance.preempt import Turns, own_files
from lms_conformance.programs import Op, programs, step
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_tiers.errors import CapacityError, ValueTooLargeError

CAPACITY = 32 * MIB

#: Tries until puts of several threads have met, where no Python frame of the backend makes them.
_FILLS = 10


def _within_budget(trial: Trial, backend: Subject, limit: int) -> None:
    stats = backend.backend.stats()
    for name in ("bytes_used", "bytes_peak"):
        value = getattr(stats, name)
        expect(value is None or value <= limit, f"stats().{name} of at most the capacity, {limit}", value)
    if {"persistent", "local"} <= trial.have and trial.harness.capacity_scale == 1:
        on_disk = allocated_bytes(backend.path)
        expect(on_disk <= limit, f"at most {limit} bytes on disk", on_disk)


def _retrievable(backend: Subject, chunks: dict[str, Chunk]) -> tuple[int, list[str]]:
    total, held = 0, []
    for k, chunk in chunks.items():
        obj = backend.get(k)
        if obj is not None:
            expect(same(obj, chunk), f"{chunk!r} under {k!r}, or None", "other bytes")
            total += len(chunk)
            held.append(k)
    return total, held


@prop(
    "CAP-01",
    "Accounting equals what is held: keys, and per chunk no more bytes than were to be reserved.",
    given=lambda: programs("put", "put", "remove", most=10),
    marks=["something accounted"],
)
def _accounting(trial: Trial, program: tuple[Op, ...]) -> None:
    backend = trial.open()
    trial.cannot("something accounted", "it tells neither keys nor bytes_used nor stored_bytes")
    model: dict[str, Chunk] = {}
    for op in program:
        if op.kind == "remove" and not trial.caps.remove:
            continue
        step(backend, model, op)
        stats = backend.stats()
        stored_one = next((backend.backend.stored_bytes(key(k)) for k in model), None)
        if {stats.keys, stats.bytes_used, stored_one} != {None}:
            trial.mark("something accounted")
        expect(stats.keys in (None, len(model)), f"stats().keys to be {len(model)}", stats.keys)
        for k, chunk in model.items():
            stored, most = backend.stored_bytes(k), backend.backend.reserve_bytes(len(chunk))
            ok = stored is None or 0 <= stored <= most
            expect(ok, f"stored_bytes of {chunk!r} between 0 and reserve_bytes {most}", stored)
        if stats.bytes_used is not None:
            expect(stats.bytes_used >= 0, "bytes_used not below 0", stats.bytes_used)
            if stats.bytes_peak is not None:
                expect(stats.bytes_peak >= stats.bytes_used, "bytes_peak of at least bytes_used", stats)


@prop(
    "CAP-02",
    "Filled to twice its capacity, a backend never holds more than its capacity: it refuses, or evicts.",
    needs=["capacity"],
    marks=["put at full"],
)
def _budget(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    limit = trial.harness.holds(CAPACITY)
    size = 512 * KIB
    chunks = {f"k{i}": Chunk(8 * i + 3, size) for i in range(2 * limit // size)}
    stored: dict[str, Chunk] = {}
    refused = 0
    code = (
        f"for i in range({len(chunks)}):\n    c = Chunk(8 * i + 3, {size})\n"
        "    backend.put(c.message(key(f'k{i}')), c.data())"
    )
    with trial.quiet(code):
        for i, (k, chunk) in enumerate(chunks.items()):
            try:
                backend.put(k, chunk)
                stored[k] = chunk
            except CapacityError:
                refused += 1
            _within_budget(trial, backend, limit)
            if refused > 3:
                break
            expect(backend.get(k) is None or same(backend.get(k), chunk), f"{k!r} to be right or absent", i)
        total, held = _retrievable(backend, stored)
    expect(total <= limit, f"at most {limit} bytes of incompressible chunks to be held", total)
    expect(total >= limit // 4, f"at least a quarter of the capacity of {limit} to be of use", total)
    if refused or len(held) < len(stored):
        trial.mark("put at full")
    if not trial.caps.evicts:
        expect(refused > 0, "CapacityError when the capacity is full", "every put was taken")
        expect(len(held) == len(stored), "every chunk whose put returned to be held", f"{len(held)} of {len(stored)}")


@prop(
    "CAP-03",
    "A chunk larger than the capacity raises ValueTooLargeError and leaves everything as it was.",
    needs=["capacity"],
)
def _oversize(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    model = {f"k{i}": Chunk(i, 100 * KIB) for i in range(20)}
    for k, chunk in model.items():
        backend.put(k, chunk)
    size = max(CAPACITY, trial.harness.capacity_besides) + 1
    for k in ("new", "k3"):
        backend.rejects(
            ValueTooLargeError, partial(backend.put, k, Chunk(3, size)), f"put of {size} bytes into {CAPACITY}"
        )
        backend.expect_model(model, ["new"])


@prop(
    "CAP-04",
    "A put that finds no room raises CapacityError and leaves everything, the old chunk too, as it was.",
    needs=["capacity", "!evicts"],
)
def _full(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    size = MIB
    model: dict[str, Chunk] = {}
    with trial.quiet("# fill with chunks of 1 MiB until CapacityError"):
        for i in range(trial.harness.holds(CAPACITY) // size + 1):
            try:
                backend.put(f"k{i}", Chunk(8 * i + 3, size))
            except CapacityError:
                break
            model[f"k{i}"] = Chunk(8 * i + 3, size)
        else:
            violate("CapacityError when the capacity is full", "every put was taken")
    for k in ("k0", "k1"):
        backend.rejects(CapacityError, partial(backend.put, k, Chunk(5, 12 * MIB)), "an overwrite that does not fit")
    with trial.quiet("# everything is still there"):
        backend.expect_model(model, ["new"])


@prop(
    "CAP-05",
    "What is removed or overwritten gives its room back: filling and emptying goes on for ever.",
    needs=["capacity", "remove"],
)
def _given_back(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    size = MIB
    count = CAPACITY * 6 // 10 // size
    for cycle in range(5):
        with trial.quiet(f"# cycle {cycle}: put {count} chunks of {size} bytes, remove them"):
            for i in range(count):
                backend.allows(
                    partial(backend.put, f"k{i}", Chunk(8 * i + 3, size)),
                    f"put {i} of cycle {cycle}, below 60 % of the capacity,",
                )
            backend.expect_chunk("k0", Chunk(3, size))
            for i in range(count):
                backend.remove(f"k{i}")
            backend.flush()
    with trial.quiet(f"# overwrite one key 60 times with {4 * size} bytes"):
        for i in range(60):
            backend.allows(partial(backend.put, "a", Chunk(8 * (i % 4) + 3, 4 * size)), f"overwrite {i} of one key")
    backend.expect_model({"a": Chunk(8 * (59 % 4) + 3, 4 * size)}, ["k0"])


@prop(
    "CAP-06", "Chunks whose reserve_bytes add up to no more than usable_bytes all fit.", needs=["capacity", "!evicts"]
)
def _reserve(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    usable = backend.backend.usable_bytes
    expect(usable is None or 0 < usable <= CAPACITY, f"usable_bytes between 0 and {CAPACITY}", usable)
    room = CAPACITY if usable is None else usable
    sizes = (MIB, 700 * KIB + 1, 300 * KIB, 64 * KIB - 16, 9000)
    reserved, model = 0, {}
    with trial.quiet(f"# put chunks of {sizes} bytes in turn while the sum of reserve_bytes is at most {room}"):
        skipped = i = 0
        while skipped < len(sizes):  # until not even the smallest is to fit
            chunk = Chunk(8 * i + 3, sizes[i % len(sizes)])
            i += 1
            need = backend.backend.reserve_bytes(len(chunk))
            expect(need >= len(chunk), "reserve_bytes of at least an incompressible length", need)
            if reserved + need > room:
                skipped += 1
                continue
            backend.allows(partial(backend.put, f"k{i}", chunk), f"put with {reserved} of {room} bytes reserved")
            skipped = 0
            reserved += need
            model[f"k{i}"] = chunk
            stored = backend.backend.stored_bytes(key(f"k{i}"))
            expect(stored is None or stored <= need, f"stored_bytes of at most the {need} reserved", stored)
            _within_budget(trial, backend, trial.harness.holds(CAPACITY))
            if len(model) > 3000:
                break
        backend.expect_model(model)


@prop("CAP-07", "The budget holds beside running puts, at every moment.", needs=["capacity"], marks=[OVERLAPPED])
def _concurrent(trial: Trial) -> None:
    capacity = 16 * MIB
    backend = trial.open(capacity=capacity)
    limit = trial.harness.holds(capacity)
    data = Chunk(3, 512 * KIB)
    overlap = Overlap(trial)
    puts = limit // len(data) // 2

    def put(worker: int, numbers: range) -> None:
        for i in numbers:
            with contextlib.suppress(CapacityError), overlap.call(worker):
                backend.backend.put(data.message(key(f"w{worker}-{i}")), data.data())

    def fill(worker: int, turns: Turns) -> None:
        put(worker, range(puts - 4))  # native code wants its threads to run at the same time; Python frames take turns
        with turns.of(worker):
            put(worker, range(puts - 4, puts))

    def fill_all(stop: threading.Event) -> None:
        turns = Turns(own_files(backend.backend), 4, random.Random(trial.rng.randrange(1 << 30)))
        try:
            trial.threads([partial(fill, w, turns) for w in range(4)], 60, "four threads putting")
        finally:
            stop.set()

    def watch(stop: threading.Event) -> None:
        while not stop.wait(1e-4):  # a watcher that spins would keep the interpreter from those it watches
            used = backend.backend.stats().bytes_used
            expect(used is None or used <= limit, f"at most {limit} bytes beside running puts", used)

    trial.record(
        f"# four threads put chunks of {len(data)} bytes, twice the capacity together, while stats() is watched"
    )
    for _ in range(_FILLS):
        stop = threading.Event()
        trial.threads([partial(fill_all, stop), partial(watch, stop)], 90, "puts beside stats")
        if trial.marks[OVERLAPPED]:
            break
    _within_budget(trial, backend, limit)
    with trial.quiet("# what is held is right, and no more than the capacity"):
        keys = backend.keys()
        total, _ = _retrievable(backend, dict.fromkeys(keys, data))
    expect(total <= limit, f"at most {limit} bytes held", total)
