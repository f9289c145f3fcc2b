"""Many chunks at once: one write for neighbours and one record write, and in order whatever fails."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lms_tiers.errors import CapacityError, InvalidChunkError, StorageFullError, StorageUnavailableError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import checkpoint
from lms_tiers.plugins.lmdb.directory import DATA_FILE
from lms_tiers.plugins.lmdb.recovery import Contents, _add_data
from tests.plugins.lmdb.waiting import until
from tests.plugins.lmdb.whole import assert_whole

KIB, MIB = 1 << 10, 1 << 20


def test_a_batch_is_one_write_of_bytes_and_one_of_records(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str) -> Callable[..., int]:
        real = getattr(os, name)

        def called(*args: Any) -> int:
            done.append(name)
            return int(real(*args))

        return called

    for name in ("pwritev", "pwrite"):
        monkeypatch.setattr(os, name, noted(name))
    with opening(sync="none") as backend:
        items = [(message(n, 100 * KIB), content(n, 100 * KIB)) for n in range(32)]
        done.clear()
        backend.put_many(items)
        assert done == ["pwritev", "pwrite"]
        done.clear()
        backend.put(message("k", 10), content(1, 10))
        assert done == ["pwritev", "pwrite"]
        assert [obj.data for obj in backend.get_many([m.key for m, _ in items])] == [data for _, data in items]


@pytest.mark.parametrize(("other", "waits"), [(sys.maxsize, False), (0, True)], ids=["another batch", "a reader"])
def test_a_batch_gives_way_to_readers_and_not_to_other_batches(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, other: int, waits: bool
) -> None:
    pauses: list[float] = []
    with opening() as backend:
        monkeypatch.setattr("lms_tiers.plugins.lmdb.calls.time.sleep", pauses.append)
        backend._store.calls.inside[-1] = other  # as `calls.calling` and `calls.reading` enter
        try:
            backend.put_many([(message(n, 10 * KIB), content(n, 10 * KIB)) for n in range(4)])
        finally:
            backend._store.calls.leave(-1)
    assert bool(pauses) is waits


def test_of_equal_keys_in_one_batch_the_last_one_stays(opening: Callable[..., Any], message: Any, content: Any) -> None:
    with opening() as backend:
        backend.put_many([(message("k", 5000 + n), content(n, 5000 + n)) for n in range(5)])
        assert backend.get(OpaqueKey("k")).data == content(4, 5004)
        assert backend.held()[0] == 1
        backend.remove(OpaqueKey("k"))
        assert backend.held() == (0, 0)


def test_what_came_before_a_chunk_that_is_refused_is_stored(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening() as backend:
        items = [(message(number, 10 * KIB), content(number, 10 * KIB)) for number in range(10)]
        items[6] = (message(6, 11 * KIB), items[6][1])
        with pytest.raises(InvalidChunkError):
            backend.put_many(items)
        assert sorted(key.to_string() for key in backend.list_keys()) == [str(number) for number in range(6)]


def test_more_chunks_than_are_borrowed_at_once_move_from_one_store_to_another(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    metas = [message(number, 100) for number in range(600)]
    with opening("source") as source, opening("target") as target:
        source.put_many([(meta, content(number, 100)) for number, meta in enumerate(metas)])
        assert target.put_from([*metas, message("absent", 100)], source) == [True] * 600 + [False]
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


@pytest.mark.parametrize("call", ["pwritev", "pwrite"])
def test_a_write_that_fails_changes_nothing_and_its_pages_come_back(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with opening() as backend:
        backend.put(message("k", 50 * KIB), content(1, 50 * KIB))
        before = backend.held(), backend._store.pages.room.backed - backend._store.pages.room.free.pages

        def full(*args: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(StorageFullError):
                backend.put(message("k", 60 * KIB), content(2, 60 * KIB))
            with pytest.raises(StorageFullError):
                backend.put_many([(message(n, KIB), content(n, KIB)) for n in range(5)])
        assert (backend.held(), backend._store.pages.room.backed - backend._store.pages.room.free.pages) == before
        assert backend.get(OpaqueKey("k")).data == content(1, 50 * KIB)
        assert backend.stats().failures >= 2
        backend.put(message("k", 60 * KIB), content(2, 60 * KIB))
        assert backend.get(OpaqueKey("k")).data == content(2, 60 * KIB)


@pytest.mark.parametrize("punches", [True, False])
def test_a_put_that_did_not_happen_leaves_no_record_in_its_pages(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, punches: bool
) -> None:
    """One that does would be taken for a chunk where the index is lost."""
    with opening() as backend:
        backend.put(message("a", 5000), content(1, 5000))
        if not punches:
            monkeypatch.setattr(backend._store.data, "punch", lambda page, count: False)

        def refuse(records: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as failing:
            failing.setattr(backend._store.journal, "append", refuse)
            with pytest.raises(StorageUnavailableError):
                backend.put(message("b", 5000), content(2, 5000))
        found = Contents("data")
        _add_data(found, backend._path / DATA_FILE, backend._store.seed)
        assert list(found.records) == ["a"]
        assert_whole(backend)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whatever_ends_a_batch_gives_back_what_was_borrowed(
    opening: Callable[..., Any], message: Any, content: Any, error: type[BaseException]
) -> None:
    with opening(codec="zstd:1") as backend:

        def ending() -> Iterator[Any]:
            for number in range(40):
                if number == 25:
                    raise error
                yield message(number, 256 * KIB), [bytearray(content(number, 128 * KIB) + bytes(128 * KIB))]

        with pytest.raises(error):
            backend._writer.put_many(ending())
        assert backend._memory.lent_bytes == 0
        charged = sum(backend.stored_bytes(key) for key in backend.list_keys())
        assert backend.held() == (len(backend.list_keys()), charged)


def test_records_of_a_batch_longer_than_a_journal_are_written_in_turns(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    names = [f"{number:03}" + "k" * 1000 for number in range(150)]
    with opening(capacity=16 << 20) as backend:
        backend.put_many([(message(name, 10), content(n, 10)) for n, name in enumerate(names)])
        assert [obj.data for obj in backend.get_many([OpaqueKey(name) for name in names])] == [
            content(n, 10) for n in range(150)
        ]
        backend.remove_many([OpaqueKey(name) for name in names])
        assert backend.held() == (0, 0)


def test_a_change_reaches_the_index_by_itself_after_a_while(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.01)
    with opening() as backend:
        for generation in range(3):
            backend.put(message("k", 10), content(generation, 10))
            until(lambda: backend._checkpoints.made and not backend._store.dirty)
        backend.touch([OpaqueKey("k")])
        until(lambda: not backend._store.uses)


def test_a_put_that_finds_the_journal_full_makes_the_checkpoint_itself(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening(sync="none") as backend:
        backend._checkpoints.stop()
        count = 2 * backend._store.budget.journal // 150
        for begin in range(0, count, 50):
            backend.put_many([(message(n, 10), content(n, 10)) for n in range(begin, begin + 50)])
        assert backend._checkpoints.made > 0

        def fails(*_: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(backend._store.index, "apply", fails)
        items = [(message(n, 10), content(n, 10)) for n in range(count)]
        with pytest.raises(StorageUnavailableError, match="the index cannot be written"):
            backend.put_many(items)
        monkeypatch.undo()
        backend.put(message("k", 10), content(1, 10))
        assert backend.get(OpaqueKey("k")).data == content(1, 10)
