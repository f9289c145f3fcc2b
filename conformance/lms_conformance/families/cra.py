"""CRA: processes that are killed, media that are damaged, full or not writable."""

from __future__ import annotations

import mmap
import random
import signal
from pathlib import Path
from typing import Any

from lms_conformance.chunks import KIB, MIB, Chunk, difference
from lms_conformance.deaths import DEATHS, mark_a_kill, serve, server_dies
from lms_conformance.spawned import Job, zygote
from lms_conformance.spec import prop
from lms_conformance.subject import Subject
from lms_conformance.trial import Trial
from lms_conformance.violation import expect, violate

#: How often a process is stopped to find it inside a put.
STOPS = 100

Operation = tuple[Any, ...]
Candidates = dict[str, list[Chunk | None]]


def _capacity(trial: Trial) -> int | None:
    return 64 * MIB if trial.harness.takes_capacity else None


def _killed_after(trial: Trial, path: Any, program: list[Operation], ack: int) -> None:
    """Run `program` in a process of its own and kill it when operation `ack` was acknowledged."""
    trial.record(f"# a process opens the place and runs {_shown(program[: ack + 1])}; then it is killed with SIGKILL")
    serve(trial, path, _capacity(trial))
    with zygote().job("run", trial.harness, path, _capacity(trial), program=program) as job:
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


def _expect_one_of(backend: Subject, found: Candidates) -> None:
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
        subject = trial.open(capacity=_capacity(trial), path=backend)
        _expect_one_of(subject, _candidates(program, ack, lenient=trial.caps.evicts))


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
        path, flag = trial.directory(), trial.directory() / "inside"
        flag.write_bytes(bytes(mmap.PAGESIZE))
        delay = trial.rng.random() * 0.06
        trial.record(
            f"# a process puts and flushes 2 MiB under 'a', overwrites it for ever, and is killed after {delay:.3f} s"
        )
        serve(trial, path, _capacity(trial))
        with zygote().job("overwrite", trial.harness, path, _capacity(trial), versions=texts, flag=str(flag)) as job:
            for message in job.messages():
                if "raised" in message:
                    violate("the process to overwrite", f"{message['raised']}: {message['message']}")
                if "flushed" in message:
                    _pause(delay)
                    if tried >= trial.profile.crashes:  # a put may be a small part of what it does
                        _stop_in_a_put(trial, job, flag)
                    job.kill()
                    server_dies(trial, path)
        if zygote().status == signal.SIGKILL and flag.read_bytes()[:1] == b"p":
            trial.mark("killed inside a put")
        subject = trial.open(capacity=_capacity(trial), path=path)
        options: list[Chunk | None] = [*versions, None] if trial.caps.evicts else [*versions]
        _expect_one_of(subject, {"a": options})


def _stop_in_a_put(trial: Trial, job: Job, flag: Path) -> None:
    """Stop the process at moments of its own, until one lies inside a put; there it stays."""
    for _ in range(STOPS):
        job.stall()
        if flag.read_bytes()[:1] == b"p":
            return
        job.heal()
        _pause(trial.rng.random() * 0.004)


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
    subject = trial.allows(lambda: trial.open(capacity=_capacity(trial), path=path), "opening the place after a kill")
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
    subject = trial.open(capacity=_capacity(trial), path=path)
    subject.expect_model({"b": Chunk(12, 5000, 1)}, ["a"])


def _stored(trial: Trial, chunks: dict[str, Chunk]) -> Subject:
    backend = trial.open(capacity=_capacity(trial))
    for k, chunk in chunks.items():
        backend.put(k, chunk)
    backend.flush()
    backend.close()
    trial.harness.stop(backend.path)  # what holds the place would not see the damage, or write over it
    return backend


def _read_in_child(trial: Trial, backend: Subject, expected: dict[str, Chunk], what: str) -> dict[str, bool]:
    """Which keys were found, each exact; a violation for wrong bytes, untyped errors, or the reader's death."""
    texts = {k: [(c.seed, c.size, c.kind)] for k, c in expected.items()}
    found: dict[str, bool] = {}
    opened = done = False
    with zygote().job("read", trial.harness, backend.path, backend.capacity, expected=texts) as job:
        for message in job.messages():
            opened |= "open" in message
            done |= "done" in message
            if message.get("wrong"):
                violate(f"{message['key']!r} to be a miss or exact after {what}", message["wrong"])
            if "key" in message:
                found[message["key"]] = message["found"]
            if "raised" in message:
                done = True
                trial.mark("damage read back")
                typed = message["typed"] and not opened
                expect(
                    typed,
                    f"misses, or a typed error on opening, after {what}",
                    f"{message['raised']}: {message['message']}",
                )
    expect(done, f"the reader to survive {what}", f"it died with status {zygote().status}")
    if not all(found.values()):
        trial.mark("damage read back")
    return found


