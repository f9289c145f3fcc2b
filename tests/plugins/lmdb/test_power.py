"""Power loss: from recorded writes and syncs, every state that the medium may be in, opened and asked.

Short runs are taken apart exhaustively where few writes are pending, and by drawn subsets, torn within writes, where
many are. `DEPTH=20` draws more runs.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint, salvage
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.depth import drawn
from tests.plugins.lmdb.power import Medium, Name, Recorder, Write, record

CAPACITY = 2 << 20
#: Drawn images of each moment.
DRAWS = 2
#: So many pending operations are taken in all their subsets.
EXHAUSTIVE = 3

#: What a key holds: seed and length of a put, or None.
State = tuple[int, int] | None


class InThisProcess:
    """Stands for the child that walks an index: these are states that LMDB promises to survive."""

    def __init__(self, command: list[str], **_: Any) -> None:
        out, shown = io.BytesIO(), sys.stdout
        sys.stdout = io.TextIOWrapper(out, write_through=True)
        try:
            salvage.main(command[-1])
            self._status = 0
        except SystemExit as ended:
            self._status = int(str(ended.code))
        finally:
            sys.stdout.detach()  # keeps `out` open
            sys.stdout = shown
        self.stdout = io.BytesIO(out.getvalue())

    def wait(self) -> int:
        return self._status

    def kill(self) -> None:
        """It has ended."""


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder in memory: thousands of syncs."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


class History:
    """What a run did: for each moment, what a key may hold after a power loss."""

    def __init__(self, sync: str) -> None:
        self.sync = sync
        #: (operations recorded before, key, state): begun; and how many had been recorded when it returned.
        self.changes: list[tuple[int, int, str, State]] = []
        self.flushes: list[tuple[int, int]] = []

    def may(self, key: str, moment: int) -> set[State]:
        """The states that `key` may be in if the power went after `moment` operations."""
        begun = [change for change in self.changes if change[0] <= moment and change[2] == key]
        firm: int | None = None
        for number, (_, done, _, _) in enumerate(begun):
            if done > moment:
                continue
            flushed = any(done <= start and end <= moment for start, end in self.flushes)
            if self.sync == "commit" or (self.sync == "batch" and flushed):
                firm = number
        if firm is None:
            return {None} | {state for _, _, _, state in begun}
        rest = [state for _, _, _, state in begun[firm:]]
        return set(rest) | ({None} if len(rest) > 1 else set())


def play(
    backend: LmdbBackend, recorder: Recorder, history: History, draw: random.Random, message: Any, content: Any
) -> None:
    """A drawn run: puts, overwrites, batches, removes, flushes, checkpoints."""
    number = 0

    def state() -> tuple[int, int]:
        nonlocal number
        number += 1
        return number, draw.choice([0, 700, 5000, 30_000])

    def put(states: dict[str, tuple[int, int]]) -> None:
        begun = len(recorder.ops)
        items = [(message(key, new[1]), content(*new)) for key, new in states.items()]
        backend.put_many(items) if len(items) > 1 else backend.put(*items[0])
        history.changes += [(begun, len(recorder.ops), key, new) for key, new in states.items()]

    for _ in range(14):
        kind, keys, begun = draw.random(), [f"k{i}" for i in draw.sample(range(5), 3)], len(recorder.ops)
        if kind < 0.45:
            put({keys[0]: state()})
        elif kind < 0.6:
            put({key: state() for key in keys})
        elif kind < 0.75:
            backend.remove(OpaqueKey(keys[0]))
            history.changes.append((begun, len(recorder.ops), keys[0], None))
        elif kind < 0.9:
            backend.flush()
            history.flushes.append((begun, len(recorder.ops)))
        else:
            backend._checkpoints.make()


def held(backend: LmdbBackend, key: str, may: set[State], content: Any) -> bool:
    obj = backend.get(OpaqueKey(key))
    if obj is None:
        return None in may
    return any(state is not None and bytes(obj.data) == bytes(content(*state)) for state in may)


def images(medium: Medium, draw: random.Random) -> Iterator[Callable[[Write | Name], bool | random.Random]]:
    """Which of the pending operations are kept: all subsets of few, and drawn ones, torn, of many."""
    pending = medium.pending
    if len(pending) <= EXHAUSTIVE:
        for chosen in itertools.product((False, True), repeat=len(pending)):
            keep = dict(zip(map(id, pending), chosen, strict=True))
            yield lambda op, keep=keep: keep[id(op)]  # type: ignore[misc]
    else:
        yield lambda op: False
        yield lambda op: True
    for _ in range(DRAWS if pending else 0):
        drawn = {id(op): draw.choice([False, True, draw]) for op in pending}
        yield lambda op, drawn=drawn: drawn[id(op)]  # type: ignore[misc]


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
@pytest.mark.parametrize("seeds", drawn(1, 4))
def test_each_mode_keeps_its_promise_whatever_a_power_loss_leaves(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, message: Any, content: Any, sync: str, seeds: range
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 1e6)
    options = LmdbOptions.model_validate({"sync": sync, "codec": "raw"})
    for seed in seeds:
        directory, draw = shelf / f"store{seed}", random.Random(f"{sync} {seed}")
        history, recorder = History(sync), Recorder(directory)
        with monkeypatch.context() as patched:
            record(recorder, patched)
            with open_backend(str(directory), CAPACITY, options) as backend:
                play(backend, recorder, history, draw, message, content)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", InThisProcess)
            opened = ask_all(shelf / "image", recorder, history, options, draw, message, content)
        assert opened > 200


def ask_all(
    where: Path, recorder: Recorder, history: History, options: LmdbOptions, draw: random.Random, message: Any,
    content: Any,
) -> int:  # fmt: skip
    """Open what a power loss may leave after each operation, and ask for every key; how many were opened."""
    medium, opened = Medium(), 0
    for moment, op in enumerate(recorder.ops, 1):
        medium.advance(op)
        for kept in images(medium, draw):
            where.mkdir()
            medium.image(where, kept)
            with open_backend(str(where), CAPACITY, options) as backend:
                for key in (f"k{i}" for i in range(5)):
                    may = history.may(key, moment)
                    assert held(backend, key, may, content), f"operation {moment}: {key} is none of {may}"
                backend.put(message("new", 5000), content(77, 5000))
                assert held(backend, "new", {(77, 5000)}, content)
            shutil.rmtree(where)
            opened += 1
    return opened
