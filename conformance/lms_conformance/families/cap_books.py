"""CAP, over a life: whatever was refused, absent, overwritten or small, the books and the room stay what they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lms_conformance.chunks import KIB, MIB, Chunk, key
from lms_conformance.damage import allocated_bytes
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.errors import CapacityError, InvalidChunkError
from lms_tiers.messages import CacheEngineKey

CAPACITY = 32 * MIB

#: Length of the chunks that say how much room there is.
_MEASURE = 256 * KIB

#: Chunks of that length that are held meanwhile.
_STAY = 12


def _room(trial: Trial, backend: Subject, besides: int = 0) -> int:
    """How many chunks of one length are held when no more fit, `besides` others; they are removed again."""
    limit = trial.harness.holds(CAPACITY)
    b, keys = backend.backend, [key(f"fill{i}") for i in range(2 * limit // _MEASURE)]
    for i, k in enumerate(keys):
        chunk = Chunk(8 * (i % 40) + 3, _MEASURE)
        try:
            b.put(chunk.message(k), chunk.data())
        except CapacityError:
            break
    b.flush()  # what is on its way to another tier takes room there, too
    held = b.contains_many(keys).count(True) + besides
    for k in keys:
        b.remove(k)
    b.flush()
    trial.ran(2 * len(keys))
    expect(held * _MEASURE <= limit, f"at most {limit} bytes of incompressible chunks to be held", held * _MEASURE)
    return held


def _life(backend: Subject, stay: list[CacheEngineKey]) -> Iterator[str]:
    """What may move the books; after each of these parts nothing is held but `stay`."""
    b, chunk = backend.backend, Chunk(3, _MEASURE)
    bad = chunk.message(key("bad"))
    bad.length += 1
    for _ in range(160):
        with contextlib.suppress(InvalidChunkError):
            b.put(bad, chunk.data())
    yield "160 puts that were refused"
    for k in stay:
        b.put(chunk.message(k), chunk.data())
    for i in range(700):
        b.remove(key(f"absent{i}"))
    b.remove_many([key(f"absent{i}") for i in range(300)])
    yield f"removals of 1000 absent keys beside {len(stay)} that are held"
    for name, sizes in {"longer": (0, 1, 300 * KIB), "shorter": (300 * KIB, 5000, 0)}.items():
        for i in range(64):
            for size in sizes:
                b.put(Chunk(3, size).message(key(f"o{i % 8}")), Chunk(3, size).data())
            b.remove(key(f"o{i % 8}"))
        yield f"128 overwrites with {name} chunks"


@prop(
    "CAP-11",
    "Refused puts, removals of absent keys and overwrites of any length leave the room what it was.",
    since="1.1",
    needs=["capacity", "remove"],
)
def _books(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    stay = [key(f"stays{i}") for i in range(_STAY)]
    with trial.quiet(f"# fill it with chunks of {_MEASURE} bytes and empty it, before and after each of these"):
        first = _room(trial, backend)
        expect(first * _MEASURE * 4 >= CAPACITY, "at least a quarter of the capacity to be of use", first * _MEASURE)
    for what in _life(backend, stay):
        trial.record(f"# {what}")
        with trial.quiet("# fill it and empty it again"):
            there = backend.backend.contains_many(stay).count(True)
            now = _room(trial, backend, 0 if trial.caps.evicts else there)
            backend.backend.remove_many(stay)
        near = first - max(2, first // 8) <= now <= first + max(2, first // 8)
        expect(near, f"room for about {first} chunks of {_MEASURE} bytes after {what}, as before", now)


#: More chunks of a few bytes than blocks of 4 KiB fit into it.
_SMALL_CAPACITY, _SMALL = 16 * MIB, 4400


@prop(
    "CAP-12",
    "The budget holds for thousands of chunks of a few bytes, or of none, with all that a chunk takes besides.",
    since="1.1",
    needs=["capacity"],
)
def _small(trial: Trial) -> None:
    backend = trial.open(capacity=_SMALL_CAPACITY)
    limit, b, stored = trial.harness.holds(_SMALL_CAPACITY), backend.backend, 0
    with trial.quiet(f"# up to {_SMALL} chunks of 0, 1 and 100 bytes, in batches of 200"):
        for at in range(0, _SMALL, 200):
            chunks = {f"small{i}": Chunk(3, (0, 1, 100)[i % 3]) for i in range(at, at + 200)}
            full = False
            try:
                b.put_many([(c.message(key(k)), c.data()) for k, c in chunks.items()])
            except CapacityError:
                full = True
            trial.ran(2)
            used = b.stats()
            for name in ("bytes_used", "bytes_peak"):
                value = getattr(used, name)
                expect(value is None or value <= limit, f"stats().{name} of at most the capacity, {limit}", value)
            if {"persistent", "local"} <= trial.have and trial.harness.capacity_scale == 1:
                on_disk = allocated_bytes(backend.path)
                expect(on_disk <= limit, f"at most {limit} bytes on disk with {at + 200} small chunks", on_disk)
            if full:
                break
            stored += len(chunks)
        listed = backend.keys()
        expect(trial.caps.evicts or len(listed) >= stored, f"{stored} keys, whose puts returned", len(listed))
        for k in listed[:: max(1, len(listed) // 50)]:
            backend.expect_chunk(k, Chunk(3, (0, 1, 100)[int(k.removeprefix("small")) % 3]))
