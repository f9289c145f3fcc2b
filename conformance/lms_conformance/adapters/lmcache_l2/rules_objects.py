"""Objects there and back, results, keys, and what LMCache is told."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lms_conformance.adapters.lmcache_l2 import RULES
from lms_conformance.adapters.lmcache_l2.drive import KINDS, Drive, Slot, key
from lms_conformance.adapters.trial import PATIENCE, AdapterTrial
from lms_conformance.violation import expect

Step = tuple[str, list[int]]

#: Keys of drawn programs: few, so that they meet again.
_NUMBERS: Final = 10


def programs(*kinds: str) -> SearchStrategy[tuple[str, list[Step]]]:
    """A kind of object, and steps over a few of them, of which the first stores."""
    numbers = st.lists(st.integers(0, _NUMBERS - 1), min_size=1, max_size=6, unique=True)
    step = st.tuples(st.sampled_from(kinds), numbers)
    return st.builds(
        lambda kind, first, more: (kind, [("store", first), *more]),
        st.sampled_from(["one", "hybrid"]), numbers, st.lists(step, min_size=1, max_size=6),
    )  # fmt: skip


def stored(drive: Drive, numbers: list[int], kind: str = "one", **fields: Any) -> None:
    """Store, and be told that all are held."""
    expect(drive.store(numbers, kind, **fields), "the store to succeed", "it failed")


@RULES(1, "An object that was stored comes back bit for bit, hybrid models' too.",
       given=lambda: programs("store", "load"))  # fmt: skip
def _come_back(trial: AdapterTrial, case: tuple[str, list[Step]]) -> None:
    kind, steps = case
    drive, held = trial.adapter(), set[int]()
    for what, numbers in steps:
        if what == "store":
            stored(drive, numbers, kind)
            held |= set(numbers)
            continue
        states = drive.load(numbers, kind)
        lost = [n for n, state in zip(numbers, states, strict=True) if n in held and state != "whole"]
        expect(not lost, f"objects {lost}, which were stored, to be whole", states)


@RULES(2, "An object that is not held is a miss whose memory is as it was; those beside it in the batch still come.",
       given=lambda: programs("store", "load", "load"))  # fmt: skip
def _misses(trial: AdapterTrial, case: tuple[str, list[Step]]) -> None:
    kind, steps = case
    drive, held = trial.adapter(), set[int]()
    for what, numbers in steps:
        if what == "store":
            stored(drive, numbers, kind)
            held |= set(numbers)
            continue
        states = drive.load(numbers, kind)
        expected = ["whole" if n in held else "miss" for n in numbers]
        expect(states == expected, expected.__repr__(), states)


@RULES(3, "A look-up tells of each key, gaps or none, what a load would find.",
       given=lambda: programs("store", "look", "look"))  # fmt: skip
def _looked(trial: AdapterTrial, case: tuple[str, list[Step]]) -> None:
    kind, steps = case
    drive, held = trial.adapter(), set[int]()
    for what, numbers in steps:
        if what == "store":
            stored(drive, numbers, kind)
            held |= set(numbers)
            continue
        there = drive.look(numbers, kind)
        expect(there == [n in held for n in numbers], f"{[n in held for n in numbers]}", there)
        drive.unlock(numbers)


@RULES(4, "Stores, look-ups and loads have a descriptor each, and each result is told of and given once.")
def _once(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    adapter = drive.adapter
    fds = [adapter.get_store_event_fd(), adapter.get_lookup_and_lock_event_fd(), adapter.get_load_event_fd()]
    expect(len(set(fds)) == 3, "three descriptors", fds)
    slots = [Slot().filled(n) for n in range(8)]
    trial.record("# 8 stores of one object are handed in, then 8 look-ups, then 8 loads; then results are asked for")
    tasks = [adapter.submit_store_task([key(n)], [slot.obj]) for n, slot in enumerate(slots)]
    for task in tasks:
        expect(drive.stored(task).is_successful(), "each store to succeed", f"task {task} failed")
    again = adapter.pop_completed_store_tasks()
    expect(not again, "no result of a store to be left", again)
    looks = [adapter.submit_lookup_and_lock_task([key(n), key(99)], {}) for n in range(8)]
    for task in reversed(looks):
        bits = drive.looked(task, 2)
        expect(bits == [True, False], "each look-up to find its own", bits)
    into = [Slot() for _ in range(8)]
    loads = [adapter.submit_load_task([key(n)], [slot.obj]) for n, slot in enumerate(into)]
    for n in reversed(range(8)):
        drive.loaded(loads[n], 1)
        expect(into[n].state(n, True) == "whole", f"object {n} by its own task", into[n].state(n, True))
    drive.unlock(range(8))


_FIELDS: Final[list[dict[str, Any]]] = [
    {}, {"model": "llama/8B"}, {"model": "llama-8b"}, {"model": "llama"}, {"rank": 0x01010100}, {"rank": 0x02000100},
    {"group": 1}, {"group": 16}, {"salt": "a"}, {"salt": "A"}, {"salt": "a/b"}, {"salt": "a-b"},
]  # fmt: skip


@RULES(5, "Keys that differ in one field alone (model, rank, group, salt) are kept apart.")
def _apart(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    taken = []
    for i, fields in enumerate(_FIELDS):
        try:
            key(1, **fields)
        except ValueError:  # LMCache makes no such key
            continue
        kind = "one" if i % 2 else "other shape"
        states = drive.load([1], kind, **fields)
        expect(states == ["miss"], f"a miss with {fields}", states)
        stored(drive, [1], kind, **fields)
        taken.append((i, fields))
    for i, fields in taken:
        states = drive.load([1], "one" if i % 2 else "other shape", **fields)
        expect(states == ["whole"], f"what was stored with {fields}", states)


@RULES(6, "Storing objects that are held is a success and changes none.")
def _held(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1, 2])
    stored(drive, [2, 3, 1])
    states = drive.load([1, 2, 3])
    expect(states == ["whole"] * 3, "every object", states)


@RULES(7, "A store is handed over: the calls that hand in stores and loads do not do the work themselves.")
def _handed(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    count, adapter = 12, drive.adapter
    slots = [Slot("wide").filled(n) for n in range(count)]
    trial.record(f"# {count} stores of 1 MiB, each asked for as soon as it is handed in; then as many loads")
    done, tasks = 0, []
    for n, slot in enumerate(slots):
        tasks.append(adapter.submit_store_task([key(n)], [slot.obj]))
        popped = adapter.pop_completed_store_tasks()
        drive._stores.update(popped)
        done += tasks[-1] in popped
    for task in tasks:
        drive.stored(task)
    expect(done < count, "a call that hands in a store to return before it is done", f"all {count} were done by then")
    done, left, into = 0, [], [Slot("wide") for _ in range(count)]
    for n, slot in enumerate(into):
        task = adapter.submit_load_task([key(n)], [slot.obj])
        if adapter.query_load_result(task) is None:
            left.append(task)
        else:
            done += 1
    for task in left:
        drive.loaded(task, 1)
    expect(done < count, "a call that hands in a load to return before it is done", f"all {count} were done by then")


@RULES(8, "Unlocking never fails: of what is locked, more often than that, of what is absent, after a failed load.")
def _unlocked(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1, 2])
    drive.look([1, 2, 3])
    drive.look([1])
    for _ in range(3):
        drive.unlock([1, 2, 3, 77])
    drive.load([77])
    drive.unlock([77, 77])
    drive.unlock([])
    there = drive.look([1, 2, 3])
    expect(there == [True, True, False], "[True, True, False]", there)
    states = drive.load([1, 2])
    expect(states == ["whole", "whole"], "both objects", states)


def told_of(drive: Drive) -> dict[int, int]:
    """Number and size of every object that is told to be stored."""
    return {int.from_bytes(one.chunk_hash, "big"): size for one, size in drive.listener.sizes.items()}


def listening(trial: AdapterTrial) -> Drive:
    """An adapter whose notices are kept."""
    drive: Drive = trial.adapter()
    drive.listen()
    return drive


@RULES(
    9, "LMCache is told of each object once with its size before its result, of its use, and usage is what it was told."
)
def _listened(trial: AdapterTrial) -> None:
    drive, size = listening(trial), Slot().nbytes
    stored(drive, [1, 2, 3])
    expect(told_of(drive) == dict.fromkeys([1, 2, 3], size), f"3 objects of {size} bytes to be told", told_of(drive))
    stored(drive, [3, 4])
    expect(sorted(told_of(drive)) == [1, 2, 3, 4], "object 4 to be told as well", sorted(told_of(drive)))
    expect(drive.used() == 4 * size, f"{4 * size} bytes in use", drive.used())
    drive.load([2, 9])
    used = [int.from_bytes(one.chunk_hash, "big") for one in drive.listener.accessed]
    expect(used == [2], "the use of object 2 to be told, and none else", used)
    expect(not drive.listener.wrong, "each thing to be told once", drive.listener.wrong)


@RULES(10, "What is deleted is gone, is told to be, and counts no more; the rest stays, and it can be stored again.",
       needs=["delete"])  # fmt: skip
def _deleted(trial: AdapterTrial) -> None:
    drive, size = listening(trial), Slot().nbytes
    stored(drive, [1, 2, 3])
    drive.delete([1, 3, 77])
    expect(drive.look([1, 2, 3]) == [False, True, False], "object 2 alone to be there", "another answer")
    states = drive.load([1, 2])
    expect(states == ["miss", "whole"], "['miss', 'whole']", states)
    expect(told_of(drive) == {2: size}, "objects 1 and 3 to be told as deleted", told_of(drive))
    expect(drive.used() == size, f"{size} bytes in use", drive.used())
    stored(drive, [1])
    states = drive.load([1])
    expect(states == ["whole"], "object 1, stored again", states)
    expect(not drive.listener.wrong, "each thing to be told once", drive.listener.wrong)


@RULES(11, "Every key that is held is listed once with its size, in pages of any length, and by its model.",
       needs=["list"])  # fmt: skip
def _listed(trial: AdapterTrial) -> None:
    drive, size = trial.adapter(), Slot().nbytes
    stored(drive, list(range(10)))
    stored(drive, [20, 21], model="other")
    everything = [(n, size) for n in (*range(10), 20, 21)]
    for page_size in (1, 5, 12, 500):
        found = drive.listed(page_size)
        expect(found == everything, f"12 keys in pages of {page_size}", found)
    found = drive.listed(7, "other")
    expect(found == everything[10:], "the two keys of the other model", found)


@RULES(12, "An adapter that works says so: `report_status` has `is_healthy`, and it is True.")
def _healthy(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1])
    trial.record(f"{drive.var}.adapter.report_status()['is_healthy']")
    status = trial.allows(drive.adapter.report_status, "report_status")
    expect(isinstance(status, dict) and status.get("is_healthy") is True, "is_healthy: True", status)


@RULES(13, "Another dtype, shape or length under the same key is a miss, and is not written.")
def _kind(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    stored(drive, [1])
    for other in ("other dtype", "other shape", "longer", "shorter", "hybrid"):
        state = drive.load([1], other)[0]
        wrong = {"whole": "it was served", "wrong": "it was served"}.get(state, state)
        expect(state in ("miss", "spoilt"), f"a miss for {KINDS[other]}", wrong)
        expect(state == "miss", f"memory for {KINDS[other]} as it was", "it was written")
    states = drive.load([1])
    expect(states == ["whole"], "the object for its own kind", states)


@RULES(14, "The store loop and the prefetch loop beside each other read no byte that was not stored.")
def _threads(trial: AdapterTrial) -> None:
    drive: Drive = trial.adapter()
    rounds, wrong = trial.profile.rounds * 2, list[str]()
    record, drive.record = drive.record, None

    def store() -> None:
        for i in range(rounds):
            drive.store([(i + j) % 8 for j in range(4)])

    def prefetch() -> None:
        for i in range(rounds):
            states = drive.use([(3 * i + j) % 8 for j in range(4)])
            wrong.extend(state for state in states if state in ("wrong", "beside"))

    trial.record(f"# {rounds} stores and as many look-ups, loads and unlocks of 4 of 8 objects, a thread each")
    trial.threads([store, prefetch], 4 * PATIENCE, "stores and loads")
    drive.record = record
    expect(not wrong, "every object as it was stored", wrong)
