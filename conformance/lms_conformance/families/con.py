"""CON: from many threads at once, each key behaves as if its calls came one after the other."""

from __future__ import annotations

import random
from functools import partial

from lms_conformance.chunks import KIB, MIB, Chunk, key, raw, same
from lms_conformance.marks import OVERLAPPED, Overlap
from lms_conformance.preempt import Turns, outermost, own_files
from lms_conformance.races import Mix, explained
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect

SMALL = (8, 16, 24, 64)
LARGE = (128 * KIB, 512 * KIB, 128 * KIB + 8, MIB)


@prop(
    "CON-01",
    "Puts, gets and contains of one key from several threads, preempted anywhere, are linearizable.",
    marks=[OVERLAPPED],
)
def _linearizable(trial: Trial) -> None:
    mix = Mix(("put", "put", "get", "get", "contains"), ("a",), 3, 4, SMALL, preempt=True)
    explained(trial, mix, trial.profile.rounds)


@prop(
    "CON-02",
    "The same with removes: a removed chunk is not seen again, a new one not lost.",
    needs=["remove"],
    marks=[OVERLAPPED],
)
def _with_removes(trial: Trial) -> None:
    mix = Mix(("put", "put", "remove", "get", "get", "contains"), ("a", "b"), 3, 4, SMALL, preempt=True)
    explained(trial, mix, trial.profile.rounds)


@prop(
    "CON-03",
    "Large chunks read beside overwrites are one put's, whole: never a mixture of two.",
    marks=[OVERLAPPED],
)
def _large(trial: Trial) -> None:
    mix = Mix(("put", "put", "get", "get", "get"), ("a",), 4, 5, LARGE, preempt=False)
    explained(trial, mix, max(6, trial.profile.rounds // 3))


@prop("CON-04", "Batches from several threads are linearizable item by item.", marks=[OVERLAPPED])
def _batches(trial: Trial) -> None:
    mix = Mix(("put_many", "get_many", "put", "get"), ("a", "b"), 3, 3, SMALL, preempt=True)
    explained(trial, mix, trial.profile.rounds // 2)


@prop("CON-05", "Threads on keys of their own do not disturb each other.", marks=[OVERLAPPED])
def _own_keys(trial: Trial) -> None:
    for _ in trial.rounds(max(4, trial.profile.rounds // 6)):
        trial.anew()
        backend, overlap = trial.open(), Overlap(trial)
        turns = Turns(own_files(backend.backend), 4, random.Random(trial.rng.randrange(1 << 30)))

        def work(t: int, backend: Subject = backend, turns: Turns = turns, overlap: Overlap = overlap) -> None:
            with turns.of(t):
                for i in range(6):
                    chunk = Chunk(10 * t + i, 40 + t, t)
                    with overlap.call(t):
                        backend.backend.put(chunk.message(key(f"k{t}")), chunk.data())
                        obj = backend.backend.get(key(f"k{t}"))
                    expect(same(obj, chunk), f"thread {t} to read its own newest put of its own key", "something else")

        with trial.quiet("# four threads, each puts and gets a key of its own"):
            trial.threads([partial(work, t) for t in range(4)], 60, "puts and gets of four threads")
            trial.ran(48)
            backend.expect_model({f"k{t}": Chunk(10 * t + 5, 40 + t, t) for t in range(4)})


@prop(
    "CON-06",
    "When all threads are done, get, get_many, contains and list_keys agree on the outcome.",
    marks=[OVERLAPPED],
)
def _agreement(trial: Trial) -> None:
    pool = ("a", "b")
    effort = trial.profile
    for attempt in trial.rounds(2 * effort.rounds, 2 * effort.least, effort.example_seconds * 2):
        trial.anew()
        backend, overlap = trial.open(), Overlap(trial)
        seed = trial.rng.randrange(1 << 30)
        # Of a backend over another one, every second time only its own outermost frames: there is little code there.
        files = outermost(backend.backend) if attempt % 2 else own_files(backend.backend)
        turns = Turns(files, 3, random.Random(seed))

        def work(
            t: int, backend: Subject = backend, turns: Turns = turns, seed: int = seed, overlap: Overlap = overlap
        ) -> None:
            rng = random.Random(f"{seed}:{t}")
            with turns.of(t), overlap.call(t):
                for i in range(3):  # few: only what is called last on a key shows in the end
                    k = rng.choice(pool)
                    if trial.caps.remove and rng.random() < 0.4:
                        backend.backend.remove(key(k))
                    else:
                        chunk = Chunk(100 * t + i, 30)
                        backend.backend.put(chunk.message(key(k)), chunk.data())

        with trial.quiet("# three threads put and remove a and b; then all ways to ask are compared"):
            trial.threads([partial(work, t) for t in range(3)], 60, f"round {attempt}")
            trial.ran(9)
            listed, many = backend.keys(), backend.get_many(pool)
            for k, obj in zip(pool, many, strict=True):
                first, second = backend.get(k), backend.get(k)
                data = None if first is None else bytes(raw(first))
                for name, other in (("a second get", second), ("get_many", obj)):
                    found = None if other is None else bytes(raw(other))
                    expect(found == data, f"{name} of {k!r} to answer what get did", "something else")
                expect(backend.contains(k) is (first is not None), f"contains({k!r}) to agree with get", "the opposite")
                expect((k in listed) is (first is not None), f"list_keys to agree with get on {k!r}", listed)
            expect(len(listed) == len(set(listed)), "each key listed once", listed)


@prop(
    "CON-07",
    "At full capacity, with eviction at any moment, gets beside puts answer a put's chunk whole or miss.",
    needs=["evicts", "capacity"],
    marks=[OVERLAPPED, "evicted"],
)
def _evicting(trial: Trial) -> None:
    sizes = (2 * MIB, 3 * MIB)
    keys = ("a", "b")
    mix = Mix(("put", "put", "get", "get", "contains"), keys, 3, 4, sizes, preempt=False, evicts=True)
    explained(trial, mix, max(8, trial.profile.rounds // 4), capacity=4 * MIB)
