"""What a close overtakes: it is done, or refused with all that was there before still there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lms_tiers.errors import BackendClosedError
from lms_tiers.messages import key_text
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.tiered.store import TieredStore


def kept(bench: Any) -> Any:
    """Memory that can still be looked at when it was closed."""
    inner = bench.weighed()
    inner.close = lambda: None
    inner.capabilities = replace(inner.capabilities, persistent=True)
    return inner


def one_of(bench: Any, how: str) -> Callable[[TieredStore, int], Any]:
    """A write of chunks 1 and 2 that carry a value, 100 bytes each."""

    def by_from(store: TieredStore, value: int) -> Any:
        source = bench.weighed()
        for i in (1, 2):
            bench.put(source, i, value)
        return store.put_from([bench.meta(i, 100) for i in (1, 2)], source)

    ways: dict[str, Callable[[TieredStore, int], Any]] = {
        "put": lambda store, value: bench.put(store, 1, value),
        "put_many": lambda store, value: store.put_many([(bench.meta(i, 100), bench.data(value)) for i in (1, 2)]),
        "put_tensor": lambda store, value: store.put_tensor(
            bench.meta(1, 100), torch.frombuffer(bench.data(value), dtype=torch.uint8)
        ),
        "put_from": by_from,
    }
    return ways[how]


@pytest.mark.parametrize("how", ["put", "put_many", "put_tensor", "put_from"])
@pytest.mark.parametrize("tiers", [1, 2])
def test_a_write_that_close_finds_in_the_backend_is_done_or_leaves_what_it_would_have_overwritten(
    bench: Any, how: str, tiers: int
) -> None:
    lowest = kept(bench)
    top = FaultyBackend(lowest if tiers == 1 else bench.weighed())
    store = bench.store(*[1000] * tiers, backends=[top, lowest][:tiers])
    for i in (1, 2):
        bench.put(store, i, 7)
    store.flush(60)
    for operation in ("put", "put_many"):
        top.inject(operation, Fault.BLOCK)
    outcome: list[str] = []

    def write() -> None:
        try:
            one_of(bench, how)(store, 9)
            outcome.append("done")
        except BackendClosedError:
            outcome.append("refused")

    writer = threading.Thread(target=write)
    writer.start()
    bench.until(lambda: top.blocked == 1)
    closer = threading.Thread(target=store.close)
    closer.start()
    bench.until(lambda: store._h.closing)
    top.heal()
    writer.join(60)
    closer.join(60)
    assert not writer.is_alive()
    assert not closer.is_alive()
    written = (1,) if how in ("put", "put_tensor") else (1, 2)
    for i in (1, 2):
        right = (7,) if i not in written else (9,) if outcome == ["done"] else (7, 9)
        assert bench.get(lowest, i) in right, f"chunk {i}: {how} was {outcome[0]}"


def test_a_close_from_within_a_write_does_not_wait_for_it(bench: Any) -> None:
    inner = kept(bench)
    store = bench.store(1000, backends=[inner])
    put = inner.put

    def closing(*args: Any) -> None:
        store.close()
        put(*args)

    inner.put = closing
    with pytest.raises(BackendClosedError):
        bench.put(store, 1, 1)


def test_a_write_that_never_comes_back_keeps_close_as_long_as_it_may_take(bench: Any) -> None:
    top = FaultyBackend(bench.weighed())
    store = bench.store(1000, backends=[top], close_timeout=0.1)
    top.inject("put", Fault.BLOCK)
    refused: list[BaseException] = []

    def write() -> None:
        try:
            bench.put(store, 1, 1)
        except BackendClosedError as error:
            refused.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    bench.until(lambda: top.blocked == 1)
    store.close()
    top.heal()
    writer.join(60)
    assert refused, "what was not stored was told as stored"


def test_a_removal_that_close_overtakes_is_done_or_refused(bench: Any) -> None:
    lower = kept(bench)
    store = bench.store(1000, 1000, backends=[bench.weighed(), lower])
    bench.put(store, 1, 1)
    store.flush(60)
    assert bench.get(lower, 1) == 1

    class Closing:
        """A key of which the store is closed as soon as somebody asks for its text."""

        def to_string(self) -> str:
            store.close()
            return key_text(bench.key(1))

    try:
        store.remove_many([Closing()])
    except BackendClosedError:
        return
    assert bench.get(lower, 1) is None, "a removal was lost in silence"
