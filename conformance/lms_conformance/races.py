"""Drawn programs of several threads over instances of one place: does an order of calls explain the answers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

from lms_conformance.chunks import Chunk, key, raw, same
from lms_conformance.history import Call, History, smaller
from lms_conformance.marks import OVERLAPPED
from lms_conformance.preempt import Turns, own_files
from lms_conformance.trial import Trial
from lms_conformance.violation import Violation, violate
from lms_tiers.errors import CapacityError
from lms_tiers.interface import LMSBackendInterface

#: One operation of a thread: kind, keys, and the number of the value where it puts.
Step = tuple[str, tuple[str, ...], int]
Threads = list[list[Step]]


@dataclass(frozen=True, slots=True)
class Mix:
    """What the programs of a property are made of: `instances` of the backend on one place share the threads."""

    kinds: tuple[str, ...]
    keys: tuple[str, ...]
    threads: int
    steps: int
    sizes: tuple[int, ...]
    preempt: bool
    evicts: bool = False
    instances: int = 1
    execution: Any = None  # a class of `Execution` that knows other kinds of operations


def draw(rng: random.Random, mix: Mix) -> Threads:
    """A program; every value that it puts has a number of its own."""
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


class Execution:
    """Runs a program's threads, each on one of the instances, and keeps the history.

    Parameters
    ----------
    backends : sequence of LMSBackendInterface
        Thread number t calls the one at t modulo their number.
    mix : Mix
    seed : int
        Of the turns, where `mix` has the threads take turns.
    history : History, optional
        One with a clock that other processes share, where they take part.
    """

    def __init__(
        self, backends: Sequence[LMSBackendInterface], mix: Mix, seed: int, history: History | None = None
    ) -> None:
        self.backends = backends
        self.mix = mix
        self.seed = seed
        self.history = History() if history is None else history
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

    def know(self, program: Threads) -> None:
        """Make the chunks that `program` puts, its own or another process's."""
        for steps in program:
            for kind, keys, number in steps:
                if kind.startswith("put"):
                    for k in keys:
                        self.chunk(number, k)

    def work(self, program: Threads, first: int = 0) -> list[Callable[[], None]]:
        """What each thread does, all from one barrier; the first one is called `first` in the history."""
        turns = None
        if self.mix.preempt:
            files = {file for backend in self.backends for file in own_files(backend)}
            turns = Turns(tuple(sorted(files)), len(program), random.Random(self.seed))
        start = threading.Barrier(len(program))
        return [partial(self._thread, first, t, steps, turns, start) for t, steps in enumerate(program)]

    def run(self, trial: Trial, program: Threads) -> None:
        """All threads at once; the final reads, by each instance, come after them."""
        self.know(program)
        trial.threads(self.work(program), 60, "calls from several threads")
        trial.ran(sum(map(len, program)))
        self.look()

    def look(self) -> None:
        """The final reads."""
        for k in self.mix.keys:
            for _ in range(2):
                for backend in self.backends:
                    self.one(backend, 99, "get", k, 0)
                    self.one(backend, 99, "contains", k, 0)

    def _thread(self, first: int, t: int, steps: Sequence[Step], turns: Turns | None, start: threading.Barrier) -> None:
        start.wait(30)
        backend, thread = self.backends[t % len(self.backends)], first + t
        with turns.of(t) if turns is not None else nullcontext():
            for kind, keys, number in steps:
                if kind == "put_many":
                    self._put_many(backend, thread, keys, number)
                elif kind == "get_many":
                    self._get_many(backend, thread, keys)
                else:
                    self.one(backend, thread, kind, keys[0], number)

    def one(self, backend: LMSBackendInterface, thread: int, kind: str, k: str, number: int) -> None:
        """One call on one key."""
        history = self.history
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

    def _put_many(self, backend: LMSBackendInterface, thread: int, keys: Sequence[str], number: int) -> None:
        chunks = [self.chunk(number, k) for k in keys]
        began = self.history.now()
        backend.put_many([(c.message(key(k)), c.data()) for k, c in zip(keys, chunks, strict=True)])
        for k in keys:
            self.history.add(thread, "put", k, number if k == self.mix.keys[0] else number + 10_000, began)

    def _get_many(self, backend: LMSBackendInterface, thread: int, keys: Sequence[str]) -> None:
        began = self.history.now()
        found = backend.get_many([key(k) for k in keys])
        for k, obj in zip(keys, found, strict=True):
            self.history.add(thread, "get", k, self.value_of(k, obj), began)


