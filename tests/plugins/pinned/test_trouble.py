"""`pinned` beside other threads, a failing copy, a closed backend, a fork."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lms_tiers.errors import (
    BackendClosedError,
    ForkedProcessError,
    InvalidBufferError,
    InvalidChunkError,
    StorageUnavailableError,
)
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.pinned.backend import PinnedBackend, PinnedOptions
from tests.plugins.arena_chunks import MIB, PAGE, close_beside_calls, key, message


def test_readers_and_writers_beside_each_other_see_whole_chunks_only() -> None:
    length = 100_000
    with PinnedBackend(8 * 25 * PAGE, PinnedOptions(threads=1)) as backend:
        wrong: list[str] = []
        start = threading.Barrier(4)

        def work(seed: int) -> None:
            rng = random.Random(seed)
            start.wait()
            for _ in range(150):
                name = rng.randrange(3)
                kind = rng.random()
                if kind < 0.35:
                    backend.put(message(name, length), bytearray([rng.randrange(256)]) * length)
                elif kind < 0.45:
                    backend.remove(key(name))
                elif kind < 0.8:
                    found = backend.get(key(name))
                    if found is not None and len(set(bytes(found.data))) != 1:
                        wrong.append("torn get")
                else:
                    with backend.view(key(name)) as view:
                        if view is not None and len(set(b"".join(view.buffers))) != 1:
                            wrong.append("torn view")

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        for name in range(3):
            backend.remove(key(name))
        gc.collect()
        assert backend.stats().bytes_used == 0


def test_no_lock_is_held_during_a_copy(pinned: PinnedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned.put(message("a", PAGE), bytearray(PAGE))
    copying, go_on = threading.Event(), threading.Event()
    original = pinned._copier.move

    def slow(*args: object) -> None:
        if threading.current_thread() is writer:
            copying.set()
            assert go_on.wait(30)
        original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pinned._copier, "move", slow)
    writer = threading.Thread(target=pinned.put, args=(message("b", PAGE), bytearray(PAGE)))
    writer.start()
    assert copying.wait(30)
    assert pinned.get(key("a")) is not None
    assert pinned.get(key("b")) is None
    pinned.remove(key("a"))
    go_on.set()
    writer.join()
    assert pinned.get(key("b")) is not None


def test_close_beside_running_calls_ends_them_typed_or_whole() -> None:
    assert not close_beside_calls(PinnedBackend(8 * MIB, PinnedOptions(threads=2)))


def test_a_failed_copy_keeps_the_old_chunk(pinned: PinnedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned.put(message("k", 10), bytearray(b"0123456789"))

    def broken(*args: object) -> None:
        raise RuntimeError("device lost\nlong trace")

    with monkeypatch.context() as patched:
        patched.setattr(pinned._copier, "move", broken)
        with pytest.raises(StorageUnavailableError, match=r"pinned: device lost$"):
            pinned.put(message("k", 20), bytearray(20))
        with pytest.raises(StorageUnavailableError):
            pinned.put_tensor(message("k", 20), torch.zeros(20, dtype=torch.uint8))
    found = pinned.get(key("k"))
    assert found is not None
    assert bytes(found.data) == b"0123456789"
    assert pinned.stats().bytes_used == PAGE


def test_a_source_that_changed_meanwhile_is_not_stored(pinned: PinnedBackend) -> None:
    source = LMSLocalBackend()
    source.put(message("k", 30), bytearray(30))
    pinned.put(message("k", 5), bytearray(b"older"))
    for other in (message("k", 29), message("k", 31), message("k", 30, torch.int8)):
        assert pinned.put_from([other], source) == [False]
    found = pinned.get(key("k"))
    assert found is not None
    assert bytes(found.data) == b"older"
    source.close()
    with pytest.raises(BackendClosedError):
        pinned.put_from([message("k", 30)], source)
    assert pinned.stats().bytes_used == PAGE


def test_destinations_that_do_not_fit_are_refused_untouched(pinned: PinnedBackend) -> None:
    pinned.put(message("k", 100), bytearray(b"x" * 100))
    small = bytearray(99)
    with pytest.raises(InvalidBufferError):
        pinned.get_into(key("k"), small)
    with pytest.raises(InvalidBufferError):
        pinned.get_scattered(key("k"), [small])
    with pytest.raises(InvalidBufferError):
        pinned.get_into(key("k"), b"read only" * 20)
    with pytest.raises(InvalidBufferError):
        pinned.get_tensor(key("k"), torch.empty(99, dtype=torch.uint8))
    assert small == bytearray(99)
    with pytest.raises(InvalidChunkError):
        pinned.put(message("k", 3), bytearray(4))
    pinned.remove(key("k"))
    assert pinned.stats().bytes_used == 0, "no lease was left behind"


def test_after_close_every_call_raises(pinned: PinnedBackend) -> None:
    pinned.put(message("k", 3), bytearray(b"abc"))
    pinned.close()
    pinned.close()
    calls: list[Callable[[], object]] = [
        lambda: pinned.put(message("k", 3), bytearray(b"abc")),
        lambda: pinned.get(key("k")),
        lambda: pinned.contains(key("k")),
        lambda: pinned.contains_prefix([key("k")]),
        lambda: pinned.list_keys(),
        lambda: pinned.remove(key("k")),
        lambda: pinned.stats(),
        lambda: pinned.get_into(key("k"), bytearray(3)),
        lambda: pinned.get_tensor(key("k")),
        lambda: pinned.put_tensor(message("k", 3), torch.zeros(3, dtype=torch.uint8)),
        lambda: list(pinned.scan()),
        lambda: pinned.stored_bytes(key("k")),
        lambda: pinned.view(key("k")).__enter__(),
    ]
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()


def test_a_forked_child_is_refused_and_the_parent_goes_on(pinned: PinnedBackend) -> None:
    pinned.put(message("k", 3), bytearray(b"abc"))
    found = pinned.get(key("k"))
    assert found is not None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            pinned.get(key("k"))
        except ForkedProcessError:
            status = 0 if bytes(found.data) == b"abc" else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    again = pinned.get(key("k"))
    assert again is not None
    assert bytes(again.data) == b"abc"


class Silent(LMSLocalBackend):
    """Answers for fewer chunks than it was asked for."""

    def get_many_into(self, requests: Any, **wanted: Any) -> list[Any]:
        return super().get_many_into(requests, **wanted)[:-1]


def test_pages_reserved_for_a_source_that_answers_for_too_few_come_back() -> None:
    with PinnedBackend(MIB, PinnedOptions()) as backend, Silent() as source:
        for i in range(3):
            source.put(message(i, PAGE), bytearray(PAGE))
        with pytest.raises(StorageUnavailableError, match="2 chunks of 3"):
            backend.put_from([message(i, PAGE) for i in range(3)], source)
        assert backend.stats().bytes_used == 0
        assert not backend.list_keys()


def test_a_view_that_could_not_be_made_holds_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(nbytes: int) -> None:
        raise MemoryError

    with PinnedBackend(MIB, PinnedOptions()) as backend:
        backend.put(message("k", PAGE), bytearray(PAGE))
        with monkeypatch.context() as patch:
            patch.setattr("lms_tiers.plugins.pinned.backend.byte_array", no_memory)
            with pytest.raises(MemoryError), backend.view(key("k")):
                pass
        backend.remove(key("k"))
        assert backend.stats().bytes_used == 0
