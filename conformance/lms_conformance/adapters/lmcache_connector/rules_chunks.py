"""Chunks there and back, look-ups, batches, keys, listings, and calls beside each other."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lms_conformance.adapters.lmcache_connector import RULES
from lms_conformance.adapters.lmcache_connector.drive import Drive
from lms_conformance.adapters.lmcache_connector.layouts import LAYOUTS, key
from lms_conformance.adapters.trial import PATIENCE, AdapterTrial
from lms_conformance.violation import expect

Step = tuple[str, list[int]]

#: Keys of drawn programs: few, so that they meet again.
_NUMBERS: Final = 8


def programs(*kinds: str) -> SearchStrategy[tuple[str, list[Step]]]:
    """A layout, and steps over a few chunks, of which the first puts."""
    numbers = st.lists(st.integers(0, _NUMBERS - 1), min_size=1, max_size=5, unique=True)
    step = st.tuples(st.sampled_from(kinds), numbers)
    return st.builds(
        lambda layout, first, more: (layout, [("put", first), *more]),
        st.sampled_from(["one", "mla", "hybrid"]), numbers, st.lists(step, min_size=1, max_size=6),
    )  # fmt: skip


def stored(drive: Drive, numbers: list[int], **fields: Any) -> None:
    """Put chunks, each a success."""
    for number in numbers:
        expect(drive.put(number, **fields), f"the put of chunk {number} to succeed", "it raised")


@RULES(1, "A chunk that was put is got bit for bit with its shapes, dtypes and format, a prompt's short last one, too.",
       given=lambda: programs("put", "get"))  # fmt: skip
def _come_back(trial: AdapterTrial, case: tuple[str, list[Step]]) -> None:
    layout, steps = case
    drive, held, sizes = trial.adapter(layout=layout), set[int](), LAYOUTS[layout].sizes
    for what, numbers in steps:
        for n in numbers:
            tokens = sizes[n % len(sizes)]
            if what == "put":
                expect(drive.put(n, tokens), f"the put of chunk {n} to succeed", "it raised")
                held.add(n)
                continue
            state, right = drive.get(n, tokens), "whole" if n in held else "miss"
            expect(state == right, f"chunk {n}: {right}", state)


@RULES(2, "A look-up tells what a get would find, whichever way it is asked; what is not there is a miss.",
       given=lambda: programs("put", "look", "look"))  # fmt: skip
def _looked(trial: AdapterTrial, case: tuple[str, list[Step]]) -> None:
    layout, steps = case
    drive, held = trial.adapter(layout=layout), set[int]()
    for what, numbers in steps:
        if what == "put":
            stored(drive, numbers)
            held |= set(numbers)
            continue
        for n in numbers:
            there = drive.exists(n)
            expect(there == (n in held), f"{n in held} of chunk {n}", there)
            state, right = drive.get(n), "whole" if n in held else "miss"
            expect(state == right, f"chunk {n}: {right}", state)
        count, right_count = drive.leading(numbers), next((i for i, n in enumerate(numbers) if n not in held), None)
        right_count = len(numbers) if right_count is None else right_count
        expect(count == right_count, f"{right_count} leading chunks of {numbers}", count)


@RULES(3, "A chunk that is held may be put again, longer or shorter; what is got is one of the two, whole.")
def _again(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    full, short = drive.layout.sizes
    for n, (before, after) in enumerate([(full, full), (full, short), (short, full)]):
        expect(drive.put(n, before, 0), "the put to succeed", "it raised")
        expect(drive.put(n, after, 1), "the put over what is held to succeed", "it raised")
        states = [drive.get(n, before, 0), drive.get(n, after, 1)]
        expect("whole" in states, "one of the two chunks that were put, whole", states)


@RULES(4, "A batch answers of each chunk what a get answers; a prefetch the leading ones, and memory of no other.",
       given=lambda: st.lists(st.integers(0, _NUMBERS - 1), min_size=1, max_size=6, unique=True))  # fmt: skip
def _batches(trial: AdapterTrial, numbers: list[int]) -> None:
    drive: Drive = trial.adapter()
    held = [n for n in numbers if n % 3]
    if held and drive.connection.support_batched_put():
        drive.put_many(held)
    else:
        stored(drive, held)
    states = ["whole" if n in held else "miss" for n in numbers]
    if drive.connection.support_batched_get():
        found = drive.get_many(numbers)
        expect(found == states, f"{states}, one answer a key", found)
    if drive.connection.support_batched_get_non_blocking():
        count = [*states, "miss"].index("miss")
        found = drive.get_leading(numbers)
        expect(found == ["whole"] * count, f"the {count} leading chunks, whole", found)
    drive.returned("after a batch")


_FIELDS: Final[list[dict[str, Any]]] = [
    {}, {"model": "llama/8B"}, {"model": "llama-8b"}, {"model": "llama_8b"}, {"model": "llama"}, {"world": 1},
    {"world": 22}, {"worker": 0}, {"worker": 11}, {"dtype": "float16"}, {"high": 1}, {"high": 2},
    {"tags": {"user": "a"}}, {"tags": {"user": "A"}}, {"tags": {"user": "b"}}, {"tags": {"usera": "a"}},
    {"tags": {"user": "a", "more": "b"}},
]  # fmt: skip


@RULES(5, "Keys that differ in one field alone (model, world size, worker, hash, dtype, tags) are kept apart.")
def _apart(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    for version, fields in enumerate(_FIELDS):
        there = drive.exists(1, **fields)
        expect(not there, f"no chunk to be there yet with {fields}", "it is")
        expect(drive.put(1, None, version, **fields), "the put to succeed", "it raised")
    for version, fields in enumerate(_FIELDS):
        state = drive.get(1, None, version, **fields)
        expect(state == "whole", f"what was put with {fields}", state)


@RULES(6, "Every key that is held is listed once, as LMCache writes it.")
def _listed(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, list(range(10)))
    stored(drive, [3, 4])
    stored(drive, [1], tags={"user": "a"})
    drive.get(2)
    wanted = sorted([*(key(n).to_string() for n in range(10)), key(1, tags={"user": "a"}).to_string()])
    found = sorted(drive.listed())
    expect(found == wanted, f"{len(wanted)} keys, such as {wanted[0]!r}", f"{len(found)}: {found[:2]}")


@RULES(7, "What is removed is gone and the rest stays; it can be put again.", needs=["remove"])
def _removed(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1, 2, 3])
    expect(drive.remove(1), "the removal of chunk 1 to succeed", "False")
    there = [drive.exists(n) for n in (1, 2, 3)]
    expect(there == [False, True, True], "[False, True, True]", there)
    states = [drive.get(n) for n in (1, 2, 3)]
    expect(states == ["miss", "whole", "whole"], "['miss', 'whole', 'whole']", states)
    drive.remove(77)
    stored(drive, [1])
    state = drive.get(1)
    expect(state == "whole", "chunk 1, put again", state)


@RULES(8, "Puts, gets and look-ups from several threads beside each other read no byte that was not put.")
def _threads(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter(chunks=64)
    rounds, wrong = trial.profile.rounds * 3, list[str]()
    record, drive.record = drive.record, None

    def put() -> None:
        for i in range(rounds):
            drive.put(i % 6)

    def get(step: int) -> None:
        for i in range(rounds):
            state = drive.get(step * i % 6)
            wrong.extend([state] * (state not in ("whole", "miss")))

    def look() -> None:
        for i in range(rounds):
            drive.connection.exists_sync(key(i % 6))

    trial.record(f"# {rounds} puts, {rounds} gets of 6 chunks in each of two threads, and as many look-ups")
    trial.threads([put, lambda: get(1), lambda: get(5), look], 4 * PATIENCE, "puts and gets")
    drive.record = record
    expect(not wrong, "every chunk as it was put", wrong)
    drive.returned("by calls beside each other")
