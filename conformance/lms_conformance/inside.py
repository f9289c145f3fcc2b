"""Where a kill meets a process: a flag in a file, which outlives it, says whether it was inside a put."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lms_conformance.spawned import Job
from lms_conformance.trial import Trial

#: How often a process is stopped to find it inside a put.
STOPS: Final = 100

#: What the flag says meanwhile.
INSIDE: Final = ord("p")


def flag_of(trial: Trial) -> Path:
    """A flag that is down."""
    flag = trial.directory() / "inside"
    flag.write_bytes(bytes(mmap.PAGESIZE))
    return flag


@contextlib.contextmanager
def telling(flag: str) -> Iterator[mmap.mmap]:
    """The flag's bytes, in the process that puts: the first one is `INSIDE` while it does, else 0."""
    with Path(flag).open("r+b") as file, mmap.mmap(file.fileno(), 0) as told:
        yield told


def was_inside(flag: Path) -> bool:
    """Whether the process is inside a put, or was when it ended."""
    return flag.read_bytes()[0] == INSIDE


def stop_in_a_put(trial: Trial, job: Job, flag: Path) -> None:
    """Stop the process at moments of its own, until one lies inside a put; there it stays."""
    for _ in range(STOPS):
        job.stall()
        if was_inside(flag):
            return
        job.heal()
        threading.Event().wait(trial.rng.random() * 0.004)
