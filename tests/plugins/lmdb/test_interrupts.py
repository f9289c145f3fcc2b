"""An interrupt at any opcode of any call: each chunk is the old or the new one, and the store is as whole as before."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.errors import LmsTiersError, StorageUnavailableError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.depth import drawn, some
from tests.plugins.lmdb.whole import assert_whole
from tests.tiered.interrupts import ROOT, interrupted

PLACES = (str(ROOT / "plugins/lmdb"),)
#: Chunks there before, by key and version; two of them lie in the index, where memory has not all of it.
BEFORE = {"0": 10, "1": 11, "2": 12, "3": 13}
VERSION = 99
LENGTH = 9000
CAPACITY = 1 << 20
STEPS = 12  # interrupts of a quick run
#: Opcodes from one interrupt of a deep run to the next.
STRIDE = int(os.environ.get("STRIDE", "7"))

Call = Callable[[LmdbBackend], object]


class Interrupts:
    """A store that is interrupted, looked at, closed, and looked at again."""

    def __init__(self, folder: Path, content: Callable[[int, int], bytearray], message: Callable[..., Any]) -> None:
        self._folder = folder
        self._content = content
        self._message = message
        self._made = 0

    def put(self, backend: LmdbBackend, name: str, version: int) -> None:
        """Put that version of a chunk."""
        backend.put(self._message(name, LENGTH), self._content(version, LENGTH))

    def opened(self, path: Path, options: dict[str, str]) -> LmdbBackend:
        """The store there."""
        return open_backend(str(path), CAPACITY, LmdbOptions.model_validate({"codec": "raw", **options}))

    def store(self, options: dict[str, str], reopened: bool) -> tuple[Path, LmdbBackend]:
        """A new store of `BEFORE`."""
        self._made += 1
        path = self._folder / f"store-{self._made}"
        backend = self.opened(path, options)
        for name, version in list(BEFORE.items())[:2]:
            self.put(backend, name, version)
        if reopened:
            backend.close()
            backend = self.opened(path, options)
        for name, version in list(BEFORE.items())[2:]:
            self.put(backend, name, version)
        backend.remove(OpaqueKey("3"))
        self.put(backend, "3", BEFORE["3"])
        return path, backend

    def version(self, backend: LmdbBackend, name: str) -> int | None:
        """Which version of a chunk is there; it is whole."""
        found = backend.get(OpaqueKey(name))
        if found is None:
            return None
        version = int.from_bytes(found.data[:8], "little")
        assert bytes(found.data) == bytes(self._content(version, LENGTH))
        return version

    def versions(self, backend: LmdbBackend) -> dict[str, int | None]:
        """Of all chunks that any call puts."""
        return {name: self.version(backend, name) for name in (*BEFORE, "8", "9")}


@pytest.fixture
def interrupts(shelf: Path, content: Callable[[int, int], bytearray], message: Callable[..., Any]) -> Interrupts:
    """Under a folder of the test."""
    return Interrupts(shelf, content, message)


def _calls(i: Interrupts) -> dict[str, Call]:
    def puts(names: Sequence[str]) -> Call:
        return lambda b: b.put_many([(i._message(name, LENGTH), i._content(VERSION, LENGTH)) for name in names])

    keys = [OpaqueKey(name) for name in ("1", "2", "9")]
    return {
        "put": puts(["9"]),
        "overwrite": puts(["1"]),
        "put_many": puts(["8", "1", "9", "2"]),
        "remove": lambda b: b.remove(keys[0]),
        "remove_many": lambda b: b.remove_many(keys),
        "get": lambda b: b.get(keys[0]),
        "get_many": lambda b: b.get_many(keys),
        "contains": lambda b: b.contains(keys[0]),
        "touch": lambda b: b.touch(keys),
        "flush": lambda b: b.flush(30),
        "scan": lambda b: list(b.scan()),
        "stats": lambda b: b.stats(),
        "shrink": lambda b: b.shrink(),
    }


#: What each call may leave of a chunk, beside what it was.
LEAVES: dict[str, dict[str, int | None]] = {
    "put": {"9": VERSION},
    "overwrite": {"1": VERSION},
    "put_many": dict.fromkeys(("8", "1", "9", "2"), VERSION),
    "remove": {"1": None},
    "remove_many": {"1": None, "2": None, "9": None},
}

CALLS = [*LEAVES, "get", "get_many", "contains", "touch", "flush", "scan", "stats", "shrink"]

OPTIONS: dict[str, dict[str, str]] = {
    "batch": {"sync": "batch"},
    "commit": {"sync": "commit"},
    "encoded": {"sync": "batch", "codec": "zstd"},
}


def _whole(i: Interrupts, backend: LmdbBackend, name: str) -> dict[str, int | None]:
    """Everything is accounted for, and each chunk as the call `name` may have left it."""
    before: dict[str, int | None] = {**BEFORE, "8": None, "9": None}
    assert backend.held()[1] == sum(info.stored_bytes for info in backend.scan())
    versions = i.versions(backend)
    for key, version in versions.items():
        assert version in (before[key], LEAVES.get(name, {}).get(key, before[key])), (key, version)
    assert not backend._store.calls.inside
    assert not backend._store._puts
    assert_whole(backend)
    return versions


def _interrupt(i: Interrupts, name: str, options: dict[str, str], reopened: bool, at: int) -> str:
    """Interrupt a call and look at what it left; where that was, empty where the call was over before."""
    path, backend = i.store(options, reopened)
    call = _calls(i)[name]
    try:
        with interrupted(at, PLACES) as interrupt:
            call(backend)
        where = interrupt.where
        versions = _whole(i, backend, name)
        if at % 2:  # else what is there is found again as the interrupt left it
            call(backend)
            _whole(i, backend, name)
            backend.remove_many(backend.list_keys())
            assert backend.held() == (0, 0), where
            versions = dict.fromkeys(versions)
            assert_whole(backend)
        assert backend._store.calls.wait(lambda: not backend._store.calls.inside, 0), where
        backend.close()
        with i.opened(path, options) as again:
            assert i.versions(again) == versions, where
            assert_whole(again)
    except BaseException as error:
        error.add_note(f"interrupt {at} at {interrupt.where}")
        raise
    finally:
        backend.close()
    return where


def _opcodes(i: Interrupts, call: Callable[[], object]) -> int:
    with interrupted(1 << 30, PLACES) as interrupt:
        call()
    return interrupt.passed


@pytest.mark.parametrize("reopened", [False, True], ids=["new", "reopened"])
@pytest.mark.parametrize("kind", some(OPTIONS, lambda kind: kind == "batch"))
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_interrupted_leaves_a_whole_store(
    interrupts: Interrupts, name: str, kind: str, reopened: bool
) -> None:
    _, backend = interrupts.store(OPTIONS[kind], reopened)
    total = _opcodes(interrupts, lambda: _calls(interrupts)[name](backend))
    backend.close()
    rng = random.Random(f"{name} {kind} {reopened}")
    chosen = sorted(rng.sample(range(1, total + 1), min(total, STEPS)))
    reached = [bool(_interrupt(interrupts, name, OPTIONS[kind], reopened, at)) for at in chosen]
    # Beside a checkpoint that is made just then a call takes some hundred steps more, or less, than the one counted.
    assert sum(reached) > len(reached) // 2


@pytest.mark.deep
@pytest.mark.parametrize("name", CALLS)
def test_a_call_may_be_interrupted_at_every_opcode(interrupts: Interrupts, name: str) -> None:
    at = 1
    while _interrupt(interrupts, name, OPTIONS["batch"], at % 3 == 0, at):
        at += STRIDE
    assert at > 50


def _close_interrupted(i: Interrupts, at: int) -> str:
    path, backend = i.store(OPTIONS["batch"], bool(at % 2))
    versions = i.versions(backend)
    with interrupted(at, PLACES) as interrupt:
        backend.close()
    try:
        backend.close()
        with i.opened(path, OPTIONS["batch"]) as again:
            assert i.versions(again) == versions
            assert_whole(again)
    except BaseException as error:
        error.add_note(f"interrupt {at} at {interrupt.where}")
        raise
    return interrupt.where


#: A file that was open just then is closed as the interrupt lets go of it.
_closes_late = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@_closes_late
def test_a_close_that_is_interrupted_is_finished_by_the_next(interrupts: Interrupts) -> None:
    _, backend = interrupts.store(OPTIONS["batch"], False)
    total = _opcodes(interrupts, backend.close)
    for at in sorted(random.Random("close").sample(range(1, total + 1), 3 * STEPS)):
        _close_interrupted(interrupts, at)


@_closes_late
@pytest.mark.deep
def test_a_close_may_be_interrupted_at_every_opcode(interrupts: Interrupts) -> None:
    at = 1
    while _close_interrupted(interrupts, at):
        at += STRIDE
    assert at > 1000


def test_a_put_that_fails_is_interrupted_while_it_gives_back_what_it_had(interrupts: Interrupts) -> None:
    _, backend = interrupts.store(OPTIONS["batch"], False)

    def fails(pieces: object) -> None:
        raise OSError("a medium that fails")

    backend._store.data.write = fails  # type: ignore[method-assign]
    put_many = _calls(interrupts)["put_many"]
    with contextlib.closing(backend):
        for at in itertools.count(1, 2 * STRIDE - 1):
            with interrupted(at, PLACES) as interrupt, contextlib.suppress(StorageUnavailableError):
                put_many(backend)
            _whole(interrupts, backend, "get")
            if not interrupt.where:
                break


@pytest.mark.parametrize("seeds", drawn(2, 40))
def test_a_store_outlives_any_number_of_interrupts(interrupts: Interrupts, seeds: range) -> None:
    for seed in seeds:
        with contextlib.ExitStack() as stack:
            rng = random.Random(seed)
            _, backend = interrupts.store(OPTIONS["batch"], bool(seed % 2))
            calls = _calls(interrupts)
            stack.callback(backend.close)
            for version in range(100, 140):
                before = interrupts.versions(backend)
                name = rng.choice(list(LEAVES))
                call = calls[name]
                if rng.random() < 0.5:
                    name = "one"
                    call = functools.partial(interrupts.put, name="1", version=version)
                with interrupted(rng.randrange(1, 2500), PLACES):
                    call(backend)
                left = {"1": version} if name == "one" else LEAVES[name]
                for key, found in interrupts.versions(backend).items():
                    assert found in (before[key], left.get(key, before[key])), (seed, name, key)
                assert_whole(backend)


def test_others_go_on_while_calls_are_interrupted(interrupts: Interrupts) -> None:
    _, backend = interrupts.store(OPTIONS["batch"], False)
    stop, wrong = threading.Event(), []

    def others() -> None:
        version = 1000
        while not stop.is_set():
            version += 1
            interrupts.put(backend, "other", version)
            found = interrupts.version(backend, "other")
            if found != version:
                wrong.append((found, version))

    thread = threading.Thread(target=others)
    thread.start()
    rng = random.Random("others")
    calls = list(_calls(interrupts).values())
    for _ in range(150):
        with interrupted(rng.randrange(1, 2500), PLACES), contextlib.suppress(LmsTiersError):
            rng.choice(calls)(backend)
    stop.set()
    thread.join()
    assert not wrong
    assert not backend._store.calls.inside
    assert_whole(backend)
    backend.close()


def test_a_checkpoint_that_was_interrupted_is_made_by_the_next(interrupts: Interrupts) -> None:
    _, backend = interrupts.store(OPTIONS["batch"], False)
    checkpoints: checkpoint.Checkpoints = backend._checkpoints
    total = _opcodes(interrupts, checkpoints.make)
    rng = random.Random("checkpoint")
    for version, at in enumerate(sorted(rng.sample(range(1, total + 1), 3 * STEPS)), 100):
        interrupts.put(backend, "1", version)
        with interrupted(at, PLACES):
            checkpoints.make()
        interrupts.put(backend, "2", version)
        assert (interrupts.version(backend, "1"), interrupts.version(backend, "2")) == (version, version)
        assert_whole(backend)
    backend.close()
