"""The tiered store as its callers see it: what is put is found, wherever it went, and budgets hold."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    ConfigError,
    ForkedProcessError,
    InvalidBufferError,
    InvalidChunkError,
    InvalidKeyError,
    ValueTooLargeError,
)
from lms_tiers.interface import Capabilities
from lms_tiers.messages import OpaqueKey
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.tiered.store import TieredStore


def test_a_drawn_history_answers_as_a_dictionary_does(bench: Any) -> None:
    store = bench.store(2000, 100_000)
    truth: dict[int, int] = {}
    rng = random.Random(5)
    for value in range(1, 3000):
        i = rng.randrange(60)
        match rng.randrange(5):
            case 0 | 1:
                bench.put(store, i, value, rng.randrange(8, 400))
                truth[i] = value
            case 2:
                store.remove(bench.key(i))
                truth.pop(i, None)
            case 3:
                assert bench.get(store, i) == truth.get(i)
            case 4:
                assert store.contains(bench.key(i)) is (i in truth)
    assert {k.chunk_hash for k in store.list_keys()} == set(truth)
    for weighed, capacity in zip(bench.weights(), (2000, 100_000), strict=True):
        assert weighed.heaviest <= capacity


def test_a_chunk_larger_than_all_tiers_is_refused_and_nothing_changes(bench: Any) -> None:
    store = bench.store(1000, 5000)
    bench.put(store, 1, 1)
    with pytest.raises(ValueTooLargeError) as caught:
        bench.put(store, 1, 2, 5001)
    assert (caught.value.size, caught.value.limit) == (5001, 5000)
    assert bench.get(store, 1) == 1


def test_an_overwrite_as_large_as_the_tier_is_possible(bench: Any) -> None:
    store = bench.store(1000)
    for value in range(3):
        bench.put(store, 1, value, 900)
        assert bench.get(store, 1) == value
    assert bench.weights()[0].heaviest <= 1000


def test_one_tier_evicts_in_its_policys_order(bench: Any) -> None:
    store = bench.store(1000)
    for i in range(10):
        bench.put(store, i, i)
    assert bench.get(store, 0) == 0
    bench.put(store, 10, 10)
    assert bench.get(store, 1) is None
    assert bench.get(store, 0) == 0
    assert store.capabilities.policy == "lru"
    assert store.capabilities.evicts


def test_batches_answer_as_single_calls_do(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    store.put_many([(bench.meta(i, 100), bench.data(i)) for i in range(40)])
    store.drain(60)
    keys = [bench.key(i) for i in (*range(40), 99, 3, 3)]
    assert [bench.value(o) for o in store.get_many(keys)] == [*range(40), None, 3, 3]
    assert store.contains_prefix(keys) == 40
    assert store.contains_prefix([bench.key(99), *keys]) == 0
    assert store.get_many([]) == []
    store.put_many([])


def test_a_batch_that_fails_keeps_what_came_before(bench: Any) -> None:
    store = bench.store(1000, 2000)
    items = [(bench.meta(i, size), bench.data(i, size)) for i, size in enumerate([100, 100, 3000, 100])]
    with pytest.raises(ValueTooLargeError):
        store.put_many(items)
    assert [bench.get(store, i) for i in range(4)] == [0, 1, None, None]


def test_a_batch_with_a_key_that_is_none_keeps_what_came_before_it(bench: Any) -> None:
    store = bench.store(1000, 2000)
    items = [(bench.meta(i, 100), bench.data(i, 100)) for i in range(3)]
    items[1][0].key = OpaqueKey("\ud800")
    with pytest.raises(InvalidKeyError):
        store.put_many(items)
    assert [bench.get(store, i) for i in range(3)] == [0, None, None]


def test_reads_into_buffers_views_and_tensors_come_from_any_tier(bench: Any) -> None:
    store = bench.store(300, 100_000)
    for i in range(20):
        bench.put(store, i, i)
    store.drain(60)
    for i in (0, 19):
        buffer = bytearray(100)
        meta = store.get_into(bench.key(i), buffer)
        assert meta is not None
        assert meta.length == 100
        assert buffer == bench.data(i)
        with store.view(bench.key(i)) as view:
            assert view is not None
            assert b"".join(view.buffers) == bench.data(i)
        tensor = store.get_tensor(bench.key(i))
        assert tensor is not None
        assert bytes(tensor.numpy()) == bench.data(i)
    with pytest.raises(InvalidBufferError):
        store.get_into(bench.key(0), bytearray(99))
    assert store.get_into(bench.key(99), bytearray(1)) is None
    with store.view(bench.key(99)) as view:
        assert view is None
    store.put_tensor(bench.meta(50, 100), torch.frombuffer(bench.data(50), dtype=torch.uint8))
    assert bench.get(store, 50) == 50


def test_what_get_returned_stays_whatever_happens_to_the_chunk(bench: Any) -> None:
    store = bench.store(300, 100_000)
    bench.put(store, 1, 1)
    for i in range(2, 20):
        bench.put(store, i, i)
    store.drain(60)
    below = store.get(bench.key(1))
    bench.put(store, 1, 2)
    store.remove(bench.key(1))
    store.close()
    assert bench.value(below) == 1
    with pytest.raises(TypeError):
        below.data[0] = 1


def test_a_removed_chunk_is_gone_from_every_tier(bench: Any) -> None:
    store = bench.store(300, 100_000)
    for i in range(20):
        bench.put(store, i, i)
    store.flush(60)
    for i in range(20):
        store.remove(bench.key(i))
        assert bench.get(store, i) is None
    store.remove(bench.key(777))
    store.drain(60)
    assert [w.weight for w in bench.weights()] == [0, 0]
    assert store.list_keys() == []


def test_clear_forgets_everything_and_frees_it(bench: Any) -> None:
    store = bench.store(300, 100_000)
    for i in range(20):
        bench.put(store, i, i)
    store.clear()
    assert [w.weight for w in bench.weights()] == [0, 0]
    bench.put(store, 1, 5)
    assert bench.get(store, 1) == 5


def test_pinned_chunks_stay_until_their_lease_ends(bench: Any, clock: Any) -> None:
    store = bench.store(1000, clock=clock)
    for i in range(10):
        bench.put(store, i, i)
    assert store.pin([bench.key(0), bench.key(1), bench.key(99), bench.key(2)], 60) == 2
    for i in range(10, 30):
        bench.put(store, i, i)
    assert (bench.get(store, 0), bench.get(store, 1)) == (0, 1)
    clock.now += 61
    for i in range(30, 50):
        bench.put(store, i, i)
    assert bench.get(store, 1) is None


def test_a_tier_full_of_pins_has_no_room_and_says_so(bench: Any) -> None:
    store = bench.store(1000)
    for i in range(10):
        bench.put(store, i, i)
    store.pin([bench.key(i) for i in range(10)], 60)
    with pytest.raises(CapacityError):
        bench.put(store, 10, 10)
    store.pin([bench.key(3)], 0)
    bench.put(store, 10, 10)
    assert bench.get(store, 3) is None


def test_a_tier_can_shrink_and_grow_while_in_use(bench: Any) -> None:
    store = bench.store(1000, 100_000)
    for i in range(10):
        bench.put(store, i, i)
    store.resize("t0", 300)
    assert bench.weights()[0].weight <= 300
    assert [bench.get(store, i) for i in range(10)] == list(range(10)), "nothing is lost by it"
    store.resize(0, 2000)
    for i in range(10, 30):
        bench.put(store, i, i)
    assert bench.weights()[0].weight > 300
    with pytest.raises(ConfigError):
        store.resize("t0", 0)
    with pytest.raises(ConfigError, match="t0"):
        store.resize("t9", 10)


def test_through_tiers_get_every_put_at_once(bench: Any) -> None:
    store = bench.store(10_000, 100_000, write="through")
    for i in range(20):
        bench.put(store, i, i)
    store.drain(60)
    assert all(bench.weights()[1].contains(bench.key(i)) for i in range(20))


def test_after_close_every_call_raises_and_close_is_idempotent(bench: Any) -> None:
    store = bench.store(300, 1000)
    bench.put(store, 1, 1)
    store.close()
    store.close()
    calls: tuple[Callable[[], Any], ...] = (
        lambda: store.get(bench.key(1)), lambda: store.contains(bench.key(1)), lambda: store.remove(bench.key(1)),
        lambda: bench.put(store, 1, 1), lambda: store.list_keys(), lambda: store.get_many([bench.key(1)]),
        lambda: store.put_many([]), lambda: store.contains_prefix([]), lambda: store.flush(), lambda: store.drain(),
        lambda: store.stats(), lambda: store.clear(), lambda: store.resize(0, 1), lambda: store.pin([], 1),
        lambda: store.get_into(bench.key(1), bytearray(9)), lambda: store.get_tensor(bench.key(1)),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(BackendClosedError):
            call()


def test_bad_chunks_and_keys_change_nothing(bench: Any) -> None:
    store = bench.store(1000, 5000)
    bench.put(store, 1, 1)
    with pytest.raises(InvalidChunkError):
        store.put(bench.meta(1, 50), bytearray(60))
    with pytest.raises(InvalidChunkError):
        store.put(bench.meta(1, 50), 17)
    with pytest.raises(InvalidKeyError):
        store.put(bench.meta("", 50), bytearray(50))
    assert bench.get(store, 1) == 1


@pytest.mark.parametrize(
    ("capacities", "says"),
    [((None, 1000), "no capacity"), ((0,), "positive"), ((1000, -5), "positive"), ((), "one tier")],
)
def test_tiers_that_make_no_sense_are_refused(bench: Any, capacities: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bench.store(*capacities)


def test_a_backend_that_cannot_remove_is_no_tier(bench: Any) -> None:
    class Sticky(LMSLocalBackend):
        capabilities = Capabilities()

    with pytest.raises(ConfigError, match="cannot remove"):
        bench.store(1000, backends=[Sticky()])


def test_a_lowest_tier_without_capacity_never_evicts(bench: Any) -> None:
    store = bench.store(300, None)
    for i in range(100):
        bench.put(store, i, i)
    assert [bench.get(store, i) for i in range(100)] == list(range(100))
    assert not store.capabilities.evicts


def test_a_forked_child_is_refused(bench: Any) -> None:
    store: TieredStore = bench.store(300, 1000)
    bench.put(store, 1, 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.get(bench.key(1))
        except ForkedProcessError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert bench.get(store, 1) == 1


def test_an_idle_store_has_no_thread_awake(bench: Any) -> None:
    store = bench.store(300, 100_000)
    for i in range(20):
        bench.put(store, i, i)
    store.drain(60)
    waiting = [
        frame.f_code.co_name
        for ident, frame in sys._current_frames().items()
        if any(t.ident == ident for t in _movers())
    ]
    assert waiting
    assert set(waiting) == {"wait"}


def _movers() -> list[Any]:
    return [t for t in threading.enumerate() if t.name.startswith("lms-tiers-t")]
