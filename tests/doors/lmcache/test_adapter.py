"""The L2 adapter: what is stored is found, locked and loaded as it was, and nothing else is."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lms_tiers.errors import ConfigError
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from tests.doors.lmcache.engine import Loops, Slot, key, layout

Open = Callable[..., Any]
Faulty = Callable[..., tuple[Any, FaultyBackend]]

SHAPE, DTYPE = (2, 2, 16, 32), torch.bfloat16


def until(condition: Callable[[], object]) -> None:
    gate = threading.Event()
    for _ in range(6000):
        if condition():
            return
        gate.wait(0.01)
    raise AssertionError("it never came true")


def test_what_is_stored_is_found_locked_and_loaded_byte_for_byte(adapter: Open) -> None:
    loops = Loops(adapter())
    keys = [key(i) for i in range(40)]
    assert loops.lookup(keys) == [False] * 40
    result = loops.put(range(40))
    assert result.is_successful()
    assert result.bytes_transferred() == 40 * Slot().nbytes
    assert loops.lookup(keys) == [True] * 40
    assert loops.get(range(40)) == [True] * 40
    loops.adapter.submit_unlock(keys)


def test_a_large_task_is_shared_out_and_has_one_result(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    size = Slot().nbytes
    module = importlib.import_module("lms_tiers.doors.lmcache.adapter")
    monkeypatch.setattr(module, "_LOAD_PART", 4 * size)
    monkeypatch.setattr(module, "_STORE_PART", 4 * size)
    adapter, backend = faulty()
    loops = Loops(adapter)
    backend.inject("*", Fault.BLOCK)
    store = adapter.submit_store_task([key(i) for i in range(23)], [Slot().filled(i).obj for i in range(23)])
    until(lambda: backend.blocked == 3)  # of four threads one is kept for loads
    backend.heal()
    backend.release()
    assert loops.stored(store).bytes_transferred() == 23 * size
    adapter.delete([key(0), key(11)])
    backend.inject("*", Fault.BLOCK)
    slots = [Slot() for _ in range(24)]
    load = adapter.submit_load_task([key(i) for i in range(24)], [slot.obj for slot in slots])
    until(lambda: backend.blocked == 4)
    assert adapter.query_load_result(load) is None
    backend.heal()
    backend.release()
    there = loops.loaded(load, 24)
    assert there == [i not in (0, 11, 23) for i in range(24)]
    assert all(slot.holds(i) if there[i] else slot.untouched for i, slot in enumerate(slots))


def test_a_look_up_answers_for_each_key_not_for_a_prefix(adapter: Open) -> None:
    loops = Loops(adapter())
    loops.put([1, 3])
    assert loops.lookup([key(i) for i in range(5)]) == [False, True, False, True, False]
    assert loops.get(range(5)) == [None, True, None, True, None]


def test_every_field_of_a_key_tells_chunks_apart(adapter: Open) -> None:
    loops = Loops(adapter())
    others: list[dict[str, Any]] = [{"model": "llama/9b"}, {"rank": 0x02000200}, {"group": 1}, {"salt": "tenant"}]
    loops.put([7])
    for fields in others:
        assert loops.lookup([key(7, **fields)]) == [False], fields
    for i, fields in enumerate(others):
        loops.put([100 + i], **fields)
        assert loops.get([100 + i], **fields) == [True]
    assert loops.get([7]) == [True]


def test_another_revision_and_another_namespace_are_misses(adapter: Open, tmp_path: Any) -> None:
    device = f"lmdb:{tmp_path}?capacity=64MiB&codec=raw"
    first = adapter(device, revision="a")
    assert Loops(first).put([1]).is_successful()
    first.close()
    for params in ({"revision": "b"}, {"revision": "a", "namespace": {"quantisation": "awq"}}):
        other = adapter(device, **params)
        assert Loops(other).lookup([key(1)]) == [False]
        assert other.get_usage().total_bytes_used == 0
        assert list(Loops(other).listed()) == []
        other.close()
    assert Loops(adapter(device, revision="a")).get([1]) == [True]


@pytest.mark.parametrize(
    ("shapes", "dtypes"),
    [
        ([SHAPE], [torch.float16]),
        ([(2, 2, 32, 16)], [DTYPE]),
        ([(2, 2, 16, 16)], [DTYPE]),
        ([(2, 2, 16, 64)], [DTYPE]),
        ([(2, 1, 16, 32), (2, 1, 16, 32)], [DTYPE, DTYPE]),
    ],
    ids=["dtype", "layout", "shorter", "longer", "groups"],
)
def test_another_dtype_layout_or_length_is_a_miss_and_nothing_is_written(
    adapter: Open, shapes: Any, dtypes: Any
) -> None:
    loops = Loops(adapter())
    loops.put([1])
    other = Slot(shapes, dtypes)
    assert loops.load([key(1)], [other]) == [False]
    assert other.untouched
    assert loops.lookup([key(1)], {0: layout(shapes, dtypes)}) == [False]
    assert loops.lookup([key(1)], {0: layout([SHAPE], [DTYPE])}) == [True]
    # What is stored under the key next is the new one, and no longer the old one.
    assert loops.store([key(1)], [Slot(shapes, dtypes).filled(9)]).is_successful()
    assert loops.load([key(1)], [other]) == [True]
    assert other.holds(9)
    assert loops.get([1]) == [None]


def test_a_layout_that_says_nothing_and_a_chunk_that_lmcache_encoded_are_found(adapter: Open) -> None:
    loops = Loops(adapter())
    loops.put([1])
    assert loops.lookup([key(1)], {0: layout([], [])}) == [True]
    loops.store([key(2)], [Slot([(512,)], [torch.uint8]).filled(2)])
    assert loops.lookup([key(2)], {0: layout([SHAPE], [DTYPE])}) == [True]


HYBRID = [(2, 3, 16, 32), (1, 5, 7), (4, 9)], [torch.bfloat16, torch.float32, torch.int8]


def test_objects_of_several_groups_are_whole_and_no_other_grouping_is_taken_for_them(adapter: Open) -> None:
    loops = Loops(adapter())
    assert loops.store([key(i) for i in range(5)], [Slot(*HYBRID).filled(i) for i in range(5)]).is_successful()
    slots = [Slot(*HYBRID) for _ in range(5)]
    assert loops.lookup([key(i) for i in range(5)], {0: layout(*HYBRID)}) == [True] * 5
    assert loops.load([key(i) for i in range(5)], slots) == [True] * 5
    assert all(slot.holds(i) for i, slot in enumerate(slots))
    shapes, dtypes = HYBRID
    swapped = Slot([shapes[0], shapes[2], shapes[1]], [dtypes[0], dtypes[2], dtypes[1]])
    assert loops.load([key(0)], [swapped]) == [False]
    assert swapped.untouched


def test_a_key_that_is_held_is_not_stored_again(adapter: Open) -> None:
    loops = Loops(adapter())
    loops.put([1, 2])
    assert loops.put([1, 2]).bytes_transferred() == 0
    assert loops.put([1, 2, 3]).bytes_transferred() == Slot().nbytes


def test_locked_chunks_stay_until_they_are_unlocked_as_often_as_they_were_locked(adapter: Open) -> None:
    size = Slot().nbytes
    loops = Loops(adapter(f"cpu?capacity={8 * size}B"))
    loops.put(range(4))
    locked = [key(0), key(1)]
    assert loops.lookup(locked) == [True, True]
    assert loops.lookup(locked[:1]) == [True]
    loops.adapter.submit_unlock(locked)
    loops.put(range(10, 30))
    assert loops.lookup([key(0)]) == [True]  # locked twice, unlocked once; and now locked once more
    loops.adapter.submit_unlock([key(0)])
    loops.adapter.submit_unlock([key(0)])
    loops.lookup([key(999)])  # its turn comes after theirs
    loops.put(range(40, 60))
    assert loops.lookup([key(i) for i in range(4)]) == [False] * 4


def test_a_look_up_for_another_layout_leaves_no_lock_behind(adapter: Open) -> None:
    loops = Loops(adapter(f"cpu?capacity={8 * Slot().nbytes}B"))
    loops.put(range(4))
    assert loops.lookup([key(0)], {0: layout([(2, 2, 16, 16)], [DTYPE])}) == [False]
    loops.put(range(10, 30))
    assert loops.lookup([key(0)]) == [False]


def test_unlocking_never_fails(faulty: Faulty) -> None:
    adapter, backend = faulty()
    loops = Loops(adapter)
    loops.put([1])
    loops.lookup([key(1)])
    backend.inject("*", Fault.FAIL)
    assert loops.get([1]) == [None]
    adapter.submit_unlock([key(1), key(1), key(99)])
    backend.heal()
    assert loops.lookup([key(1)]) == [True]
    adapter.close()
    adapter.submit_unlock([key(1)])


def test_keys_are_listed_page_by_page_with_their_lengths(adapter: Open) -> None:
    loops = Loops(adapter())
    loops.put(range(25))
    loops.put(range(100, 103), model="other")
    size = Slot().nbytes
    for page_size in (1, 7, 28, 500):
        assert sorted(loops.listed(page_size=page_size)) == [
            (i.to_bytes(16, "big").hex(), size) for i in (*range(25), *range(100, 103))
        ]
    assert [int(text, 16) for text, _ in loops.listed(model_name="other", page_size=2)] == [100, 101, 102]
    assert list(loops.listed(model_name="othe")) == []
    assert len(loops.adapter.list_l2_keys(page_size=28).entries) == 28
    assert loops.adapter.list_l2_keys(page_size=28).next_page_token is None
    with pytest.raises(ValueError, match="page_size"):
        loops.adapter.list_l2_keys(page_size=0)
    for cursor in ("zz", "abc", "ff"):
        with pytest.raises(ValueError, match="cursor"):
            loops.adapter.list_l2_keys(cursor=cursor)


def test_nothing_that_is_handed_in_waits_for_a_store_that_is_stuck(faulty: Faulty) -> None:
    adapter, backend = faulty()
    loops = Loops(adapter)
    loops.put([1])
    backend.inject("*", Fault.BLOCK)
    load, store = Slot(), Slot().filled(2)
    tasks = [
        adapter.submit_load_task([key(1)], [load.obj]),
        adapter.submit_store_task([key(2)], [store.obj]),
        adapter.submit_lookup_and_lock_task([key(1)], {}),
    ]
    adapter.submit_unlock([key(1)])
    until(lambda: backend.blocked)
    assert adapter.query_load_result(tasks[0]) is None
    assert adapter.pop_completed_store_tasks() == {}
    backend.heal()
    backend.release()
    assert loops.loaded(tasks[0], 1) in ([True], [False])
    assert loops.stored(tasks[1]).is_successful()


def test_options_that_are_none_are_refused_and_name_what_is_known(adapter: Open) -> None:
    for params, told in (
        ({"devise": "cpu"}, "device"),
        ({"device": "cpu", "workers": 0}, "workers"),
        ({"device": "nothing:x"}, "nothing"),
        ({}, "device"),
    ):
        from lms_tiers.doors.lmcache import L2Adapter

        with pytest.raises(ConfigError, match=told):
            L2Adapter(params)


def test_only_what_is_there_is_found_in_the_module() -> None:
    import lms_tiers.doors.lmcache as door

    assert not hasattr(door, "L2AdapterConfig")  # LMCache looks for one, and would take the parameters by it
