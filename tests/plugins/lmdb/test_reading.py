"""Manifests that are remembered: only as long as the file is what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import reading

KIB = 1 << 10
KEY = OpaqueKey("k")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys whose manifests were looked up."""
    keys: list[bytes] = []
    find = reading.find

    def noting(txn: Any, tables: Any, key: bytes, *rest: Any) -> Any:
        keys.append(key)
        return find(txn, tables, key, *rest)

    monkeypatch.setattr(reading, "find", noting)
    return keys


def test_a_chunk_read_again_is_not_looked_up_until_something_is_committed(
    opening: Callable[..., Any], message: Any, content: Any, found: list[bytes]
) -> None:
    size = 100 * KIB
    with opening() as backend:
        backend.put(message("k", size), content(1, size))
        for _ in range(3):
            assert backend.get(KEY).data == content(1, size)
        assert found == [b"k"]
        backend.put(message("other", 10), content(2, 10))
        for _ in range(3):
            assert backend.get(KEY).data == content(1, size)
        assert found == [b"k", b"k"]


def test_what_replaced_or_removed_a_remembered_chunk_is_seen_at_once(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening() as backend:
        for generation in range(20):
            size = 50 * KIB + generation
            backend.put(message("k", size), content(generation, size))
            assert backend.get(KEY).data == content(generation, size)
            if generation % 3 == 0:
                backend.remove(KEY)
                assert backend.get(KEY) is None


def test_no_more_manifests_are_remembered_than_a_few_hundred(
    opening: Callable[..., Any], message: Any, content: Any, found: list[bytes]
) -> None:
    names = [str(number) for number in range(600)]
    with opening() as backend:
        backend.put_many([(message(name, 20), content(int(name), 20)) for name in names])
        for name in names:
            assert backend.get(OpaqueKey(name)).data == content(int(name), 20)
        assert len(found) == 600
        assert len(backend._recent._known) <= 256


def test_a_chunk_without_bytes_is_read_into_any_buffer(opening: Callable[..., Any], message: Any) -> None:
    with opening() as backend:
        backend.put(message("k", 0), bytearray())
        for buffer in (bytearray(), np.empty((0, 3), np.float32), bytearray(8)):
            assert backend.get_into(KEY, buffer).length == 0
