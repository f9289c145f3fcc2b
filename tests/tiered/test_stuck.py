"""A lower tier that a put or a deletion does not come back from is switched off, as one that reads do not."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers.errors import StorageUnavailableError
from tests.tiered.conftest import Weighed


@pytest.mark.parametrize("operation", ["remove_many", "put"])
def test_a_tier_stuck_in_a_deletion_or_a_put_is_switched_off(bench: Any, operation: str) -> None:
    gate, inside = threading.Event(), threading.Event()
    lower = Weighed()
    store = bench.store(1000, 100_000, backends=[Weighed(), lower], stall=60.0, back_pressure=0.05)
    bench.put(store, 0, 0, 5000)

    carry_out = getattr(lower, operation)

    def stuck(*args: Any) -> None:
        inside.set()
        assert gate.wait(60)
        carry_out(*args)

    setattr(lower, operation, stuck)
    calls: dict[str, Callable[[], Any]] = {
        "remove_many": lambda: store.remove(bench.key(0)),
        "put": lambda: bench.put(store, 1, 1, 5000),
    }

    def call() -> None:
        with contextlib.suppress(StorageUnavailableError):
            calls[operation]()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert inside.wait(60)
        bench.stall(store, 0.0)  # from now on, whoever is inside has been there for too long
        if operation == "put":
            with pytest.raises(StorageUnavailableError):
                bench.put(store, 2, 2, 5000)
        else:
            for i in range(10, 30):
                bench.put(store, i, i)
        assert store._h.up == 1
    finally:
        gate.set()
        thread.join(60)
