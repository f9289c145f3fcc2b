"""Killed after any system call, in any state of free pages: every acknowledged chunk is there, and every page is owned once."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.power.medium import Medium

from lms_tiers.errors import CapacityError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint, cooling, pages
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.calls import staying
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.depth import drawn, some
from tests.plugins.lmdb.history import Asked, History, State, Walker, matching, play, softer
from tests.plugins.lmdb.power import Recorder, record
from tests.plugins.lmdb.waiting import until
from tests.plugins.lmdb.whole import assert_whole

CAPACITY = 1 << 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, walker: Walker) -> None:
    """Checkpoints when they are asked for, nobody waits for a reader, and an index is walked by a fork."""
    monkeypatch.setattr(checkpoint, "SECONDS", 1e6)
    monkeypatch.setattr(pages, "PATIENCE", 0.0)
    monkeypatch.setattr(subprocess, "Popen", walker)


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
@pytest.mark.parametrize("codec", some(["raw", "auto"], lambda codec: codec == "raw"))
@pytest.mark.parametrize("seeds", drawn(2, 14))
def test_a_kill_after_any_system_call_leaves_all_that_was_acknowledged(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, message: Any, content: Any, sync: str, codec: str, seeds: range
) -> None:
    """With `auto` chunks are encoded all the while."""
    monkeypatch.setattr(cooling, "FULL", 0.0)
    monkeypatch.setattr(cooling, "REST", 1)
    options, encoded = LmdbOptions.model_validate({"sync": sync, "codec": codec}), 0
    if codec == "auto":
        content, seeds = softer(content), seeds[::4]
    for seed in seeds:
        directory, draw = shelf / f"store {seed}", random.Random(f"{sync} {seed}")
        history, recorder = History("commit"), Recorder(directory)
        with monkeypatch.context() as patched:
            record(recorder, patched)
            with open_backend(str(directory), CAPACITY, options) as backend:
                if backend._cooling is not None:  # one at least that is encoded, however late the thread is after it
                    due, begun, state = backend._cooling._due, len(recorder.ops), (1000, 30_000)
                    backend.put(message("k0", 30_000), content(*state))
                    history.changes.append((begun, len(recorder.ops), "k0", state))
                    until(lambda due=due: not due.is_set())  # type: ignore[misc]
                    encoded += len(backend.shrunk())
                play(backend, recorder, history, draw, message, content)
        medium, asked, where, seen = Medium(), Asked(), shelf / "image", set[tuple[str, State]]()
        for moment, op in enumerate(recorder.ops, 1):
            medium.advance(op)
            may = {key: history.may(key, moment) for key in (f"k{i}" for i in range(5))}
            where.mkdir()
            medium.image(where, lambda op: True)
            if not asked.before(where, may):
                with open_backend(str(where), CAPACITY, options) as backend:
                    assert_whole(backend)
                    for key, states in may.items():
                        here = matching(backend, key, states, content)
                        seen |= {(key, state) for state in here}
                        assert here, f"seed {seed}, operation {moment}: {key} is none of {states}"
                    assert backend.stats().corrupt == 0
            shutil.rmtree(where)
        assert history.states() <= seen
        shutil.rmtree(directory)
    assert encoded or codec == "raw"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a failed test left open."""
    with ExitStack() as stack:
        yield stack


class Model:
    """A store, what it should hold, and readers that stay inside."""

    def __init__(self, backend: LmdbBackend, draw: random.Random, message: Any, content: Any) -> None:
        self.backend, self.draw, self.message, self.content = backend, draw, message, content
        self.holds: dict[str, tuple[int, int]] = {}
        self.readers: list[Any] = []
        self.number = 0

    def drawn_put(self) -> tuple[str, tuple[int, int]]:
        self.number += 1
        length = self.draw.choice([0, 500, 4000, 9000, 40_000, 110_000])
        return f"k{self.draw.randrange(30)}", (self.number, length)

    def put(self, puts: dict[str, tuple[int, int]]) -> None:
        items = [(self.message(key, state[1]), self.content(*state)) for key, state in puts.items()]
        with suppress(CapacityError):
            self.backend.put_many(items)
            self.holds |= puts
            return
        for key, state in puts.items():  # those before the one that found no room are stored
            if self.read(key) != self.content(*state):
                return
            self.holds[key] = state

    def read(self, key: str) -> bytearray | None:
        room = bytearray(110_000)
        meta = self.backend.get_into(OpaqueKey(key), room)
        return None if meta is None else room[: meta.length]

    def step(self) -> None:
        kind = self.draw.random()
        if kind < 0.4:
            self.put(dict([self.drawn_put()]))
        elif kind < 0.55:
            self.put(dict(self.drawn_put() for _ in range(4)))
        elif kind < 0.8 and self.holds:
            gone = self.draw.sample(sorted(self.holds), min(len(self.holds), 3))
            self.backend.remove_many([OpaqueKey(key) for key in gone])
            for key in gone:
                del self.holds[key]
        elif kind < 0.88 and len(self.readers) < 2:
            self.readers.append(staying(self.backend._store))
            self.readers[-1].__enter__()
        elif kind < 0.94:
            self.leave()
        elif kind < 0.98:
            self.backend._checkpoints.make()
        else:
            self.backend.shrink()

    def leave(self) -> None:
        while self.readers:
            self.readers.pop().__exit__(None, None, None)

    def check(self) -> None:
        assert_whole(self.backend)
        assert {key.to_string() for key in self.backend.list_keys()} == set(self.holds)


@pytest.mark.parametrize("sync", ["none", "batch", "commit"])
@pytest.mark.parametrize("seeds", drawn(3, 40))
def test_no_page_is_owned_twice_and_none_is_lost_in_a_full_store_that_is_killed_now_and_then(
    shelf: Path, message: Any, content: Any, sync: str, seeds: range, stack: ExitStack
) -> None:
    options = LmdbOptions.model_validate({"sync": sync, "codec": "raw"})
    for seed in seeds:
        draw = random.Random(f"{sync} {seed}")
        folder = shelf / f"{seed} 0"
        model = Model(stack.enter_context(open_backend(str(folder), CAPACITY, options)), draw, message, content)
        for life in range(1, 6):
            for _ in range(draw.randrange(4, 40)):
                model.step()
                model.check()
            for key, state in model.holds.items():
                assert model.read(key) == content(*state)
            killed = shelf / f"{seed} {life}"
            if draw.random() < 0.7:
                shutil.copytree(folder, killed)
            model.leave()
            model.backend.close()
            if killed.exists():
                shutil.rmtree(folder)
                folder = killed
            model.backend = stack.enter_context(open_backend(str(folder), CAPACITY, options))
            model.check()
        stack.close()
        shutil.rmtree(folder)
