"""CRA: processes that are killed; media that are damaged, full or not writable: `cra_media`."""

from __future__ import annotations

import random
import signal
from typing import Any

from lms_conformance.chunks import KIB, MIB, Chunk, difference
from lms_conformance.deaths import DEATHS, mark_a_kill, serve, server_dies
from lms_conformance.inside import flag_of, stop_in_a_put, was_inside
from lms_conformance.spawned import zygote
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate

Operation = tuple[Any, ...]
Candidates = dict[str, list[Chunk | None]]


def room_of(trial: Trial) -> int | None:
    """The capacity that these properties ask for, where one can be chosen."""
    return 64 * MIB if trial.harness.takes_capacity else None


def _killed_after(trial: Trial, path: Any, program: list[Operation], ack: int) -> None:
    """Run `program` in a process of its own and kill it when operation `ack` was acknowledged."""
    trial.record(f"# a process opens the place and runs {_shown(program[: ack + 1])}; then it is killed with SIGKILL")
    serve(trial, path, room_of(trial))
    with zygote().job("run", trial.harness, path, room_of(trial), program=program) as job:
        for message in job.messages():
            if "raised" in message:
                violate("the process to run its program", f"{message['raised']}: {message['message']}")
            if message.get("ack") == ack:
                job.kill()
                server_dies(trial, path)
    mark_a_kill(trial)


def _shown(program: list[Operation]) -> str:
    return ", ".join(f"{op[0]}({', '.join(map(repr, op[1:]))})" for op in program if op) or "nothing"


def _candidates(program: list[Operation], ack: int, *, lenient: bool) -> Candidates:
    """What each key may hold after a kill: its state at the last acknowledged flush, or what came after."""
    flushes = [i for i, op in enumerate(program[: ack + 1]) if op[0] == "flush"]
    safe = flushes[-1] if flushes else -1
    state: dict[str, Chunk | None] = {}
    found: Candidates = {}
    for i, (kind, *rest) in enumerate(program):
        if kind == "put":
            state[rest[0]] = Chunk(*rest[1:])
        elif kind == "remove":
            state[rest[0]] = None
        if i <= safe:
            found = {k: [chunk] for k, chunk in state.items()}
        elif kind != "flush":
            options = found.setdefault(rest[0], [None])
            options.append(state[rest[0]])
            if lenient and None not in options:
                # A store that evicts may have dropped the flushed copy of a key that was put again since.
                options.append(None)
    return found


def expect_one_of(backend: Subject, found: Candidates) -> None:
    """Each key holds one of the chunks that it may hold."""
    for k, options in found.items():
        obj = backend.get(k)
        if obj is None:
            expect(None in options, f"{k!r} to be {_one_of(options)} after the kill", "None: it is lost")
            continue
        if not any(c is not None and difference(c, obj) is None for c in options):
            first = next((c for c in options if c is not None), None)
            wrong = "a chunk, though it was removed and flushed" if first is None else difference(first, obj)
            violate(f"{k!r} to be {_one_of(options)} after the kill", f"{wrong}")


def _one_of(options: list[Chunk | None]) -> str:
    return " or ".join("absent" if c is None else repr(c) for c in options)


@prop(
    "CRA-01",
    "After SIGKILL what was acknowledged and flushed is there; what came later is old or new, never torn.",
    needs=["persistent"],
    marks=DEATHS,
)
def _kill(trial: Trial) -> None:
    for _ in trial.rounds(trial.profile.crashes):
        trial.anew()
        program, ack = _program(trial.rng, trial.caps.remove)
        backend = trial.directory()
        _killed_after(trial, backend, program, ack)
        subject = trial.open(capacity=room_of(trial), path=backend)
        expect_one_of(subject, _candidates(program, ack, lenient=trial.caps.evicts))


