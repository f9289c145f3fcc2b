"""Wherever a thread of the store is when another one gives it work or closes the store, work is done and threads end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint, cooling
from lms_tiers.plugins.lmdb.backend import LmdbBackend, open_backend
from lms_tiers.plugins.lmdb.options import LmdbOptions
from tests.plugins.lmdb.waiting import until
from tests.stepping import each_stop, until_it_waits

Open = Callable[..., Any]


def strides(quick: int, deep: int) -> pytest.MarkDecorator:
    """Every so many opcodes are stopped at."""
    return pytest.mark.parametrize("stride", [quick, pytest.param(deep, marks=pytest.mark.deep)], ids=["some", "most"])


@pytest.fixture
def opening(shelf: Path) -> Iterator[Open]:
    """Open a store in memory; closed at the end."""
    with ExitStack() as stack:

        def open_(name: str, **options: Any) -> LmdbBackend:
            options.setdefault("codec", "raw")
            backend = open_backend(str(shelf / name), 4 << 20, LmdbOptions(**options))
            stack.callback(backend.close)
            return backend

        yield open_


def put(backend: Any, message: Any, content: Any, number: int) -> None:
    backend.put(message(number, 5000), content(number, 5000))


def holds(backend: Any, content: Any, *numbers: int) -> bool:
    return all(backend.get(OpaqueKey(str(n))).data == content(n, 5000) for n in numbers)


def checkpointing(opening: Open, name: str, message: Any, content: Any, stop: Any) -> Any:
    """A store with a change that is about to be taken into the index."""
    backend = opening(name, sync="none")
    stop.arm()
    put(backend, message, content, 1)
    return backend


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)


CHECKPOINT = (checkpoint.__file__, ("_run", "make", "_frozen", "_commit", "_apply", "_renew", "_pressing", "<lambda>"))


@strides(17, 3)
@pytest.mark.usefixtures("_at_once")
def test_a_checkpoint_takes_in_what_is_put_wherever_it_is(
    opening: Open, message: Any, content: Any, stride: int
) -> None:
    for stop in each_stop(*CHECKPOINT, "lms-tiers-lmdb-checkpoint", stride=stride, armed=False):
        name = f"store{stop.nth}"
        with checkpointing(opening, name, message, content, stop) as backend:
            store = backend._store
            stop.beside(partial(put, backend, message, content, 2))
            until(lambda store=store: not (store.dirty or store.committing))  # type: ignore[misc]  # bound here
            assert holds(backend, content, 1, 2)


@strides(17, 3)
@pytest.mark.usefixtures("_at_once")
def test_a_close_finds_the_checkpoint_wherever_it_is(opening: Open, message: Any, content: Any, stride: int) -> None:
    for stop in each_stop(*CHECKPOINT, "lms-tiers-lmdb-checkpoint", stride=stride, armed=False):
        name = f"store{stop.nth}"
        stop.beside(checkpointing(opening, name, message, content, stop).close)
    with opening(name) as again:
        assert holds(again, content, 1)


def test_a_stop_rouses_the_checkpoints_thread_by_itself(opening: Open) -> None:
    with opening("store") as backend:
        checkpoints, store = backend._checkpoints, backend._store
        until_it_waits(checkpoints._thread)
        stopping = threading.Thread(target=checkpoints.stop)
        stopping.start()
        stopping.join(60)
        left_asleep = stopping.is_alive()
        with store.lock:
            store.changed.wake()  # so that it ends, whatever came of it
        stopping.join()
        assert not left_asleep


def flushing(opening: Open, stop: Any, message: Any, content: Any) -> tuple[Any, threading.Thread]:
    """A store with a chunk, and a thread that waits for it to be on the medium."""
    backend = opening(f"store{stop.nth}", sync="batch")
    put(backend, message, content, 1)
    thread = threading.Thread(target=backend.flush)
    thread.start()
    return backend, thread


SYNCING = (checkpoint.__file__, ("_round",))


@strides(7, 2)
def test_a_flush_is_served_wherever_the_syncing_thread_is(
    opening: Open, message: Any, content: Any, stride: int
) -> None:
    for stop in each_stop(*SYNCING, "lms-tiers-lmdb-sync", stride=stride):
        backend, thread = flushing(opening, stop, message, content)

        def both(backend: Any = backend) -> None:
            put(backend, message, content, 2)
            backend.flush(60)

        with backend:
            stop.beside(both)
            thread.join(60)
            assert not thread.is_alive()
            assert backend._store.pages.synced == backend._store.journal.position


@strides(7, 2)
def test_a_close_finds_the_syncing_thread_wherever_it_is(
    opening: Open, message: Any, content: Any, stride: int
) -> None:
    for stop in each_stop(*SYNCING, "lms-tiers-lmdb-sync", stride=stride):
        backend, thread = flushing(opening, stop, message, content)
        stop.beside(backend.close)
        thread.join(60)
        assert not thread.is_alive()


COOLING = (cooling.__file__, ("_run", "_round", "_encoded", "_replace"))


@strides(41, 7)
def test_a_close_finds_the_encoding_of_cold_chunks_wherever_it_is(
    opening: Open, message: Any, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    monkeypatch.setattr(cooling, "FULL", 0.0)
    soft = bytearray(bytes(range(64)) * 320)
    for stop in each_stop(*COOLING, "lms-tiers-lmdb-cooling", stride=stride):
        name = f"store{stop.nth}"
        backend = opening(name, codec="auto", sync="none")
        backend.put(message(1, len(soft)), soft)
        stop.beside(backend.close)
        assert not backend._cooling._thread.is_alive()
    with opening(name) as again:
        assert again.get(OpaqueKey("1")).data == soft
