"""The reference shared backend: what one instance puts another gets, and the engine's bad days can be ordered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lms_conformance import FactoryHarness, run_properties
from lms_conformance.check import explain
from lms_conformance.outcome import Status
from lms_conformance.shared import SharedEngine, SharedReference, forget_engine

from lms_tiers import ChunkMeta, MemoryFormat, OpaqueKey
from lms_tiers.errors import (
    BackendClosedError,
    InvalidChunkError,
    OutcomeUnknownError,
    StorageUnavailableError,
    ValueTooLargeError,
)
from lms_tiers.messages import ClientMetaMessage

PLACE = "tests of the shared reference"


def item(key: str, body: bytes) -> tuple[ClientMetaMessage, bytearray]:
    return ChunkMeta(len(body), MemoryFormat.KV_2LTD, "uint8", (len(body),)).message(OpaqueKey(key)), bytearray(body)


def body_of(backend: SharedReference, key: str) -> bytes | None:
    found = backend.get(OpaqueKey(key))
    return None if found is None else bytes(found.data)


def keys(*texts: str) -> list[OpaqueKey]:
    return [OpaqueKey(text) for text in texts]


@pytest.fixture
def one() -> Iterator[SharedReference]:
    with SharedReference(PLACE, 100) as opened:
        yield opened
    forget_engine(PLACE)


@pytest.fixture
def other(one: SharedReference) -> Iterator[SharedReference]:
    with SharedReference(PLACE, timeout=0.01) as opened:
        assert opened.engine is one.engine
        yield opened


@pytest.fixture
def engine(one: SharedReference) -> SharedEngine:
    return one.engine


def test_what_one_puts_another_gets_and_nothing_is_remembered_as_absent(
    one: SharedReference, other: SharedReference
) -> None:
    assert body_of(other, "k") is None
    one.put(*item("k", b"a"))
    assert body_of(other, "k") == b"a"
    other.put(*item("k", b"bb"))
    assert body_of(one, "k") == b"bb"
    one.remove(OpaqueKey("k"))
    assert not other.contains(OpaqueKey("k"))


def test_an_instance_that_closes_takes_nothing_with_it(one: SharedReference) -> None:
    with SharedReference(PLACE) as gone:
        gone.put(*item("k", b"a"))
    with pytest.raises(BackendClosedError):
        gone.get(OpaqueKey("k"))
    assert body_of(one, "k") == b"a"


def test_a_batch_is_one_round_trip(one: SharedReference, engine: SharedEngine) -> None:
    one.put_many([item(text, b"x") for text in "abc"])
    assert one.contains_many(keys("a", "x", "c")) == [True, False, True]
    assert one.contains_prefix(keys("a", "b", "x", "c")) == 2
    assert [found is not None for found in one.get_many(keys("x", "b"))] == [False, True]
    one.remove_many(keys("a", "b"))
    assert engine.round_trips == 5


def test_the_engine_keeps_its_budget_and_evicts_what_it_will(one: SharedReference, engine: SharedEngine) -> None:
    one.put_many([item(text, bytes(40)) for text in "abc"])
    assert [k.to_string() for k in one.list_keys()] == ["b", "c"]
    assert engine.peak <= 100
    with pytest.raises(ValueTooLargeError):
        one.put(*item("d", bytes(101)))
    engine.evict("b")
    assert one.contains_many(keys("b", "c")) == [False, True]
    engine.evict()
    assert one.list_keys() == []
    assert one.stats().failures == 0


def test_an_engine_that_is_down_is_misses_and_errors_and_comes_back(one: SharedReference, engine: SharedEngine) -> None:
    one.put(*item("k", b"a"))
    engine.down = True
    assert body_of(one, "k") is None
    assert one.contains_many(keys("k", "l")) == [False, False]
    for call in (lambda: one.put(*item("k", b"b")), lambda: one.remove(OpaqueKey("k")), one.list_keys):
        with pytest.raises(StorageUnavailableError) as caught:
            call()
        assert not isinstance(caught.value, OutcomeUnknownError)
    assert one.stats().failures == 2
    engine.down = False
    assert body_of(one, "k") == b"a"


def test_a_write_that_is_late_is_in_doubt_and_arrives_afterwards(one: SharedReference, engine: SharedEngine) -> None:
    one.put(*item("k", b"old"))
    engine.late = True
    with pytest.raises(OutcomeUnknownError):
        one.put(*item("k", b"late"))
    assert body_of(one, "k") == b"old"
    engine.late = False
    one.put(*item("k", b"new"))
    assert engine.deliver() == 1
    assert body_of(one, "k") == b"late"  # as a real one may: nobody can call it back


def test_an_engine_that_hangs_fails_calls_when_their_time_is_over(
    one: SharedReference, other: SharedReference, engine: SharedEngine
) -> None:
    one.put(*item("k", b"a"))
    engine.answering.clear()
    assert body_of(other, "k") is None
    with pytest.raises(OutcomeUnknownError):
        other.put(*item("k", b"b"))
    engine.answering.set()
    assert body_of(other, "k") == b"a"
    assert engine.deliver() == 1
    assert body_of(other, "k") == b"b"


def test_close_ends_a_call_that_hangs(one: SharedReference, engine: SharedEngine) -> None:
    engine.answering.clear()
    raised: list[BaseException] = []
    started = threading.Event()

    def read() -> None:
        started.set()
        try:
            one.get(OpaqueKey("k"))
        except BackendClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(60)
    one.close()
    thread.join(60)
    assert len(raised) == 1


def test_one_that_is_refused_stops_none_of_its_batch(one: SharedReference) -> None:
    wrong, data = item("b", b"xyz")
    with pytest.raises(InvalidChunkError):
        one.put_many([item("a", b"x"), (wrong, data + b"!"), item("c", b"x")])
    assert one.contains_many(keys("a", "b", "c")) == [True, False, True]


@pytest.mark.deep
@pytest.mark.leaks_allowed
def test_it_keeps_the_contract() -> None:
    """The rest of it is asked of the zoo's reference of the same name."""

    class Harness(FactoryHarness):
        one_process = True

        def stop(self, path: Path) -> None:
            forget_engine(str(path))

    report = run_properties(
        Harness(SharedReference), profile="quick", only=["PUT", "OVR-01", "BAT", "ERR", "LIF", "PER", "CON-01"]
    )
    assert report.ok, explain(report)
    assert not [r.id for r in report.results if r.status is Status.WARNED]
