"""Many chunks at once: few commits, and in order whatever fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lms_tiers.errors import BackendClosedError, InvalidChunkError
from lms_tiers.messages import OpaqueKey

KIB, MIB = 1 << 10, 1 << 20


def test_chunks_that_come_slowly_are_committed_together(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening() as backend:
        before = backend.stats().detail["commits"]

        def slowly() -> Iterator[Any]:
            for number in range(100):
                # Whatever the writer was given so far is committed now.
                backend._barrier()
                yield message(number, 100 * KIB), content(number, 100 * KIB)

        backend._storing.put_many(slowly())
        assert backend.stats().keys == 100
        assert backend.stats().detail["commits"] - before <= 4


def test_what_came_before_a_chunk_that_is_refused_is_stored(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening() as backend:
        items = [(message(number, 10 * KIB), content(number, 10 * KIB)) for number in range(10)]
        items[6] = (message(6, 11 * KIB), items[6][1])
        with pytest.raises(InvalidChunkError):
            backend.put_many(items)
        assert sorted(key.to_string() for key in backend.list_keys()) == [str(number) for number in range(6)]


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
def test_a_store_that_closes_under_a_batch_gives_every_buffer_back(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    with opening(codec=codec) as backend:
        taken: list[int] = []
        pool = backend._coding.pool
        take, give = pool.take, pool.give

        def taking(nbytes: int) -> Any:
            taken.append(1)
            return take(nbytes)

        def giving(buffer: bytearray) -> None:
            taken.append(-1)
            give(buffer)

        monkeypatch.setattr(pool, "take", taking)
        monkeypatch.setattr(pool, "give", giving)

        def closing() -> Iterator[Any]:
            for number in range(100):
                if number == 50:
                    backend._writer.stop()
                yield message(number, 256 * KIB), bytearray(content(number, 128 * KIB) + bytes(128 * KIB))

        with pytest.raises(BackendClosedError):
            backend._storing.put_many(closing())
        assert sum(taken) == 0
        assert backend.get(OpaqueKey("0")) is not None