def _program(rng: random.Random, remove: bool) -> tuple[list[Operation], int]:
    keys = ("a", "b", "c", "d")
    program: list[Operation] = [("put", k, rng.randrange(8, 99), rng.choice((100, 5000, 70 * KIB)), 1) for k in keys]
    program.append(("flush", ""))
    for _ in range(rng.randrange(0, 8)):
        if remove and rng.random() < 0.25:
            program.append(("remove", rng.choice(keys)))
        elif rng.random() < 0.25:
            program.append(("flush", ""))
        else:
            program.append(("put", rng.choice(keys), rng.randrange(8, 99), rng.choice((7, 5000, 70 * KIB)), 2))
    return program, rng.randrange(4, len(program))


@prop(
    "CRA-02",
    "A process killed in the middle of overwriting a chunk leaves the old one or a new one, whole.",
    needs=["persistent"],
    marks=["killed inside a put"],
)
def _in_flight(trial: Trial) -> None:
    versions = [Chunk(11 + i, 2 * MIB, i) for i in range(3)]
    texts = [(c.seed, c.size, c.kind) for c in versions]
    for tried in range(4 * trial.profile.crashes):
        if tried >= trial.profile.crashes and trial.marks["killed inside a put"]:
            break
        trial.anew()
        path, flag = trial.directory(), flag_of(trial)
        delay = trial.rng.random() * 0.06
        trial.record(
            f"# a process puts and flushes 2 MiB under 'a', overwrites it for ever, and is killed after {delay:.3f} s"
        )
        serve(trial, path, room_of(trial))
        with zygote().job("overwrite", trial.harness, path, room_of(trial), versions=texts, flag=str(flag)) as job:
            for message in job.messages():
                if "raised" in message:
                    violate("the process to overwrite", f"{message['raised']}: {message['message']}")
                if "flushed" in message:
                    _pause(delay)
                    if tried >= trial.profile.crashes:  # a put may be a small part of what it does
                        stop_in_a_put(trial, job, flag)
                    job.kill()
                    server_dies(trial, path)
        if zygote().status == signal.SIGKILL and was_inside(flag):
            trial.mark("killed inside a put")
        subject = trial.open(capacity=room_of(trial), path=path)
        options: list[Chunk | None] = [*versions, None] if trial.caps.evicts else [*versions]
        expect_one_of(subject, {"a": options})


def _pause(seconds: float) -> None:
    import threading

    threading.Event().wait(seconds)


@prop(
    "CRA-03",
    "After a kill the place opens, and everything works: put, get, list, flush, reopen.",
    needs=["persistent"],
    marks=DEATHS,
)
def _works_after(trial: Trial) -> None:
    path = trial.directory()
    program: list[Operation] = [("put", "a", 11, 5000, 0), ("flush", ""), ("put", "b", 12, 300 * KIB, 1)]
    for _ in range(2):
        _killed_after(trial, path, program, 2)
    subject = trial.allows(lambda: trial.open(capacity=room_of(trial), path=path), "opening the place after a kill")
    subject.expect_chunk("a", Chunk(11, 5000, 0))
    subject.put("c", Chunk(13, 100))
    subject.put("a", Chunk(14, 50))
    if trial.caps.remove:
        subject.remove("b")
    subject.flush()
    subject.close()
    again = trial.reopen(subject)
    again.expect_chunk("a", Chunk(14, 50))
    again.expect_chunk("c", Chunk(13, 100))
    if trial.caps.remove:
        again.expect_absent("b")


@prop("CRA-04", "A remove that was flushed holds after SIGKILL.", needs=["persistent", "remove"], marks=DEATHS)
def _removed(trial: Trial) -> None:
    program: list[Operation] = [
        ("put", "a", 11, 5000, 0), ("put", "b", 12, 5000, 1), ("flush", ""), ("remove", "a"), ("flush", ""),
    ]  # fmt: skip
    path = trial.directory()
    _killed_after(trial, path, program, 4)
    subject = trial.open(capacity=room_of(trial), path=path)
    subject.expect_model({"b": Chunk(12, 5000, 1)}, ["a"])
