"""Power loss: from recorded writes and syncs, every state that the medium may be in, opened and asked.

Short runs are taken apart exhaustively where few writes are pending, and by drawn subsets, torn within writes, where
many are. `DEPTH=20` draws more runs.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.power.medium import Medium, fates

from lms_tiers.plugins.lmdb import cooling
from lms_tiers.plugins.lmdb.backend import open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.depth import drawn, some
from tests.plugins.lmdb.history import Asked, History, State, Walker, held, matching, play, softer
from tests.plugins.lmdb.power import Recorder, record
from tests.plugins.lmdb.waiting import until

CAPACITY = 2 << 20
#: Drawn images of each moment.
DRAWS = 3


@pytest.mark.parametrize("sync", some(["none", "batch", "commit"], lambda sync: sync == "batch"))
@pytest.mark.parametrize("seeds", drawn(1, 4))
def test_each_mode_keeps_its_promise_whatever_a_power_loss_leaves(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, message: Any, content: Any, walker: Walker, sync: str, seeds: range
) -> None:
    options = LmdbOptions.model_validate({"sync": sync, "codec": "raw"})
    for seed in seeds:
        directory, draw = shelf / f"store{seed}", random.Random(f"{sync} {seed}")
        history, recorder = History(sync), Recorder(directory)
        with monkeypatch.context() as patched:
            record(recorder, patched)
            with open_backend(str(directory), CAPACITY, options) as backend:
                play(backend, recorder, history, draw, message, content)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", walker)
            assert history.states() <= ask_all(shelf / "image", recorder, history, options, draw, message, content)


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
@pytest.mark.deep
def test_each_mode_keeps_its_promise_while_chunks_are_encoded(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, message: Any, content: Any, walker: Walker, sync: str
) -> None:
    monkeypatch.setattr(cooling, "FULL", 0.0)
    monkeypatch.setattr(cooling, "REST", 1)
    options = LmdbOptions.model_validate({"sync": sync, "codec": "auto"})
    encoded = 0
    soft = softer(content)

    for seed in range(1):
        directory, draw = shelf / f"store{seed}", random.Random(seed)
        history, recorder = History(sync), Recorder(directory)
        with monkeypatch.context() as patched:
            record(recorder, patched)
            with open_backend(str(directory), CAPACITY, options) as backend:
                assert backend._cooling is not None
                due = backend._cooling._due
                for number in range(12):
                    begun, state = len(recorder.ops), (1000 + number, 30_000)
                    backend.put(message(f"k{number % 5}", 30_000), soft(*state))
                    history.changes.append((begun, len(recorder.ops), f"k{number % 5}", state))
                    begun = len(recorder.ops)
                    backend.flush()
                    history.flushes.append((begun, len(recorder.ops)))
                    until(lambda: not due.is_set())  # noqa: B023
                    encoded += len(backend.shrunk())
                play(backend, recorder, history, draw, message, soft)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", walker)
            assert history.states() <= ask_all(shelf / "image", recorder, history, options, draw, message, soft)
    assert encoded


def ask_all(
    where: Path, recorder: Recorder, history: History, options: LmdbOptions, draw: random.Random, message: Any,
    content: Any,
) -> set[tuple[str, State]]:  # fmt: skip
    """Open what a power loss may leave after each operation, and ask for every key; what was there in some of them."""
    medium, asked, seen = Medium(), Asked(), set[tuple[str, State]]()
    for moment, op in enumerate(recorder.ops, 1):
        medium.advance(op)
        may = {key: history.may(key, moment) for key in (f"k{i}" for i in range(5))}
        for fate in fates(medium.pending, DRAWS, draw):
            where.mkdir()
            medium.image(where, lambda op, fate=fate: fate[id(op)])  # type: ignore[misc]
            if asked.before(where, may):
                shutil.rmtree(where)
                continue
            with open_backend(str(where), CAPACITY, options) as backend:
                for key, states in may.items():
                    here = matching(backend, key, states, content)
                    assert here, f"operation {moment}: {key} is none of {states}"
                    seen |= {(key, state) for state in here}
                backend.put(message("new", 5000), content(77, 5000))
                assert held(backend, "new", {(77, 5000)}, content)
            shutil.rmtree(where)
    return seen
