"""A tier of another capacity: what fits is asked anew, and a resize that cannot end says so in time."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from lms_tiers.errors import BackendClosedError, LmsTiersError, ValueTooLargeError
from tests.tiered.conftest import Weighed


class Kept(Weighed):
    """Survives its store, as far as that is told."""

    capabilities = replace(Weighed.capabilities, persistent=True)


def test_a_resize_that_nothing_can_leave_for_ends_with_the_store(bench: Any) -> None:
    store = bench.store(2000)
    for i in range(20):
        bench.put(store, i, i)
    store.pin([bench.key(i) for i in range(20)], 1e6)
    raised: list[LmsTiersError] = []

    def shrink() -> None:
        try:
            store.resize(0, 1000, None)
        except LmsTiersError as error:
            raised.append(error)

    thread = threading.Thread(target=shrink, daemon=True)
    thread.start()
    bench.until(lambda: store._h.tiers[0].budget == 1000)
    store.close()
    thread.join(60)
    assert [type(error) for error in raised] == [BackendClosedError]


def test_what_fits_after_a_tier_has_grown_is_brought_down(bench: Any) -> None:
    store = bench.store(10_000, 500, backends=[Weighed(), Kept()])
    bench.put(store, 1, 1, 1000)
    store.flush(60)
    assert store.tiers_of(bench.key(1)) == ("t0",), "it does not fit"
    store.resize("t1", 50_000)
    store.flush(60)
    assert store.tiers_of(bench.key(1)) == ("t0", "t1")


def test_what_was_found_too_large_beside_a_resize_is_asked_anew(bench: Any) -> None:
    store = bench.store(1000)
    tier = store._h.tiers[0]
    need = tier.need

    def beside(length: int) -> Any:
        found = need(length)
        if tier.budget == 1000:
            store.resize(0, 50_000)
        return found

    tier.need = beside
    with pytest.raises(ValueTooLargeError):
        bench.put(store, 1, 1, 4000)
    bench.put(store, 1, 1, 4000)
    assert bench.get(store, 1) == 1
