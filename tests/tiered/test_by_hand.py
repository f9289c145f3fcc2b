"""The context of a batch call, given by hand: no thread has to be in a block, and none is confused by it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lms_tiers import LMSLocalBackend, RequestContext
from lms_tiers.client import Client
from lms_tiers.errors import ConfigError, InvalidKeyError
from lms_tiers.server.server import Server
from lms_tiers.server.settings import make_settings
from tests.client.test_asking import start
from tests.tiered.test_parts import Records, places


@pytest.fixture
def told(bench: Any) -> tuple[Any, Records]:
    policy = Records(10_000)
    return bench.store(10_000, policies=[policy]), policy


def items(bench: Any, *numbers: int, last: int = 100) -> list[Any]:
    sizes = [100] * (len(numbers) - 1) + [last]
    return [(bench.meta(i, size), bench.data(i, size)) for i, size in zip(numbers, sizes, strict=True)]


def test_calls_of_one_request_may_come_from_many_threads_in_any_order(bench: Any, told: Any) -> None:
    store, policy = told
    context = RequestContext("chatcmpl-7", chain=[bench.key(i) for i in range(1, 7)])
    for numbers in ((5, 6), (1, 2), (3, 4)):
        thread = threading.Thread(
            target=store.put_many, args=[items(bench, *numbers, last=60)], kwargs={"context": context}
        )
        thread.start()
        thread.join()
    assert sorted(places(policy, bench)) == [
        (1, None, 0, None), (2, 1, 1, True), (3, 2, 2, None), (4, 3, 3, True), (5, 4, 4, None), (6, 5, 5, True),
    ]  # fmt: skip
    assert {(c.request_id, c.length) for _, c in policy.told} == {("chatcmpl-7", 6)}


def test_requests_may_take_turns_in_one_thread(bench: Any, told: Any) -> None:
    store, policy = told
    one = RequestContext(1, chain=[bench.key(i) for i in (1, 2, 3)])
    two = RequestContext(2, chain=[bench.key(i) for i in (1, 2, 9)], partial_keys=[bench.key(9)])
    store.put_many(items(bench, 1, 2), context=one)
    store._h.tell()
    policy.told.clear()
    assert store.contains_prefix([bench.key(i) for i in (1, 2, 3)], context=one) == 2
    assert store.contains_many([bench.key(i) for i in (1, 2, 9)], context=two) == [True, True, False]
    store.get_many([bench.key(2)], context=two)
    store.put_many(items(bench, 3), context=one)
    store.put_many(items(bench, 9), context=two)
    store._h.tell()
    assert places(policy, bench) == [(2, 1, 1, None), (3, 2, 2, None), (9, 2, 2, True)]
    assert [c.request_id for _, c in policy.told] == [2, 1, 2]


def test_a_position_alone_places_the_keys(bench: Any, told: Any) -> None:
    store, policy = told
    store.put_many(items(bench, 7, 8), context=RequestContext(position=3))
    store.put_many(items(bench, 5, 6), context=RequestContext(chain=[bench.key(4)]))
    store.put_many(items(bench, 1), context=RequestContext())
    assert places(policy, bench) == [
        (7, None, 3, None), (8, 7, 4, False), (5, 4, 1, None), (6, 5, 2, False), (1, None, 0, None),
    ]  # fmt: skip
    assert [(c.request_id, c.length) for _, c in policy.told] == [(None, 5), (None, 5), (None, 3), (None, 3), (None, 1)]


def test_what_a_thread_was_walking_goes_on_beside(bench: Any, told: Any) -> None:
    store, policy = told
    store.contains_prefix([bench.key(i) for i in (1, 2, 3)])
    store.put_many(items(bench, 8, 9), context=RequestContext("other"))
    store.contains_prefix([bench.key(i) for i in (8, 9)], context=RequestContext("other"))
    store.get_many([bench.key(8)], context=RequestContext("other"))
    store._h.tell()
    policy.told.clear()
    store.put_many(items(bench, 1, 2, 3))
    assert places(policy, bench) == [(1, None, 0, None), (2, 1, 1, False), (3, 2, 2, False)]


def test_a_call_within_a_request_block_may_be_another_requests(bench: Any, told: Any) -> None:
    store, policy = told
    with store.request("mine"):
        store.put_many(items(bench, 1))
        store.put_many(items(bench, 2), context=RequestContext("other"))
        store.put_many(items(bench, 3))
    assert [(c.request_id, c.position) for _, c in policy.told] == [("mine", 0), ("other", 0), ("mine", 1)]


@pytest.mark.parametrize("alone", [False, True])
def test_what_is_read_without_promotion_stays_where_it_is(bench: Any, alone: bool) -> None:
    store = bench.store(1000, 100_000)
    for i in range(40):
        bench.put(store, i, i)
    store.drain(60)
    low = [i for i in range(40) if store.tiers_of(bench.key(i)) == ("t1",)][: 1 if alone else 5]
    context = RequestContext("scan", promote=False)
    for _ in range(3):
        assert [bench.value(obj) for obj in store.get_many([bench.key(i) for i in low], context=context)] == low
    store.drain(60)
    assert {store.tiers_of(bench.key(i)) for i in low} == {("t1",)}
    for _ in range(2):
        store.get_many([bench.key(i) for i in low], context=RequestContext("again"))
        store.drain(60)
    assert {store.tiers_of(bench.key(i)) for i in low} == {("t0", "t1")}


def test_what_makes_no_context_is_refused(bench: Any) -> None:
    with pytest.raises(ConfigError, match="negative"):
        RequestContext(position=-1)
    with pytest.raises(InvalidKeyError):
        RequestContext(chain=[bench.key(1), None])  # type: ignore[list-item]


def test_batches_of_nothing_take_a_context_too(told: Any) -> None:
    store, _ = told
    context = RequestContext(1)
    store.put_many([], context=context)
    assert store.get_many([], context=context) == store.contains_many([], context=context) == []
    assert store.contains_prefix([], context=context) == 0


def test_a_question_over_the_wire_leaves_the_chains_of_the_servers_threads_alone(bench: Any, told: Any) -> None:
    """One thread serves many peers: the keys of one are not the chain of the next."""
    store, policy = told
    with Server(store, make_settings(None, {"port": 0, "threads": 1})) as server:
        with Client(server.address) as asking:
            assert asking.contains_prefix([bench.key(1), bench.key(2)]) == 0
        with Client(server.address) as other:
            other.put(*items(bench, 1)[0])
    store._h.tell()
    ((_, context),) = policy.told
    assert context.length == -1  # of no chain, not of what another peer has asked for


def test_a_client_takes_a_context(bench: Any) -> None:
    context = RequestContext("r", chain=[bench.key(1)])
    with LMSLocalBackend() as backend, start(backend) as server, Client(server.address) as client:
        client.put_many(items(bench, 1, 2), context=context)
        keys = [bench.key(i) for i in (1, 2, 3)]
        assert [bench.value(obj) for obj in client.get_many(keys, context=context)] == [1, 2, None]
        assert client.contains_prefix(keys, context=context) == 2
        assert client.contains_many(keys, context=context) == [True, True, False]
