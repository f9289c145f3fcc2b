"""A chunk whose codec is not installed is a miss that is kept: it reads again when the codec is back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers.codecs.catalog import Catalog
from lms_tiers.errors import CodecError
from lms_tiers.messages import OpaqueKey

SIZE = 100_000
DATA = bytes(range(256)) * 400  # compresses well
KEY = OpaqueKey("k")


def put(backend: Any, message: Any) -> None:
    backend.put(message("k", SIZE), bytearray(DATA[:SIZE]))
    backend.put(message("raw", 10), bytearray(b"0123456789"))


@pytest.mark.parametrize("gone", ["codec", "layout"])
def test_a_chunk_of_a_codec_that_is_gone_is_a_miss_and_comes_back_with_it(
    opening: Callable[..., Any],
    message: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gone: str,
) -> None:
    with opening(codec="zstd:1") as backend:
        put(backend, message)
        assert backend.get(KEY).data == DATA[:SIZE]
        charge = backend.stored_bytes(KEY)
        assert charge < SIZE

    def missing(self: Any, layout: str) -> Any:
        raise CodecError(layout, "the codec that wrote it is not installed.")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        if gone == "codec":
            patch.setattr(Catalog, "reader", missing)
        else:
            from lms_tiers.codecs.zstd import ZstdCodec

            patch.setattr(ZstdCodec, "open", missing)
        with opening(codec="raw") as backend:
            room = bytearray(SIZE)
            assert not backend.contains(KEY)
            assert backend.get(KEY) is None
            assert backend.get_into(KEY, room) is None
            assert backend.get_scattered(KEY, [room]) is None
            with backend.view(KEY) as view:
                assert view is None
            assert room == bytes(SIZE)
            assert [k.to_string() for k in backend.list_keys()] == ["raw"]
            assert [info.key.to_string() for info in backend.scan()] == ["raw"]
            assert backend.stored_bytes(KEY) == charge
            stats = backend.stats()
            assert stats.corrupt == 0
            assert stats.detail["unreadable"] == 4
            assert stats.keys == 2
    assert [r.getMessage() for r in caplog.records if "kept" in r.getMessage()] != []
    assert len([r for r in caplog.records if "zstd" in r.getMessage()]) == 1
    with opening(codec="raw") as backend:
        assert backend.contains(KEY)
        assert backend.get(KEY).data == DATA[:SIZE]


def test_an_unreadable_chunk_can_be_overwritten_and_removed(
    opening: Callable[..., Any], message: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening(codec="zstd:1") as backend:
        put(backend, message)
        backend.put(message("other", SIZE), bytearray(DATA[:SIZE]))
    with opening(codec="raw") as backend:
        monkeypatch.setattr(backend._coding, "reads", lambda layout: not layout)
        backend.put(message("k", 3), bytearray(b"new"))
        backend.remove(OpaqueKey("other"))
        assert backend.get(KEY).data == b"new"
        assert backend.stats().keys == 2
