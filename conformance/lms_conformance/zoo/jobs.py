"""What the processes of `make zoo` do: one hunt at a time each, with what they know of earlier ones."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from lms_conformance.outcome import Result
from lms_conformance.profiles import Profile
from lms_conformance.zoo.notes import Notes

_notes = Notes(None)


def begin(state: Path | None) -> None:
    """Once in each process, before anything else."""
    global _notes
    import torch  # noqa: F401  # now, so that no hunt pays for it

    threading.Thread(target=_end_with_the_command, name="lms-zoo-ends", daemon=True).start()
    _notes = Notes(state)


def _end_with_the_command() -> None:
    """One that is killed tells nobody that it ends. What was started here reads that this process has ended."""
    command = multiprocessing.parent_process()
    assert command is not None
    command.join()
    os._exit(1)


def hunt(name: str, ids: Sequence[str], effort: Profile, seed: int) -> tuple[str, dict[str, Result]]:
    """A mutant's name, and what the properties said of it."""
    return name, _notes.hunt(name, list(dict.fromkeys(ids)), effort, seed).results


def reference(name: str, effort: Profile, seed: int) -> list[str]:
    """What is wrong with a correct backend."""
    return [r.message() for r in _notes.reference(name, effort, seed) if r.red]