@prop(
    "CRA-05",
    "A chunk whose stored bytes were flipped is a miss, not data; the others are exact.",
    needs=["persistent", "damage"],
    marks=["damage read back"],
)
def _flipped(trial: Trial) -> None:
    for size in (5000, 300 * KIB, 2 * MIB):
        trial.anew()
        chunks = {k: Chunk(11 + i, size + i, i) for i, k in enumerate("abc")}
        backend = _stored(trial, chunks)
        expect(
            trial.harness.corrupt(backend.path, chunks["b"].bytes()),
            "stored bytes to flip below the place",
            "nothing stored",
        )
        trial.record("# bits of b's stored bytes are flipped; another process reopens and reads")
        found = _read_in_child(trial, backend, chunks, "flipping stored bytes of 'b'")
        for k in "ac":
            expect(found.get(k, True), f"the undamaged {k!r} to be found", "a miss")


@prop(
    "CRA-06",
    "After files are cut short there are misses or a typed error on opening: no wrong data, no death.",
    needs=["persistent", "damage"],
    marks=["damage read back"],
)
def _truncated(trial: Trial) -> None:
    chunks = {f"k{i}": Chunk(11 + i, 200 * KIB + i, i % 8) for i in range(10)}
    backend = _stored(trial, chunks)
    expect(trial.harness.truncate(backend.path), "files to cut below the place", "nothing stored")
    trial.record("# a third is cut off every file; another process reopens and reads")
    _read_in_child(trial, backend, chunks, "cutting files short")


@prop(
    "CRA-07",
    "On a full disk put raises a typed error and loses nothing; with room again it works.",
    needs=["persistent", "local"],
    marks=["put at full"],
)
def _full_disk(trial: Trial) -> None:
    path = trial.directory()
    trial.record("# a process fills what the medium takes (RLIMIT_FSIZE) with put of 12 MiB under 'big' and 'a'")
    done = False
    with zygote().job("full disk", trial.harness, path, _capacity(trial)) as job:
        for message in job.messages():
            done |= "done" in message
            if "raised" in message:
                violate("puts on a full disk to raise typed errors", f"{message['raised']}: {message['message']}")
            if "put" in message:
                if "typed" in message or "untyped" in message:
                    trial.mark("put at full")
                _judge_full(message, lenient=trial.caps.evicts)
            if message.get("after"):
                violate("put and get to work once there is room", message["after"])
    expect(done, "the process to survive a full disk", f"it died with status {zygote().status}")
    subject = trial.open(capacity=_capacity(trial), path=path)
    options: list[Chunk | None] = [Chunk(3, 100_000), Chunk(11, 12 * MIB)]
    _expect_one_of(subject, {"a": [*options, None] if trial.caps.evicts else options, "z": [Chunk(12, 50_000)]})


def _judge_full(message: dict[str, Any], *, lenient: bool) -> None:
    k = message["put"]
    expect("untyped" not in message, f"put of {k!r} on a full disk to raise a typed error", message.get("untyped"))
    if message.get("returned"):
        ok = message["new"] or (lenient and ("typed" in message or not message["found"]))
        expect(ok, f"{k!r}, whose put returned, to be readable", "old bytes or none: the failure was swallowed")
    elif message["found"]:
        expect(message["old"] or message["new"], f"{k!r} to be what it was before the failed put", "other bytes")
    else:
        expect(k == "big", "the old chunk to outlive a failed overwrite", "None: it is lost")


@prop(
    "CRA-08",
    "A directory that cannot be written raises StorageUnavailableError, and is left as it was.",
    needs=["persistent", "local"],
)
def _read_only(trial: Trial) -> None:
    path, scratch = trial.directory(), trial.directory()
    path.chmod(0o555)
    trial.record("# another process, without the right to write there, opens the place")
    ended: dict[str, Any] = {}
    with zygote().job("read only", trial.harness, path, _capacity(trial), scratch=str(scratch)) as job:
        for message in job.messages():
            if "raised" in message or "done" in message:
                ended = message
    path.chmod(0o755)
    expect(ended.get("raised") is not None, "an error from a directory that cannot be written", ended or "its death")
    ok = ended.get("raised") in ("StorageUnavailableError", "StorageLockedError")
    expect(ok, "StorageUnavailableError", f"{ended.get('raised')}: {ended.get('message')}")
    expect(not list(path.iterdir()), "the directory left empty", [p.name for p in path.iterdir()])