def _attempt(trial: Trial, mix: Mix, program: Threads, seed: int, capacity: int | None) -> None:
    """One execution on a fresh place; a violation where no order explains it."""
    first = trial.open(capacity=capacity)
    opened = [first]
    try:
        opened += [trial.open(capacity=capacity, path=first.path) for _ in range(mix.instances - 1)]
        execution = (mix.execution or Execution)([subject.backend for subject in opened], mix, seed)
        execution.run(trial, program)
        calls = execution.history.contradiction(evicts=mix.evicts)
        if execution.history.overlapped():
            trial.mark(OVERLAPPED)
        if execution.history.missed():
            trial.mark("evicted")
    except Violation:
        raise
    except Exception as error:
        violate("calls from several threads to raise nothing", f"{type(error).__name__}: {error}")
    finally:
        # A close beside a call that never returned would only hang as well.
        for subject in reversed(opened):
            trial.release(subject)
    if calls is not None:
        unexplained(calls)


def unexplained(calls: Sequence[Call]) -> NoReturn:
    """No order of these calls explains every answer."""
    shown = "\n".join(map(str, calls))
    violate("an order of these calls that explains every answer ([begin, end] by a shared counter)", "none:\n" + shown)


def explained(trial: Trial, mix: Mix, rounds: int, capacity: int | None = None) -> None:
    """Draw and run programs; a violation, with the smallest program found, where no order explains one's answers."""
    kinds = tuple(kind for kind in mix.kinds if kind != "remove" or trial.caps.remove)
    mix = replace(mix, kinds=kinds)
    with trial.quiet("# several threads, drawn programs; one that fails is printed below"):
        for i in trial.rounds(rounds, trial.profile.least, trial.profile.example_seconds * 3):
            program, seed = draw(trial.rng, mix), trial.rng.randrange(1 << 30)
            # Python frames take turns; native code wants its threads to run at the same time.
            played = replace(mix, preempt=mix.preempt or i % 2 == 0)
            try:
                _attempt(trial, played, program, seed, capacity)
            except Violation as violation:
                _shrunk(trial, played, program, violation, capacity)


def _shrunk(trial: Trial, mix: Mix, program: Threads, violation: Violation, capacity: int | None) -> None:
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


def _source(program: Threads, mix: Mix) -> str:
    """The threads as Python."""
    names = ["backend", *(f"backend{i}" for i in range(2, mix.instances + 1))]
    lines = ["import threading", *(f"{name} = open_backend(path1)" for name in names), "def value(n, size):",
             "    return Chunk(literal=n.to_bytes(8, 'little') * (size // 8))"]  # fmt: skip
    for t, steps in enumerate(program):
        lines.append(f"def thread{t}():")
        backend = names[t % len(names)]
        for kind, keys, number in steps:
            k = keys[0]
            value = f"value({number}, {mix.sizes[number % len(mix.sizes)]})"
            match kind:
                case "put":
                    lines.append(f"    {backend}.put({value}.message(key({k!r})), {value}.data())")
                case "put_many":
                    lines.append(
                        f"    {backend}.put_many([({value}.message(key(k)), {value}.data()) for k in {keys!r}])"
                    )
                case "get_many":
                    lines.append(f"    print('thread {t}', {backend}.get_many([key(k) for k in {keys!r}]))")
                case "remove":
                    lines.append(f"    {backend}.remove(key({k!r}))")
                case _:
                    lines.append(f"    print('thread {t}', {backend}.{kind}(key({k!r})))")
        lines.append("    pass")
    threads = ", ".join(f"thread{t}" for t in range(len(program)))
    lines.append(f"threads = [threading.Thread(target=t) for t in ({threads},)]")
    lines += ["for t in threads: t.start()", "for t in threads: t.join()"]
    lines.append(
        "# In the kit the threads take turns between opcodes of the backend's frames: lms_conformance.preempt."
    )
    return "\n".join(lines)
