"""BAT: a batch is the sequence of its items."""

from __future__ import annotations

from functools import partial

from hypothesis import strategies as st

from lms_conformance.chunks import Chunk, difference, key
from lms_conformance.programs import POOL, Op, chunks, expect_many, pool_keys, programs, run
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect
from lms_tiers.errors import InvalidChunkError


def _items(least: int) -> st.SearchStrategy[list[tuple[str, Chunk]]]:
    return st.lists(st.tuples(pool_keys(), chunks(4097)), min_size=least, max_size=8 if least else 6)


@prop(
    "BAT-01",
    "put_many stores every item, in order: of a key named twice the last one counts.",
    given=lambda: _items(1) | st.builds(lambda items, chunk: [*items, (items[0][0], chunk)], _items(1), chunks(4097)),
    marks=["a key named twice"],
)
def _put_many(trial: Trial, items: list[tuple[str, Chunk]]) -> None:
    backend = trial.open()
    if len(dict(items)) < len(items):
        trial.mark("a key named twice")
    backend.put_many(items)
    backend.expect_model(dict(items), POOL)


@prop(
    "BAT-02",
    "get_many answers each key in order, absent ones as None, repeated ones repeatedly.",
    given=lambda: st.tuples(_items(0), st.lists(pool_keys(), max_size=8)),
    marks=["held and absent keys in one batch"],
)
def _get_many(trial: Trial, case: tuple[list[tuple[str, Chunk]], list[str]]) -> None:
    items, asked = case
    backend = trial.open()
    for k, chunk in items:
        backend.put(k, chunk)
    expect_many(backend, dict(items), asked)
    expect_many(backend, dict(items), (*POOL, "never put"))


@prop(
    "BAT-03",
    "Where item i of put_many is refused, those before it are stored, it and those after it are not.",
    needs=["batch_stops"],
)
def _partial(trial: Trial) -> None:
    for bad in range(4):
        trial.anew()
        backend = trial.open()
        backend.put("old", Chunk(9, 30))
        _put_with_a_fault(trial, backend, bad)
        model = {"old": Chunk(9, 30), **{f"k{i}": Chunk(10 + i, 40) for i in range(bad)}}
        backend.expect_model(model, [f"k{i}" for i in range(4)])


def _put_with_a_fault(trial: Trial, backend: Subject, bad: int) -> None:
    batch = []
    for i in range(4):
        message = Chunk(10 + i, 40).message(key(f"k{i}"))
        message.length = 41 if i == bad else 40
        batch.append((message, Chunk(10 + i, 40).data()))
    trial.record(f"# {backend.var}.put_many of k0 … k3, where item {bad} has metadata of a wrong length")
    backend.rejects(
        InvalidChunkError, partial(backend.backend.put_many, batch), f"put_many whose item {bad} is invalid"
    )


@prop("BAT-04", "Batches of nothing change nothing and answer nothing.")
def _empty(trial: Trial) -> None:
    backend = trial.open()
    backend.put("a", Chunk(3, 30))
    backend.allows(lambda: backend.put_many([]), "put_many of nothing")
    answer = backend.allows(lambda: backend.get_many([]), "get_many of nothing")
    expect(answer == [], "[] from get_many of nothing", answer)
    backend.expect_model({"a": Chunk(3, 30)})


@prop(
    "BAT-05",
    "Batches and single calls mix: any program of both answers as a dictionary would.",
    given=lambda: programs("put", "put_many", "get_many", "contains_prefix", "get"),
)
def _mixed(trial: Trial, program: tuple[Op, ...]) -> None:
    backend = trial.open()
    model: dict[str, Chunk] = {}
    run(backend, model, program)
    expect_many(backend, model, POOL)
    backend.expect_model(model, POOL)


@prop("BAT-06", "A batch of 200 chunks is stored and read whole.")
def _large(trial: Trial) -> None:
    backend = trial.open()
    items = [(f"m@1@0@{i:x}@half", Chunk(20 + i, 2000 + i)) for i in range(200)]
    with trial.quiet("backend.put_many([(Chunk(20 + i, 2000 + i).message(key(f'm@1@0@{i:x}@half')), "
                     "Chunk(20 + i, 2000 + i).data()) for i in range(200)])"):  # fmt: skip
        backend.put_many(items)
        expect_many(backend, dict(items), [k for k, _ in items])
    found = backend.contains_prefix([k for k, _ in items])
    expect(found == 200, "contains_prefix to count 200", found)


@prop(
    "BAT-07",
    "Without `batch_stops`, where put_many refuses item i, those before it are stored, those after it whole or not.",
    since="1.1",
    needs=["!batch_stops"],
)
def _goes_on(trial: Trial) -> None:
    for bad in range(4):
        trial.anew()
        backend = trial.open()
        backend.put("old", Chunk(9, 30))
        for i in range(4):
            backend.put(f"k{i}", Chunk(20 + i, 50))
        _put_with_a_fault(trial, backend, bad)
        backend.expect_chunk("old", Chunk(9, 30))
        for i in range(4):
            old, new = Chunk(20 + i, 50), Chunk(10 + i, 40)
            if i > bad:
                found = backend.get(f"k{i}")
                whole = difference(old, found) is None or difference(new, found) is None
                expect(whole, f"{old!r} or {new!r} under 'k{i}', after the item that was refused", found)
            else:
                backend.expect_chunk(f"k{i}", old if i == bad else new)
