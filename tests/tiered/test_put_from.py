"""Chunks that another backend lends, taken into the tiers by one call: whole, or what was there before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lms_tiers import LMSLocalBackend
from lms_tiers.errors import CapacityError, LmsTiersError
from lms_tiers.interface import ChunkView
from lms_tiers.messages import CacheEngineKey
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from tests.tiered.shapes import MEMORY, SHAPES


class Failing(LMSLocalBackend):
    """A source whose chunk cannot be lent."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        if key.to_string() == self.text:
            raise OSError("the engine has taken its memory back")
        with super().view(key) as view:
            yield view


@pytest.mark.parametrize("shape", ["memory", "a disk", "an arena over a disk"])
def test_a_source_that_fails_is_not_the_fault_of_the_tier(bench: Any, tmp_path: Path, shape: str) -> None:
    store = SHAPES[shape](bench, tmp_path)
    for i in (0, 2):
        bench.put(store, i, 7)
    source = Failing(bench.key(2).to_string())
    for i in range(4):
        bench.put(source, i, i)
    for numbers in (range(4), *[range(2, 4)] * 9):
        with pytest.raises(OSError, match="taken its memory back"):
            store.put_from([bench.meta(i, 100) for i in numbers], source)
    assert [bench.get(store, i) for i in range(2)] == [0, 1], "those before it are stored"
    assert bench.get(store, 2) in (7, None)
    assert bench.get(store, 3) is None
    assert store.stats().tiers[0].breaker.value == "closed"
    bench.put(store, 2, 8)
    assert bench.get(store, 2) == 8


def test_what_the_source_does_not_hold_as_said_leaves_what_was_there(bench: Any) -> None:
    store = bench.store(MEMORY)
    for i in range(3):
        bench.put(store, i, 50 + i)
    source = LMSLocalBackend()
    bench.put(source, 0, 0)
    bench.put(source, 1, 1, 99)
    used = store._h.tiers[0].used
    assert store.put_from([bench.meta(i, 100) for i in range(3)], source) == [True, False, False]
    assert [bench.get(store, i) for i in range(3)] == [0, 51, 52]
    assert store._h.tiers[0].used == used


def test_a_batch_from_a_source_makes_room_and_is_refused_as_a_put_is(bench: Any) -> None:
    store = bench.store(400, MEMORY)
    source = LMSLocalBackend()
    for i in range(20):
        bench.put(source, i, i)
    assert all(store.put_from([bench.meta(i, 100) for i in range(20)], source))
    assert [bench.get(store, i) for i in range(20)] == list(range(20))
    assert bench.weights()[0].heaviest <= 400
    full = FaultyBackend(bench.weighed())
    small = bench.store(MEMORY, backends=[full], close_timeout=0.1)
    full.inject("put_many", Fault.FAIL, error=lambda: CapacityError("t0", 100, 0))
    full.inject("put", Fault.FAIL, error=lambda: CapacityError("t0", 100, 0))
    with pytest.raises(LmsTiersError):
        small.put_from([bench.meta(i, 100) for i in range(3)], source)
    assert [bench.get(small, i) for i in range(3)] == [None] * 3
