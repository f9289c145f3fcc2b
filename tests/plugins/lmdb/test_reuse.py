"""Pages that are given up while somebody reads them: the right bytes or a miss, and never called damage."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lms_conformance.preempt import Turns

import lms_tiers.plugins.lmdb
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import pages

KIB = 1 << 10
KEY = OpaqueKey("k")
FILES = (str(Path(lms_tiers.plugins.lmdb.__file__).parent),)
SEEDS = int(os.environ.get("SCHEDULES", "60"))


class Stopped:
    """`readv` of a store's file that stops the first reader before it reads, until `go`."""

    def __init__(self, backend: Any) -> None:
        self.there, self.go = threading.Event(), threading.Event()
        self._readv = backend._store.data.readv
        self._first = True
        backend._store.data.readv = self

    def __call__(self, *args: Any) -> bool:
        if self._first:
            self._first = False
            self.there.set()
            assert self.go.wait(30)
        return bool(self._readv(*args))


def read_apart(backend: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(backend.get(KEY)))
    thread.start()
    return thread, answers


@pytest.mark.parametrize("change", ["removed", "overwritten"])
def test_a_reader_between_manifest_and_read_keeps_its_pages_from_being_used_again(
    opening: Callable[..., Any], message: Any, content: Any, change: str
) -> None:
    size = 256 * KIB
    with opening(capacity=4 << 20) as backend:
        backend.put(message("k", size), content(1, size))
        (page, count), *_ = backend._store.chunk("k").extents
        stopped = Stopped(backend)
        thread, answers = read_apart(backend)
        assert stopped.there.wait(30)
        if change == "removed":
            backend.remove(KEY)
        else:
            backend.put(message("k", size), content(2, size))
        for number in range(6):
            backend.put(message(number, size), content(number, size))
            taken = backend._store.chunk(str(number)).extents
            assert all(start + n <= page or start >= page + count for start, n in taken)
        stopped.go.set()
        thread.join()
        assert answers[0].data == content(1, size)
        backend.put(message("after", size), content(9, size))
        taken = backend._store.chunk("after").extents
        assert taken == [(page, count)], "nobody is left who may read it"
        assert backend.stats().corrupt == 0


@pytest.mark.parametrize("change", ["removed", "overwritten"])
def test_a_reader_that_lost_the_race_looks_again_before_it_calls_anything_damaged(
    opening: Callable[..., Any], message: Any, content: Any, change: str
) -> None:
    size = 256 * KIB
    with opening(capacity=4 << 20) as backend:
        backend.put(message("k", size), content(1, size))
        stopped = Stopped(backend)
        thread, answers = read_apart(backend)
        assert stopped.there.wait(30)
        backend._store.calls.inside.clear()  # as if nobody were inside
        if change == "removed":
            backend.remove(KEY)
        else:
            backend.put(message("k", size), content(2, size))
        for number in range(6):
            backend.put(message(number, size), content(number, size))
        stopped.go.set()
        thread.join()
        if change == "removed":
            assert answers == [None]
        else:
            assert answers[0].data == content(2, size)
        assert backend.stats().corrupt == 0


@pytest.mark.parametrize("block", range(4))
def test_readers_and_writers_that_take_turns_between_opcodes(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(pages, "PATIENCE", 0.01)
    sizes = [3 * KIB, 40 * KIB]
    for seed in range(block, SEEDS, 4):
        with opening(f"store {seed}", capacity=1 << 20, sync="none") as backend:
            for number in range(3):
                backend.put(message(number, sizes[0]), content(number, sizes[0]))
            turns = Turns(FILES, 3, random.Random(seed))
            wrong: list[Any] = []

            def reading(backend: Any = backend, wrong: list[Any] = wrong) -> None:
                buffers = [bytearray(sizes[1]) for _ in range(3)]
                for _ in range(3):
                    found = backend.get_many_into([(OpaqueKey(str(n)), [buffers[n]]) for n in range(3)])
                    for number, meta in enumerate(found):
                        if meta is not None and all(
                            buffers[number][: meta.length] != content(number + 10 * put, meta.length)
                            for put in range(4)
                        ):
                            wrong.append((number, meta))

            def changing(backend: Any = backend) -> None:
                for put in range(1, 4):
                    for number in range(3):
                        size = sizes[put % 2]
                        backend.put(message(number, size), content(number + 10 * put, size))
                    backend.remove(OpaqueKey(str(put % 3)))
                    if put == 2:
                        backend._checkpoints.make()

            def working(me: int, call: Callable[[], None], turns: Turns = turns, wrong: list[Any] = wrong) -> None:
                try:
                    with turns.of(me):
                        call()
                except BaseException as error:
                    wrong.append(error)

            threads = [
                threading.Thread(target=working, args=(me, call))
                for me, call in enumerate([reading, reading, changing])
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong, f"seed {seed}: {wrong}"
            assert backend.stats().corrupt == 0, f"seed {seed}"


def test_a_chunk_that_is_overwritten_is_there_at_every_moment(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    """Between any two opcodes of the overwriting put."""
    for seed in range(SEEDS // 2):
        with opening(f"store {seed}", capacity=2 << 20, sync="none") as backend:
            backend.put(message("k", KIB), content(0, KIB))
            turns = Turns(FILES, 2, random.Random(seed))
            wrong: list[Any] = []

            def reading(backend: Any = backend, turns: Turns = turns, wrong: list[Any] = wrong) -> None:
                with turns.of(0):
                    wrong.extend(1 for _ in range(12) if not backend.contains(KEY))

            def changing(backend: Any = backend, turns: Turns = turns) -> None:
                with turns.of(1):
                    for put in range(1, 4):
                        backend.put(message("k", KIB), content(put, KIB))

            threads = [threading.Thread(target=call) for call in (reading, changing)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong, f"seed {seed}"
