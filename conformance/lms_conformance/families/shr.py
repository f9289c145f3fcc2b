"""SHR: a place where others write at the same time, by other instances of this process; of another: `shr_processes`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from hypothesis import strategies as st

from lms_conformance.chunks import KIB, MIB, Chunk, difference, key
from lms_conformance.marks import OVERLAPPED
from lms_conformance.programs import POOL, Op, programs, step
from lms_conformance.races import Mix, explained
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate

#: A harness may hand one object out twice, and then nothing is shared.
TWO: Final = "two instances at one place"

#: What SHR-10 must have met.
OPENED_BESIDE: Final = "opened beside running calls"


def _two(trial: Trial) -> tuple[Subject, Subject]:
    first = trial.open()
    second = trial.open(path=first.path)
    if first.backend is not second.backend:
        trial.mark(TWO)
    return first, second


@prop(
    "SHR-01",
    "What put returned for, another instance gets, also where it had found the key absent before.",
    needs=["shared"],
    since="1.1",
    marks=[TWO],
)
def _seen(trial: Trial) -> None:
    first, second = _two(trial)
    for writer, reader in ((first, second), (second, first)):
        for i, size in enumerate((0, 1, 5000, 300 * KIB)):
            k, chunk = f"{writer.var}-{i}", Chunk(11 + i, size, i)
            for _ in range(2):
                reader.expect_absent(k)
                expect(reader.contains_prefix([k]) == 0, f"contains_prefix of the absent {k!r} to be 0", 1)
                expect(reader.get_many([k]) == [None], f"get_many of the absent {k!r} to answer None", "a chunk")
            writer.put(k, chunk)
            reader.expect_chunk(k, chunk, "what the other instance put")
            writer.expect_chunk(k, chunk)


@prop(
    "SHR-02",
    "An overwrite by another instance is seen whole: its bytes, its length, its metadata, none of the old one's.",
    needs=["shared"],
    since="1.1",
    marks=[TWO],
)
def _overwritten(trial: Trial) -> None:
    first, second = _two(trial)
    for i, size in enumerate((5000, 5000, 70, 9000, 0, 300 * KIB, 300 * KIB)):
        writer, reader = (second, first) if i % 2 else (first, second)
        chunk = Chunk(11 + i, size, i)
        writer.put("a", chunk)
        for one in (reader, writer):
            one.expect_chunk("a", chunk, "the newest put, the other instance's")
            expect(difference(chunk, one.get_many(["a"])[0]) is None, f"get_many to answer {chunk!r}", "another")
        buffer = bytearray(size)
        meta = reader.get_into("a", buffer)
        expect(meta is not None and bytes(buffer) == chunk.bytes(), f"get_into to answer {chunk!r}", "another")


@prop(
    "SHR-03",
    "A key that another instance removed is gone for all, whoever put it, and comes back with the next put only.",
    needs=["shared", "remove"],
    since="1.1",
    marks=[TWO],
)
def _removed(trial: Trial) -> None:
    first, second = _two(trial)
    for writer, remover in ((first, second), (second, first)):
        for i in range(2):
            writer.put("a", Chunk(11 + i, 700))
            writer.put("b", Chunk(12 + i, 700))
            for one in (first, second):
                one.expect_chunk("a", Chunk(11 + i, 700))
            remover.remove("a")
            for one in (first, second):
                one.expect_model({"b": Chunk(12 + i, 700)}, ["a"])


@prop(
    "SHR-04",
    "list_keys and scan of every instance answer everybody's chunks once.",
    needs=["shared"],
    since="1.1",
    marks=[TWO],
)
def _listed(trial: Trial) -> None:
    first, second = _two(trial)
    model: dict[str, Chunk] = {}
    for i in range(20):
        writer = (first, second)[i % 2]
        k, chunk = f"k{i % 14}", Chunk(11 + i, 100 + i, i % 8)
        writer.put(k, chunk)
        model[k] = chunk
    third = trial.open(path=first.path)
    for one in (first, second, third):
        one.expect_keys(model)
        found = sorted((info.key.to_string(), info.meta.length) for info in one.scan())
        want = sorted((k, len(chunk)) for k, chunk in model.items())
        expect(found == want, f"scan to hold every chunk once: {want[:3]} …", found[:20])


def _over_two() -> st.SearchStrategy[tuple[tuple[Op, bool], ...]]:
    kinds = ("put", "put", "get", "contains", "remove", "list", "put_many", "get_many", "contains_prefix")
    return programs(*kinds).flatmap(
        lambda ops: st.lists(st.booleans(), min_size=len(ops), max_size=len(ops)).map(
            lambda which: tuple(zip(ops, which, strict=True))
        )
    )


@prop(
    "SHR-05",
    "Any program of calls by two instances of one place answers as one dictionary would.",
    needs=["shared"],
    since="1.1",
    given=_over_two,
    marks=[TWO, "read what the other put"],
)
def _one_dictionary(trial: Trial, program: tuple[tuple[Op, bool], ...]) -> None:
    both = _two(trial)
    model: dict[str, Chunk] = {}
    looks = [Op(kind, POOL) for kind in ("get_many", "contains_prefix")]
    for op, which in program:
        if op.kind != "remove" or trial.caps.remove:
            step(both[which], model, op)
            for look in looks:
                step(both[not which], model, look)
            if model:
                trial.mark("read what the other put")
            expect_told(both[not which], model)
    for one in both:
        one.expect_model(model, POOL)


def expect_told(subject: Subject, model: dict[str, Chunk]) -> None:
    """contains_many agrees with the model."""
    want, found = [k in model for k in POOL], subject.contains_many(POOL)
    expect(found == want, f"contains_many of {POOL} to answer {want}", found)


@prop(
    "SHR-06",
    "An instance that closes takes nothing with it: its chunks stay, and the other instances go on.",
    needs=["shared"],
    since="1.1",
    marks=[TWO],
)
def _closes(trial: Trial) -> None:
    first, second = _two(trial)
    first.put("a", Chunk(11, 5000))
    second.put("b", Chunk(12, 300 * KIB, 1))
    second.expect_chunk("a", Chunk(11, 5000))
    first.close()
    model = {"a": Chunk(11, 5000), "b": Chunk(12, 300 * KIB, 1)}
    second.expect_model(model)
    second.put("a", Chunk(13, 70, 2))
    third = trial.open(path=first.path)
    second.close()
    third.expect_model({**model, "a": Chunk(13, 70, 2)})


@prop(
    "SHR-10",
    "Instances that open and close beside running calls of others disturb none of them.",
    needs=["shared"],
    since="1.1",
    marks=[OPENED_BESIDE],
)
def _comings_and_goings(trial: Trial) -> None:
    here = trial.open()
    chunks = [Chunk(11 + i, size, i) for i, size in enumerate((5000, MIB, 300 * KIB))]
    for i, chunk in enumerate(chunks):
        here.put(f"kept{i}", chunk)
    wrong: list[str] = []
    done = threading.Event()
    running: set[str] = set()

    def work(k: str, chunk: Chunk) -> Callable[[], None]:
        def calls() -> None:
            message, data = chunk.message(key(k)), chunk.bytes()
            try:
                while True:  # once at least, also where the others were done before it had begun
                    running.add(k)
                    here.backend.put(message, bytearray(data))
                    for name in (k, "kept" + k[1:]):
                        found = difference(chunk, here.backend.get(key(name)))
                        if found is not None:
                            wrong.append(f"get({name!r}) answered {found}")
                    running.discard(k)
                    trial.ran(3)
                    if done.is_set() or wrong:
                        return
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")

        return calls

    def others() -> None:
        try:
            least = trial.profile.rounds // 2
            for turn in range(10 * least):  # beyond `least` only until it met calls
                if turn >= least and trial.marks[OPENED_BESIDE]:
                    break
                with trial.harness.open(here.path, here.capacity) as other:
                    if running and other is not here.backend:
                        trial.mark(OPENED_BESIDE)
                    for i, chunk in enumerate(chunks):
                        found = difference(chunk, other.get(key(f"kept{i}")))
                        if found is not None:
                            wrong.append(f"get('kept{i}') by another instance answered {found}")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        finally:
            done.set()

    callers = [others, *(work(f"k{i}", chunk) for i, chunk in enumerate(chunks))]
    with trial.quiet("# three threads put and read; another opens instances of the place, reads, and closes them"):
        trial.threads(callers, 60, "calls beside others that come and go")
    if wrong:
        violate("calls beside other instances that open and close to be right", wrong[0])
    here.expect_model({f"{name}{i}": chunk for i, chunk in enumerate(chunks) for name in ("k", "kept")})


@prop(
    "SHR-11",
    "Calls of two instances of one process, preempted anywhere, are linearizable key by key.",
    needs=["shared"],
    since="1.1",
    marks=[OVERLAPPED],
)
def _two_instances(trial: Trial) -> None:
    mix = Mix(
        ("put", "put", "remove", "get", "get", "contains"), ("a", "b"), 4, 3, (8, 16, 24, 64), preempt=True, instances=2
    )
    explained(trial, mix, trial.profile.rounds)
