"""Closing waits for what is under way; the files are closed only once nobody is inside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers.codecs.base import decode_into
from lms_tiers.errors import BackendClosedError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import coding
from lms_tiers.plugins.lmdb import listing as listing_module
from tests.plugins.lmdb.waiting import until

MIB = 1 << 20
KEY = OpaqueKey("k")
DATA = bytearray(bytes(range(64)) * (4 * MIB // 64))


def test_closing_waits_for_a_chunk_that_is_being_decoded(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opening(codec="zstd:1", threads=2)
    backend.put(message("k", len(DATA)), DATA)
    closing = threading.Thread(target=backend.close)

    def decode_late(*args: Any, **named: Any) -> None:
        closing.start()
        # Either it waits for us, or it has ended the threads that are to help.
        until(lambda: backend._store.calls._waiting or not closing.is_alive())
        decode_into(*args, **named)

    monkeypatch.setattr(coding, "decode_into", decode_late)
    try:
        assert backend.get(KEY).data == DATA
    finally:
        closing.join()


def test_closing_waits_for_a_read_and_for_a_put_and_what_comes_later_is_refused(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    backend = opening()
    backend.put(message("k", MIB), content(1, MIB))
    readv, write = backend._store.data.readv, backend._store.data.write
    inside, go = threading.Semaphore(0), threading.Event()

    def slowly(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            inside.release()
            assert go.wait(30)
            return call(*args)

        return called

    backend._store.data.readv, backend._store.data.write = slowly(readv), slowly(write)
    answers: list[Any] = []
    calls: list[Callable[[], Any]] = [
        lambda: answers.append(backend.get(KEY)),
        lambda: backend.put(message("new", 100), content(2, 100)),
    ]
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
        assert inside.acquire(timeout=30)
    closing = threading.Thread(target=backend.close)
    closing.start()
    until(lambda: backend._store.calls._waiting)
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()
    assert closing.is_alive()
    go.set()
    for thread in (*threads, closing):
        thread.join()
    assert answers[0].data == content(1, MIB)
    with opening() as again:
        assert again.get(OpaqueKey("new")).data == content(2, 100)


def test_a_listing_that_is_held_does_not_keep_a_store_from_closing(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "BATCH", 3)
    with opening() as backend:
        backend.put_many([(message(n, 100), content(n, 100)) for n in range(10)])
    backend = opening()
    listing, view = backend.iter_keys(), backend.view(OpaqueKey("3"))
    next(listing)
    with view as lent:
        backend.close()
        assert bytes(lent.buffers[0]) == content(3, 100)
    with pytest.raises(BackendClosedError):
        list(listing)
