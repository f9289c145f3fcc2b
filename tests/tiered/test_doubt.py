"""Writes that failed and were carried out all the same: nobody reads them, and their bytes are charged until they are gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lms_tiers.errors import OutcomeUnknownError, StorageUnavailableError
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend


def unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError("it", "put", "no answer came.")


@pytest.mark.parametrize("error", [RuntimeError, unknown])
def test_a_put_carried_out_and_then_failed_is_never_seen(bench: Any, error: Callable[[], Exception]) -> None:
    only = FaultyBackend(bench.weighed())
    store = bench.store(1000, backends=[only])
    bench.put(store, 1, 1)
    only.inject("put", Fault.FAIL_AFTER, error=error, times=1)
    with pytest.raises(StorageUnavailableError):
        bench.put(store, 1, 2)
    assert bench.get(store, 1) is None
    store.drain(60)
    assert bench.get(store, 1) is None
    assert only.inner.weight == 0  # type: ignore[attr-defined]  # weighed


@pytest.mark.parametrize("error", [RuntimeError, unknown])
def test_a_move_carried_out_and_then_failed_is_charged_until_it_is_deleted(
    bench: Any, error: Callable[[], Exception]
) -> None:
    faulty = FaultyBackend(bench.weighed())
    store = bench.store(1000, 100_000, backends=[bench.weighed(), faulty], breaker_threshold=1000)
    for operation in ("put", "put_many"):
        faulty.inject(operation, Fault.FAIL_AFTER, error=error, times=3)
    faulty.inject("remove_many", Fault.FAIL)
    for i in range(8):
        bench.put(store, i, i)
    bench.until(lambda: faulty.fired[Fault.FAIL_AFTER] and store._movers[1].idle)
    with store._h.lock:
        assert 0 < faulty.inner.weight <= store._h.tiers[1].used  # type: ignore[attr-defined]  # weighed
    faulty.heal()
    store.flush(60)
    assert [bench.get(store, i) for i in range(8)] == list(range(8))
    assert store.stats().tiers[1].garbage_bytes == 0
