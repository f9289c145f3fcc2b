"""CAP and EVI, by the optional methods: they take and give back room, and are uses, as the main ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lms_conformance.chunks import MIB, Chunk, key
from lms_conformance.families.evi import CAPACITY as EVICTING
from lms_conformance.families.evi import Order, chunk_of, fits_of, put_in
from lms_conformance.programs import Op
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate
from lms_conformance.ways import Ways
from lms_conformance.zoo.memory import MemoryReference
from lms_tiers.errors import CapacityError

CAPACITY = 32 * MIB


def _shape(i: int, size: int = MIB) -> Chunk:
    return Chunk(8 * (i % 5) + 3, size, meta=("uint8", "KV_2LTD", (size,)))


def _write(backend: Subject, way: str, chunks: dict[str, Chunk]) -> None:
    import torch

    b = backend.backend
    messages = [chunk.message(key(k)) for k, chunk in chunks.items()]
    match way:
        case "put_many":
            b.put_many([(m, c.data()) for m, c in zip(messages, chunks.values(), strict=True)])
        case "put_from":
            source = MemoryReference()
            for message, chunk in zip(messages, chunks.values(), strict=True):
                source.put(message, chunk.data())
            b.put_from(messages, source)
        case _:
            for message, chunk in zip(messages, chunks.values(), strict=True):
                tensor = torch.frombuffer(chunk.data(), dtype=torch.uint8).to(getattr(b, "device", "cpu"))
                b.put_tensor(message, tensor)


@prop(
    "CAP-08",
    "Whichever way chunks are written they take room, and remove_many gives it back: filling goes on for ever.",
    since="1.1",
    needs=["capacity", "remove"],
)
def _room(trial: Trial) -> None:
    backend = trial.open(capacity=CAPACITY)
    count = CAPACITY * 6 // 10 // MIB
    for cycle, way in enumerate(("put_many", "put_from", "put_tensor", "put_many")):
        with trial.quiet(f"# cycle {cycle}: {way} {count} chunks of 1 MiB twice over, and remove_many of them"):
            for turn in range(2):
                for at in range(0, count, 4):
                    part = {f"k{i}": _shape(i + turn) for i in range(at, min(at + 4, count))}
                    backend.allows(partial(_write, backend, way, part), f"{way} below 60 % of the capacity")
            keys = [key(f"k{i}") for i in range(count)]
            there = backend.backend.contains_many(keys)
            expect(all(there), f"all of {count} chunks, below 60 % of the capacity, to be held", f"{sum(there)} are")
            backend.expect_chunk(f"k{count - 1}", _shape(count))
            backend.backend.remove_many(keys)
            backend.flush()
            trial.ran(count)
    backend.expect_model({}, ["k0", f"k{count - 1}"])


@prop(
    "CAP-09",
    "A batch that finds no room raises CapacityError: what came before is stored, the rest not, nothing old lost.",
    since="1.1",
    needs=["capacity", "!evicts", "batch_stops"],
)
def _full(trial: Trial) -> None:
    for way in ("put_many", "put_from"):
        trial.anew()
        backend = trial.open(capacity=CAPACITY)
        size = MIB - 5000  # so that there is some room left when no more of them fits
        old = {f"old{i}": _shape(i, size) for i in range(trial.harness.holds(CAPACITY) * 6 // 10 // MIB)}
        # The last of the batch is small: it would fit, if the batch did not stop.
        new = {f"new{i}": _shape(40 + i, size) for i in range(trial.harness.holds(CAPACITY) // size)}
        new["small"] = Chunk(3, 100)
        with trial.quiet(f"# {len(old)} chunks of {size} bytes, and a batch of {len(new)} more than fit, by {way}"):
            _write(backend, "put_many", old)
            backend.rejects(CapacityError, partial(_write, backend, way, new), f"{way} of more than fits")
            held = backend.backend.contains_many([key(k) for k in new])
            stored = held.index(False) if False in held else len(held)
            expect(not any(held[stored:]), "nothing of a batch stored behind the item that was refused", held)
            backend.expect_model({**old, **{k: new[k] for k in list(new)[:stored]}})


#: Ways to read one key, which count as a use; and ways to ask, which do not.
USES: dict[str, Callable[[Any, Any], Any]] = {
    "get_many": lambda b, k: b.get_many([k]),
    "get_into": lambda b, k: b.get_into(k, bytearray(MIB)),
    "get_scattered": lambda b, k: b.get_scattered(k, [bytearray(MIB)]),
    "get_many_into": lambda b, k: b.get_many_into([(k, [bytearray(MIB)])]),
    "get_tensor": lambda b, k: b.get_tensor(k),
    "touch": lambda b, k: b.touch([k]),
}
ASKS: dict[str, Callable[[Any, Any], Any]] = {
    "contains": lambda b, k: b.contains(k),
    "contains_many": lambda b, k: b.contains_many([k]),
    "contains_prefix": lambda b, k: b.contains_prefix([k]),
    "stored_bytes": lambda b, k: b.stored_bytes(k),
    "list_keys": lambda b, k: b.list_keys(),
    "stats": lambda b, k: b.stats(),
}


@prop(
    "EVI-07",
    "Each way to read a chunk is a use of it, and so is touch; to ask for it is none.",
    since="1.1",
    needs=["policy", "capacity"],
)
def _uses(trial: Trial) -> None:
    backend = trial.open(capacity=EVICTING)
    order, fits = Order(trial.caps.policy), fits_of(trial)
    fresh = 2 * fits
    with trial.quiet("# fill it, then use the next victim in each way, or ask for it, and put two more"):
        for i in range(fresh):
            put_in(backend, order, f"k{i}")
        order.settle(backend.keys(), fits)
        for name, call in {**USES, "view": _lend, **ASKS}.items():
            k = order.keys[0]
            answer = call(backend.backend, key(k))
            if name in USES or name == "view":
                if answer is None and name != "touch":
                    violate(f"{name} of {k!r}, which is listed, to answer its chunk {chunk_of(k)!r}", "None")
                order.hit(k)
            backend.flush()
            for _ in range(2):
                put_in(backend, order, f"k{fresh}")
                fresh += 1
            try:
                order.settle(backend.keys(), fits)
            except AssertionError as error:
                violate(f"after {name} of {k!r}: {getattr(error, 'expected', error)}", getattr(error, "got", ""))
            trial.ran(3)


def _lend(b: Any, k: Any) -> Any:
    with b.view(k) as view:
        return view and view.meta


@prop(
    "CAP-10",
    "Accounting stays right whichever way is written and forgotten: keys, sizes of each chunk, bytes in use.",
    since="1.1",
    needs=["remove"],
)
def _accounting(trial: Trial) -> None:
    subject = Ways(trial.open())
    most = 0
    for cycle in range(3):
        for i, kind in enumerate(("put_many", "put_from", "put_tensor", "put")):
            keys = ("a", "b")[: 1 if kind in ("put", "put_tensor") else 2]
            subject.step(Op(kind, keys, tuple(Chunk(i + 3, 5000 - 700 * i, i) for _ in keys), how=4 * cycle))
            subject.stats(Op("stats"))
            subject.sizes(Op("sizes", ("a", "b", "absent")))
        subject.remove_many(Op("remove_many", ("a", "b", "absent")))
        subject.stats(Op("stats"))
        used = subject.backend.stats().bytes_used
        if used is not None and cycle == 0:
            most = used
        expect(
            used is None or used <= most + 4096 or trial.caps.persistent, f"{most} bytes in use when all is gone", used
        )
