"""Listing a store: in batches, each key once, in the order of use, whatever happens between two batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.lmdb import listing


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "BATCH", 7)
    monkeypatch.setattr(listing, "WALKED", 7)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 14, 100])
def test_every_key_is_listed_once_and_scanned_in_the_order_of_use(
    opening: Callable[..., Any], message: Any, content: Any, count: int
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100), content(n, 100)) for n in range(count)])
        order = list(range(count))
        draw = random.Random(count)
        for _ in range(3):
            used = draw.sample(order, len(order) // 3)
            backend.touch([OpaqueKey(str(n)) for n in used])
            order = [n for n in order if n not in set(used)] + used
    with opening() as backend:
        assert sorted(int(k.to_string()) for k in backend.list_keys()) == list(range(count))
        assert [int(info.key.to_string()) for info in backend.scan()] == order


def test_a_list_asks_the_index_for_a_batch_at_a_time(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100), content(n, 100)) for n in range(50)])
    with opening() as backend:
        items, steps = backend._store.index.items, []

        def counted(step: int) -> Iterator[Any]:
            for batch in items(step):
                steps.append(len(batch))
                yield batch

        monkeypatch.setattr(backend._store.index, "items", counted)
        stream = backend.iter_keys()
        next(stream)
        assert steps == [7]
        assert len(list(stream)) == 49
        assert steps == [7] * 7 + [1]


@pytest.mark.parametrize("asked", [False, True])
def test_a_walk_rests_after_each_look_at_which_others_called(
    opening: Callable[..., Any], message: Any, content: Any, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100), content(n, 100)) for n in range(20)])
    with opening() as backend:
        items = backend._store.index.items
        rests: list[float] = []

        def met(step: int) -> Iterator[Any]:
            for batch in items(step):
                assert not asked or backend.contains(OpaqueKey("3"))
                yield batch

        monkeypatch.setattr(backend._store.index, "items", met)
        monkeypatch.setattr(listing, "time", SimpleNamespace(sleep=rests.append))
        assert len(list(backend.scan())) == 20
        assert len(rests) == (3 if asked else 0)


def test_what_is_removed_and_put_while_a_list_is_read_spoils_nothing(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100), content(n, 100)) for n in range(60)])
        stream = backend.scan()
        seen = [next(stream).key.to_string() for _ in range(10)]
        backend.remove_many([OpaqueKey(str(n)) for n in range(20, 40)])
        backend.put(message("new", 100), content(1, 100))
        seen += [info.key.to_string() for info in stream]
        assert len(seen) == len(set(seen))
        assert set(seen) >= {str(n) for n in (*range(20), *range(40, 60))}
        assert sorted(k.to_string() for k in backend.list_keys()) == sorted(
            ["new", *(str(n) for n in (*range(20), *range(40, 60)))]
        )


def test_one_chunk_is_located_as_a_scan_lists_it_and_all_are_counted(
    opening: Callable[..., Any], message: Any, content: Any
) -> None:
    with opening() as backend:
        backend.put_many([(message(n, 100 * n), content(n, 100 * n)) for n in range(20)])
        backend.remove(OpaqueKey("7"))
        infos = list(backend.scan())
        assert [backend.locate(info.key) for info in infos] == infos
        assert backend.locate(OpaqueKey("7")) is None
        assert backend.held() == (19, sum(info.stored_bytes for info in infos))
        assert sorted(key.to_string() for key in backend.iter_keys()) == sorted(i.key.to_string() for i in infos)
