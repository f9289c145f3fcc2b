"""Closing waits for what is under way, and a store whose close gave up waiting is free once that ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lms_tiers.codecs.base import decode_into
from lms_tiers.errors import BackendClosedError, StorageLockedError
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import coding
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
        until(lambda: backend._tables._changed._waiters or not closing.is_alive())
        decode_into(*args, **named)

    monkeypatch.setattr(coding, "decode_into", decode_late)
    try:
        assert backend.get(KEY).data == DATA
    finally:
        closing.join()


def test_a_store_closed_while_a_chunk_is_decoded_says_that_it_is_closed(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opening(codec="zstd:1", threads=2)
    backend.put(message("k", len(DATA)), DATA)
    tables = backend._tables
    calling = tables.calling

    def closed_between() -> Any:
        # Its bytes are read, and nobody has begun to decode them.
        backend.close()
        return calling()

    monkeypatch.setattr(tables, "calling", closed_between)
    with pytest.raises(BackendClosedError):
        backend.get(KEY)


@pytest.mark.parametrize("held", ["call", "view", "both"])
def test_a_store_whose_close_gave_up_waiting_is_free_once_the_last_call_ends(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    backend = opening()
    backend.put(message("k", MIB), content(1, MIB))
    tables = backend._tables
    ends: list[int] = []
    finished = tables._closed

    def closed() -> None:
        ends.append(1)
        finished()

    monkeypatch.setattr(tables, "_closed", closed)
    monkeypatch.setattr(tables, "close", partial(tables.close, timeout=0.0))
    view = backend.view(KEY)
    if held != "call":
        lent = view.__enter__()
    if held != "view":
        tables.enter()
    backend.close()
    assert ends == []
    with pytest.raises(StorageLockedError):
        opening()
    if held != "view":
        tables.leave()
    if held == "both":
        assert ends == []
    if held != "call":
        assert b"".join(lent.buffers) == content(1, MIB)
        del lent
        view.__exit__(None, None, None)
    assert ends == [1]
    with opening() as backend:
        assert backend.get(KEY).data == content(1, MIB)
