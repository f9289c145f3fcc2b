from __future__ import annotations

import pytest
from lms_conformance.history import Call, History, linearizable, smaller


def call(kind: str, value: int | None, began: int, ended: int, key: str = "a", thread: int = 0) -> Call:
    return Call(thread, kind, key, value, began, ended)


def test_a_get_after_a_put_must_answer_it() -> None:
    assert linearizable([call("put", 1, 0, 1), call("get", 1, 2, 3)])
    assert not linearizable([call("put", 1, 0, 1), call("get", None, 2, 3)])


def test_overlapping_calls_may_come_in_either_order() -> None:
    assert linearizable([call("put", 1, 0, 9), call("get", None, 1, 2), call("get", 1, 3, 4)])
    assert not linearizable([call("put", 1, 0, 9), call("get", 1, 1, 2), call("get", None, 3, 4)])


def test_a_value_that_was_overwritten_before_the_get_began_is_stale() -> None:
    assert not linearizable([call("put", 1, 0, 1), call("put", 2, 2, 3), call("get", 1, 4, 5)])


def test_a_removed_value_does_not_come_back() -> None:
    calls = [call("put", 1, 0, 1), call("remove", None, 2, 3), call("contains", 1, 4, 5)]
    assert not linearizable(calls)
    assert linearizable([*calls[:2], call("contains", 0, 4, 5)])


def test_eviction_explains_a_miss_but_no_return() -> None:
    calls = [call("put", 1, 0, 1), call("get", None, 2, 3)]
    assert linearizable(calls, evicts=True)
    assert not linearizable([*calls, call("get", 1, 4, 5)], evicts=True)


def test_eight_hundred_calls_are_checked_at_once() -> None:
    calls = []
    for i in range(400):
        calls += [call("put", i, 4 * i, 4 * i + 2), call("get", i, 4 * i + 1, 4 * i + 3)]
    assert linearizable(calls)
    calls[401] = call("get", 7, calls[401].began, calls[401].ended)
    assert not linearizable(calls)


def test_a_contradiction_is_told_for_the_key_that_has_it() -> None:
    history = History()
    for key, value in (("a", 1), ("b", 2)):
        began = history.now()
        history.add(0, "put", key, value, began)
    history.add(1, "get", "a", 1, history.now())
    history.add(1, "get", "b", None, history.now())
    calls = history.contradiction()
    assert calls is not None
    assert {c.key for c in calls} == {"b"}


@pytest.mark.parametrize("needed", [{"x"}, {"x", "y"}])
def test_programs_shrink_to_what_fails(needed: set[str]) -> None:
    program = [["a", "x", "b"], ["c", "y"], ["d"]]
    small = smaller(program, lambda p: needed <= {op for ops in p for op in ops})
    assert {op for ops in small for op in ops} == needed
