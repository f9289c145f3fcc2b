"""LMDB has 510 slots for readers: what happens where all are taken, and that nobody takes them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lmdb
import pytest

from lms_tiers.errors import CapacityError, StorageUnavailableError
from lms_tiers.messages import OpaqueKey
from tests.plugins.lmdb.waiting import until

KEY = OpaqueKey("new")


@contextmanager
def every_slot(backend: Any) -> Iterator[None]:
    """No reader slot is free meanwhile."""
    begin = backend._tables.env.begin
    with ExitStack() as taken:
        free = True
        while free:
            try:
                taken.callback(begin().abort)
            except lmdb.ReadersFullError:
                free = False
        yield


def test_a_checkpoint_that_finds_no_reader_slot_fails_no_put_and_is_made_at_the_next_flush(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening(sync="batch") as backend:
        backend.put(message("old", 100), content(1, 100))
        backend.flush()
        with every_slot(backend):
            backend._writer._due = 0.0  # the put finds that a checkpoint is due
            backend.put(message("new", 100), content(2, 100))
            assert backend._checkpoints.failures == 1
            # It is asked for again later, not at once and for ever.
            assert backend._writer._patience() > 0
            with pytest.raises(StorageUnavailableError):
                backend.flush(30)
        assert backend.get(KEY).data == content(2, 100)
        backend.flush(30)
        assert backend._checkpoints._kept.transaction == backend._writer.counters.transaction
        assert backend.stats().failures == 0


def test_a_checkpoint_that_cannot_be_asked_for_takes_nothing_from_the_one_being_made(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening(sync="batch") as backend:
        checkpoints = backend._checkpoints
        keep, go = checkpoints._keep, threading.Event()
        failures: list[BaseException] = []

        def slowly(meta: bytes) -> None:
            go.wait(30)
            keep(meta)

        def flush() -> None:
            try:
                backend.flush(30)
            except BaseException as error:
                failures.append(error)

        backend.put(message("new", 100), content(2, 100))
        backend.flush()
        monkeypatch.setattr(checkpoints, "_keep", slowly)
        backend.put(message("new", 100), content(3, 100))
        flushing = threading.Thread(target=flush)
        flushing.start()
        try:
            until(lambda: bool(checkpoints._working))
            with every_slot(backend):
                later = checkpoints.mark()
            until(lambda: bool(checkpoints._wake._waiters))
        finally:
            go.set()
            flushing.join()
        assert failures == []
        assert later == backend._writer.counters.transaction
        assert checkpoints.failed


def test_more_chunks_than_reader_slots_move_from_one_store_to_another(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    metas = [message(number, 100) for number in range(600)]
    with opening("source") as source, opening("target") as target:
        source.put_many([(meta, content(number, 100)) for number, meta in enumerate(metas)])
        wanted = [*metas, message("absent", 100)]
        held: list[bool] = []
        moving = threading.Thread(target=lambda: held.extend(target.put_from(wanted, source)), daemon=True)
        moving.start()
        moving.join(30)
        assert held == [True] * 600 + [False]
        for number in range(600):
            assert target.get(OpaqueKey(str(number))).data == content(number, 100)


def test_of_chunks_lent_by_another_store_those_before_one_that_fails_are_stored(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    size = 100 << 10
    metas = [message(number, size) for number in range(100)]
    with opening("source") as source, opening("target", capacity=5 << 20) as target:
        source.put_many([(meta, content(number, size)) for number, meta in enumerate(metas)])
        with pytest.raises(CapacityError):
            target.put_from(metas, source)
        held = sorted(int(key.to_string()) for key in target.list_keys())
        assert held == list(range(len(held)))
        assert len(held) > 32
