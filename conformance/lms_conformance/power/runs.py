"""Drawn runs of a backend, recorded; what each key may hold when the power went at some moment; and what was found."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from lms_conformance.chunks import KIB, MIB, Chunk
from lms_conformance.damage import files_below
from lms_conformance.power.log import replayed
from lms_conformance.power.medium import Marked, Medium, Operation, Synced, fates
from lms_conformance.spawned import Job, zygote
from lms_conformance.trial import Trial
from lms_conformance.violation import violate

#: Bytes of a place: little, so that an image is written quickly.
CAPACITY: Final = 8 * MIB
_SIZES: Final = (0, 700, 5000, 100 * KIB)

#: ("put", key, seed, size, kind), ("remove", key), ("flush",) or ("close",).
Step = tuple[Any, ...]


def drawn(rng: random.Random, kinds: Sequence[str], keys: str = "abc", steps: int = 10) -> list[Step]:
    """A program; every chunk that it puts is another one."""
    program: list[Step] = [("put", keys[0], 8, 5000, 1)]
    for seed in range(9, 9 + steps):
        kind = rng.choice(kinds)
        if kind == "put":
            program.append(("put", rng.choice(keys), seed, rng.choice(_SIZES) + seed, seed % 8))
        else:
            program.append((kind,) if kind == "flush" else (kind, rng.choice(keys)))
    return program


class Run:
    """A program that was carried out while its writes were recorded.

    Parameters
    ----------
    trial : Trial
    program : sequence of Step

    Attributes
    ----------
    unseen : str
        Why the recorder cannot have seen all of it; empty where it has.
    """

    def __init__(self, trial: Trial, program: Sequence[Step]) -> None:
        self.program = list(program)
        path, log = trial.directory(), trial.directory() / "log"
        self.capacity = CAPACITY if trial.harness.takes_capacity else None
        trial.record(f"# a process whose writes are recorded does {_shown(program)}")
        with zygote().job("recorded", trial.harness, path, self.capacity, program=self.program, log=str(log)) as job:
            for message in job.messages():
                if "raised" in message:
                    violate("the process to run its program", f"{message['raised']}: {message['message']}")
        trial.ran(len(program))
        replay = replayed(log)
        log.unlink()
        self.operations: list[Operation] = replay.operations
        self._marks = {op.number: i for i, op in enumerate(self.operations) if isinstance(op, Marked)}
        self.unseen = replay.unseen or self._differs(path)

    def _differs(self, path: Path) -> str:
        """What is in the files now and was not noted."""
        medium = Medium()
        for op in self.operations:
            medium.advance(op)
        there = {str(file.relative_to(path)): file for file in files_below(path)}
        for name, file in there.items():
            if name not in medium.all_names() or medium.content(name) != file.read_bytes():
                return f"{name!r} is not what was seen to be written: by C streams, io_uring or another process"
        return ""

    def moments(self, rng: random.Random, promise: str | None) -> Iterator[int]:
        """Numbers of operations after which the power goes: when what was promised has returned, and others in turn."""
        kinds = {"flush": ("flush", "close"), "put": ("put", "remove")}.get(promise or "", ("put", "remove", "flush"))
        returned = [self._marks.get(2 * i + 1) for i, (kind, *_) in enumerate(self.program) if kind in kinds]
        telling = [i + 1 for i in returned if i is not None]
        syncs = [i for i, op in enumerate(self.operations) if isinstance(op, Synced)]
        others = [m for i in syncs for m in (i, i + 1)] + list(range(1, len(self.operations) + 1))
        rng.shuffle(telling)
        rng.shuffle(others)
        for pair in itertools.zip_longest(telling, others):
            yield from (moment for moment in pair if moment is not None)

    def _changes(self, k: str, moment: int) -> Iterator[tuple[int, int, Chunk | None]]:
        """What was begun on a key before the moment: when it began, when it had returned, what it left."""
        for i, (kind, *rest) in enumerate(self.program):
            begun, done = self._marks.get(2 * i, 1 << 60), self._marks.get(2 * i + 1, 1 << 60)
            if kind in ("put", "remove") and rest[0] == k and begun < moment:
                yield begun, done, Chunk(*rest[1:]) if kind == "put" else None

    def may(self, k: str, moment: int, promise: str | None) -> list[Chunk | None]:
        """What a key may hold when the power went after so many operations.

        Parameters
        ----------
        promise : {"put", "flush", None}
            What the backend says is there after a loss of power: what returned, what was flushed, or nothing.
        """
        changes = list(self._changes(k, moment))
        flushes = [
            (self._marks[2 * i], self._marks[2 * i + 1])
            for i, (kind, *_) in enumerate(self.program)
            if kind in ("flush", "close") and 2 * i + 1 in self._marks
        ]
        firm = -1
        for i, (_, done, _) in enumerate(changes):
            flushed = any(done <= start and end < moment for start, end in flushes)
            if (promise == "put" and done < moment) or (promise is not None and flushed):
                firm = i
        rest = [left for _, _, left in changes[max(firm, 0) :]]
        # One that was put again since may be gone: its old chunk's room was used, its new one not certain yet.
        return [*rest, None] if firm < 0 or len(rest) > 1 else rest

    def left(self, moment: int, rng: random.Random, most: int, where: Path) -> Iterator[tuple[Path, bool]]:
        """Folders with what may be left at that moment, one after the other; each is gone when the next one comes.

        The first has nothing of what is not certain; each is told with whether it lacks something.
        """
        medium = Medium()
        for op in self.operations[:moment]:
            medium.advance(op)
        nothing, *every = fates(medium.pending, 2 * most, rng)
        for fate in [nothing, *rng.sample(every, min(most - 1, len(every)))]:
            where.mkdir()
            medium.image(where, lambda op, fate=fate: fate[id(op)])  # type: ignore[misc]
            yield where, any(kept is not True for kept in fate.values())
            shutil.rmtree(where)


def _shown(program: Sequence[Step]) -> str:
    return ", ".join(f"{kind}({', '.join(map(repr, rest))})" for kind, *rest in program)


def after(trial: Trial, run: Run, promise: str | None, *, works: bool = False) -> int:
    """Open what a loss of power may leave of a run, at drawn moments; a violation where a key holds what it must not.

    Parameters
    ----------
    works : bool
        Also that the place then takes every key anew, and has it after a flush.

    Returns
    -------
    int
        Places opened that lack something.
    """
    profile, opened, lacking, began = trial.profile, 0, 0, time.monotonic()
    keys = sorted({step[1] for step in run.program if len(step) > 1})
    where, asked = trial.directory() / "image", set[bytes]()
    with zygote().job("images", trial.harness, where, run.capacity) as job:
        for moment in run.moments(trial.rng, promise):
            if opened >= 2 * profile.crashes and time.monotonic() - began > profile.example_seconds:
                break
            for image, lacks in run.left(moment, trial.rng, 3 if promise is None else 2, where):
                may = {k: run.may(k, moment, promise) for k in keys}
                told = _digest(image, may)
                if told in asked:
                    continue
                asked.add(told)
                _judge(job, image, may, moment, promise, works=works)
                opened += 1
                lacking += lacks
        job.kill()
    trial.ran(opened * len(keys))
    return lacking


def _digest(image: Path, may: dict[str, list[Chunk | None]]) -> bytes:
    """Of a place and of what is asked of it: many losses leave the same."""
    found = hashlib.blake2b(repr(may).encode())
    for file in sorted(image.rglob("*")):
        found.update(repr((str(file.relative_to(image)), file.is_file() and file.read_bytes())).encode())
    return found.digest()


def _judge(
    job: Job, image: Path, may: dict[str, list[Chunk | None]], moment: int, promise: str | None, *, works: bool
) -> None:
    expected = {k: [_told(chunk) for chunk in options if chunk is not None] for k, options in may.items()}
    order: dict[str, Any] = {"image": str(image), "expected": expected}
    if works:
        order["puts"] = {k: (70 + i, 3000 + i, i) for i, k in enumerate(may)}
    job.say(order)
    answer = job.hear()
    at = f"after a loss of power at operation {moment} of the recorded ones"
    if answer is None or "raised" in answer:
        violate(f"the place to open {at}", answer or "the death of the process that opened it")
    if "typed" in answer:
        if promise is not None or answer["opened"]:
            violate(f"the place to open and to answer {at}", answer["typed"])
        return
    for k, (found, wrong) in answer["keys"].items():
        options = [chunk for chunk in may[k] if chunk is not None]
        said = " or ".join(map(repr, options)) + (" or nothing" if None in may[k] else "") or "nothing"
        if found == -2 or (found == -1 and None not in may[k]):
            violate(f"{k!r} to hold {said} {at}", wrong or "nothing: it is lost")
    for k, (found, wrong) in answer.get("after", {}).items():
        if found != 0:
            violate(f"{k!r}, put anew {at}, to be there", wrong or "nothing")


def _told(chunk: Chunk) -> tuple[int, int, int]:
    return chunk.seed, chunk.size, chunk.kind
