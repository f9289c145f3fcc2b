"""CON: from many threads at once, each key behaves as if its calls came one after the other."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lms_conformance.chunks import KIB, MIB, Chunk, key, raw, same
from lms_conformance.history import History, smaller
from lms_conformance.preempt import Turns, own_files
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, expect, violate
from lms_tiers.errors import CapacityError

#: One operation of a thread: kind, keys, and the number of the value where it puts.
Step = tuple[str, tuple[str, ...], int]
Threads = list[list[Step]]


@dataclass(frozen=True, slots=True)
class _Mix:
    """What the programs of a property are made of."""

    kinds: tuple[str, ...]
    keys: tuple[str, ...]
    threads: int
    steps: int
    sizes: tuple[int, ...]
    preempt: bool
    evicts: bool = False


def _draw(rng: random.Random, mix: _Mix) -> Threads:
    number = iter(range(1, 10_000))
    program: Threads = []
    for _ in range(mix.threads):
        steps: list[Step] = []
        for _ in range(mix.steps):
            kind = rng.choice(mix.kinds)
            many = kind in ("put_many", "get_many")
            keys = tuple(rng.choice(mix.keys) for _ in range(2 if many else 1))
            if many and len(set(keys)) < 2:
                keys = mix.keys[:2]
            steps.append((kind, keys, next(number)))
        program.append(steps)
    return program


class _Execution:
    """Runs a program's threads against a backend and keeps the history."""

    def __init__(self, backend: Subject, mix: _Mix, seed: int) -> None:
        self.backend = backend.backend
        self.mix = mix
        self.seed = seed
        self.history = History()
        self.chunks: dict[int, Chunk] = {}
        self._names: dict[bytes, int] = {}

    def chunk(self, number: int, k: str) -> Chunk:
        """The value of that number: recognisable from its bytes, and of a length that depends on it."""
        value = number if k == self.mix.keys[0] else number + 10_000
        if value not in self.chunks:
            size = self.mix.sizes[value % len(self.mix.sizes)]
            self.chunks[value] = chunk = Chunk(literal=value.to_bytes(8, "little") * (size // 8), kind=value % 8)
            self._names[chunk.bytes()[:8]] = value
        return self.chunks[value]

    def value_of(self, k: str, obj: Any) -> int | None:
        """The number of an answer; one that is no value that was put is a violation."""
        if obj is None:
            return None
        number = self._names.get(bytes(raw(obj)[:8]))
        if number is None or not same(obj, self.chunks[number]):
            violate(f"get({k!r}) beside puts to answer one of the chunks put, whole", "a mixture, or foreign bytes")
        if (number > 10_000) != (k != self.mix.keys[0]) and len(self.mix.keys) == 2:
            violate(f"get({k!r}) to answer a chunk put under {k!r}", "one put under another key")
        return number

    def run(self, trial: Trial, program: Threads) -> None:
        """All threads at once, from a barrier; the final reads come after them."""
        for steps in program:
            for kind, keys, number in steps:
                if kind.startswith("put"):
                    for k in keys:
                        self.chunk(number, k)
        turns = None
        if self.mix.preempt:
            turns = Turns(own_files(self.backend), len(program), random.Random(self.seed))
        start = threading.Barrier(len(program))
        work = [partial(self._thread, t, steps, turns, start) for t, steps in enumerate(program)]
        trial.threads(work, 60, "calls from several threads")
        trial.ran(sum(map(len, program)))
        for k in self.mix.keys:
            for _ in range(2):
                self._one(99, "get", k, 0)
                self._one(99, "contains", k, 0)

    def _thread(self, thread: int, steps: Sequence[Step], turns: Turns | None, start: threading.Barrier) -> None:
        start.wait(30)
        with turns.of(thread) if turns is not None else nullcontext():
            for kind, keys, number in steps:
                if kind == "put_many":
                    self._put_many(thread, keys, number)
                elif kind == "get_many":
                    self._get_many(thread, keys)
                else:
                    self._one(thread, kind, keys[0], number)

    def _one(self, thread: int, kind: str, k: str, number: int) -> None:
        backend, history = self.backend, self.history
        began = history.now()
        match kind:
            case "put":
                chunk = self.chunk(number, k)
                value = number if k == self.mix.keys[0] else number + 10_000
                try:
                    backend.put(chunk.message(key(k)), chunk.data())
                except CapacityError:
                    return  # refused: as if it had not been called
                history.add(thread, "put", k, value, began)
            case "remove":
                backend.remove(key(k))
                history.add(thread, "remove", k, None, began)
            case "contains":
                found = backend.contains(key(k))
                history.add(thread, "contains", k, int(found), began)
            case _:
                obj = backend.get(key(k))
                history.add(thread, "get", k, self.value_of(k, obj), began)

    def _put_many(self, thread: int, keys: Sequence[str], number: int) -> None:
        chunks = [self.chunk(number, k) for k in keys]
        began = self.history.now()
        self.backend.put_many([(c.message(key(k)), c.data()) for k, c in zip(keys, chunks, strict=True)])
        for k in keys:
            self.history.add(thread, "put", k, number if k == self.mix.keys[0] else number + 10_000, began)

    def _get_many(self, thread: int, keys: Sequence[str]) -> None:
        began = self.history.now()
        found = self.backend.get_many([key(k) for k in keys])
        for k, obj in zip(keys, found, strict=True):
            self.history.add(thread, "get", k, self.value_of(k, obj), began)


def _attempt(trial: Trial, mix: _Mix, program: Threads, seed: int, capacity: int | None) -> None:
    """One execution on a fresh backend; a violation where no order explains it."""
    backend = trial.open(capacity=capacity)
    execution = _Execution(backend, mix, seed)
    try:
        execution.run(trial, program)
        calls = execution.history.contradiction(evicts=mix.evicts)
    except Violation:
        raise
    except Exception as error:
        violate("calls from several threads to raise nothing", f"{type(error).__name__}: {error}")
    finally:
        # A close beside a call that never returned would only hang as well.
        trial.release(backend)
    if calls is not None:
        shown = "\n".join(map(str, calls))
        violate(
            "an order of these calls that explains every answer ([begin, end] by a shared counter)", "none:\n" + shown
        )


def _check(trial: Trial, mix: _Mix, rounds: int, capacity: int | None = None) -> None:
    kinds = tuple(kind for kind in mix.kinds if kind != "remove" or trial.caps.remove)
    mix = replace(mix, kinds=kinds)
    began = time.monotonic()
    with trial.quiet("# several threads, drawn programs; one that fails is printed below"):
        for i in range(rounds):
            if i >= trial.profile.least and time.monotonic() - began > trial.profile.example_seconds * 3:
                break
            program, seed = _draw(trial.rng, mix), trial.rng.randrange(1 << 30)
            # Python frames take turns; native code wants its threads to run at the same time.
            played = replace(mix, preempt=mix.preempt or i % 2 == 0)
            try:
                _attempt(trial, played, program, seed, capacity)
            except Violation as violation:
                _shrunk(trial, played, program, violation, capacity)


def _shrunk(trial: Trial, mix: _Mix, program: Threads, violation: Violation, capacity: int | None) -> None:
    """Raise the violation of the smallest program that still fails within a few tries."""
    deadline = time.monotonic() + trial.profile.shrink_seconds
    last = violation

    def fails(candidate: Threads) -> bool:
        nonlocal last
        for _ in range(6):
            if time.monotonic() > deadline:
                return False
            try:
                _attempt(trial, mix, candidate, trial.rng.randrange(1 << 30), capacity)
            except Violation as again:
                last = again
                return True
        return False

    if "to return within" in violation.expected:
        raise violation
    small = smaller(program, fails)
    trial.tell(_source(small, mix))
    raise last


def _source(program: Threads, mix: _Mix) -> str:
    """The threads as Python."""
    lines = ["import threading", "backend = open_backend(path1)", "def value(n, size):",
             "    return Chunk(literal=n.to_bytes(8, 'little') * (size // 8))"]  # fmt: skip
    for t, steps in enumerate(program):
        lines.append(f"def thread{t}():")
        for kind, keys, number in steps:
            k = keys[0]
            value = f"value({number}, {mix.sizes[number % len(mix.sizes)]})"
            match kind:
                case "put":
                    lines.append(f"    backend.put({value}.message(key({k!r})), {value}.data())")
                case "put_many":
                    lines.append(f"    backend.put_many([({value}.message(key(k)), {value}.data()) for k in {keys!r}])")
                case "get_many":
                    lines.append(f"    print('thread {t}', backend.get_many([key(k) for k in {keys!r}]))")
                case "remove":
                    lines.append(f"    backend.remove(key({k!r}))")
                case _:
                    lines.append(f"    print('thread {t}', backend.{kind}(key({k!r})))")
        lines.append("    pass")
    names = ", ".join(f"thread{t}" for t in range(len(program)))
    lines.append(f"threads = [threading.Thread(target=t) for t in ({names},)]")
    lines += ["for t in threads: t.start()", "for t in threads: t.join()"]
    lines.append(
        "# In the kit the threads take turns between opcodes of the backend's frames: lms_conformance.preempt."
    )
    return "\n".join(lines)


SMALL = (8, 16, 24, 64)
LARGE = (128 * KIB, 512 * KIB, 128 * KIB + 8, MIB)


@prop("CON-01", "Puts, gets and contains of one key from several threads, preempted anywhere, are linearizable.")
def _linearizable(trial: Trial) -> None:
    mix = _Mix(("put", "put", "get", "get", "contains"), ("a",), 3, 4, SMALL, preempt=True)
    _check(trial, mix, trial.profile.rounds)


@prop("CON-02", "The same with removes: a removed chunk is not seen again, a new one not lost.", needs=["remove"])
def _with_removes(trial: Trial) -> None:
    mix = _Mix(("put", "put", "remove", "get", "get", "contains"), ("a", "b"), 3, 4, SMALL, preempt=True)
    _check(trial, mix, trial.profile.rounds)


@prop("CON-03", "Large chunks read beside overwrites are one put's, whole: never a mixture of two.")
def _large(trial: Trial) -> None:
    mix = _Mix(("put", "put", "get", "get", "get"), ("a",), 4, 5, LARGE, preempt=False)
    _check(trial, mix, max(6, trial.profile.rounds // 3))


@prop("CON-04", "Batches from several threads are linearizable item by item.")
def _batches(trial: Trial) -> None:
    mix = _Mix(("put_many", "get_many", "put", "get"), ("a", "b"), 3, 3, SMALL, preempt=True)
    _check(trial, mix, trial.profile.rounds // 2)


@prop("CON-05", "Threads on keys of their own do not disturb each other.")
def _own_keys(trial: Trial) -> None:
    for _ in range(max(4, trial.profile.rounds // 6)):
        trial.anew()
        backend = trial.open()
        turns = Turns(own_files(backend.backend), 4, random.Random(trial.rng.randrange(1 << 30)))

        def work(t: int, backend: Subject = backend, turns: Turns = turns) -> None:
            with turns.of(t):
                for i in range(6):
                    chunk = Chunk(10 * t + i, 40 + t, t)
                    backend.backend.put(chunk.message(key(f"k{t}")), chunk.data())
                    obj = backend.backend.get(key(f"k{t}"))
                    expect(same(obj, chunk), f"thread {t} to read its own newest put of its own key", "something else")

        with trial.quiet("# four threads, each puts and gets a key of its own"):
            trial.threads([partial(work, t) for t in range(4)], 60, "puts and gets of four threads")
            trial.ran(48)
            backend.expect_model({f"k{t}": Chunk(10 * t + 5, 40 + t, t) for t in range(4)})


@prop("CON-06", "When all threads are done, get, get_many, contains and list_keys agree on the outcome.")
def _agreement(trial: Trial) -> None:
    pool = ("a", "b")
    began = time.monotonic()
    for attempt in range(2 * trial.profile.rounds):
        if attempt >= 2 * trial.profile.least and time.monotonic() - began > trial.profile.example_seconds * 2:
            break
        trial.anew()
        backend = trial.open()
        seed = trial.rng.randrange(1 << 30)
        turns = Turns(own_files(backend.backend), 3, random.Random(seed))

        def work(t: int, backend: Subject = backend, turns: Turns = turns, seed: int = seed) -> None:
            rng = random.Random(f"{seed}:{t}")
            with turns.of(t):
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
)
def _evicting(trial: Trial) -> None:
    sizes = (2 * MIB, 3 * MIB)
    keys = ("a", "b")
    mix = _Mix(("put", "put", "get", "get", "contains"), keys, 3, 4, sizes, preempt=False, evicts=True)
    _check(trial, mix, max(8, trial.profile.rounds // 4), capacity=4 * MIB)
