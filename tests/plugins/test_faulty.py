"""The faulty backend does what it is ordered, and otherwise what its inner backend does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lms_conformance import DeviceHarness, run_properties
from lms_conformance.check import explain
from lms_conformance.outcome import Status

from lms_tiers import CreateStorageBackend
from lms_tiers.errors import BackendClosedError, ConfigError, StorageUnavailableError
from lms_tiers.messages import CacheEngineKey, ClientCommand, ClientMetaMessage, MemoryFormat
from lms_tiers.plugins.cpu import LMSLocalBackend
from lms_tiers.plugins.faulty import backend as faulty_module
from lms_tiers.plugins.faulty.backend import Fault, FaultyBackend
from lms_tiers.plugins.faulty.orders import parse_orders
from tests.docs.blocks import blocks
from tests.stepping import each_stop

KEY = CacheEngineKey.from_string("m@1@0@1f@bfloat16")


def meta(size: int = 8) -> ClientMetaMessage:
    return ClientMetaMessage(ClientCommand.PUT, KEY, size, MemoryFormat.BINARY, torch.uint8, torch.Size([size]))


@pytest.fixture
def faulty() -> FaultyBackend:
    backend = FaultyBackend(LMSLocalBackend())
    backend.put(meta(), bytearray(b"abcdefgh"))
    return backend


def read(backend: FaultyBackend) -> bytes | None:
    obj = backend.get(KEY)
    return None if obj is None else bytes(obj.data)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.001)


def test_without_orders_it_is_the_inner_backend(faulty: FaultyBackend) -> None:
    assert read(faulty) == b"abcdefgh"
    assert faulty.contains(KEY)
    buffer = bytearray(8)
    assert faulty.get_into(KEY, buffer) is not None
    assert buffer == b"abcdefgh"
    with faulty.view(KEY) as view:
        assert view is not None
    assert [info.stored_bytes for info in faulty.scan()] == [8]
    assert faulty.get_many([KEY, CacheEngineKey.from_string("x")])[1] is None
    faulty.put_many([(meta(), bytearray(b"12345678"))])
    assert read(faulty) == b"12345678"
    faulty.remove_many([KEY])
    assert faulty.list_keys() == []
    assert faulty.capabilities.remove
    assert faulty.calls["get"] == 2


def test_a_call_fails_as_often_as_ordered_and_changes_nothing(faulty: FaultyBackend) -> None:
    faulty.inject("put", Fault.FAIL, times=2)
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            faulty.put(meta(), bytearray(8))
    assert read(faulty) == b"abcdefgh"
    faulty.put(meta(), bytearray(8))
    assert read(faulty) == bytes(8)
    assert faulty.fired[Fault.FAIL] == 2


def test_it_raises_anything_asked_for_also_after_the_deed(faulty: FaultyBackend) -> None:
    faulty.inject("put", Fault.FAIL_AFTER, error=ZeroDivisionError, times=1)
    with pytest.raises(ZeroDivisionError):
        faulty.put(meta(), bytearray(8))
    assert read(faulty) == bytes(8)


def test_answers_can_be_missing_short_or_lies(faulty: FaultyBackend) -> None:
    faulty.inject("get", Fault.NOTHING, times=1)
    assert read(faulty) is None
    faulty.inject("get", Fault.WRONG_LENGTH, times=1)
    assert read(faulty) == b"abcdefg"
    faulty.inject("get_into", Fault.WRONG_LENGTH, times=1)
    found = faulty.get_into(KEY, bytearray(8))
    assert found is not None
    assert found.length == 7
    faulty.inject("get_many", Fault.WRONG_LENGTH, times=1)
    assert len(faulty.get_many([KEY])) == 2
    faulty.inject("contains", Fault.LIE, times=1)
    assert not faulty.contains(KEY)
    assert faulty.contains(KEY)


def test_a_blocked_call_goes_on_when_released_and_ends_when_closed(faulty: FaultyBackend) -> None:
    faulty.inject("get", Fault.BLOCK)
    ended: list[Any] = []

    def call() -> None:
        try:
            ended.append(read(faulty))
        except BackendClosedError as error:
            ended.append(type(error))

    for finish, outcome in ((faulty.release, b"abcdefgh"), (faulty.close, BackendClosedError)):
        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: faulty.blocked == 1)
        finish()
        thread.join(60)
        assert ended.pop() == outcome


def test_heal_takes_every_order_back(faulty: FaultyBackend) -> None:
    faulty.inject("*", Fault.FAIL)
    with pytest.raises(StorageUnavailableError):
        faulty.list_keys()
    faulty.heal()
    assert read(faulty) == b"abcdefgh"


def test_closing_the_inner_backend_is_a_fault_too(faulty: FaultyBackend) -> None:
    faulty.inject("get", Fault.CLOSE, times=1)
    with pytest.raises(BackendClosedError):
        read(faulty)


def test_probabilities_repeat_with_the_seed() -> None:
    def outcomes() -> list[bool]:
        backend = FaultyBackend(LMSLocalBackend(), seed=5)
        backend.inject("contains", Fault.LIE, probability=0.5)
        return [backend.contains(KEY) for _ in range(40)]

    first = outcomes()
    assert first == outcomes()
    assert 5 < sum(first) < 35


def test_a_device_text_wraps_any_backend(tmp_path: Path) -> None:
    with CreateStorageBackend(f"faulty:lmdb:{tmp_path}/kv%3Fcapacity=8MiB?nothing=1") as backend:
        backend.put(meta(), bytearray(8))
        assert backend.contains(KEY)
        assert backend.get(KEY) is None
    with CreateStorageBackend(
        f"cpu?capacity=1MiB > faulty:lmdb:{tmp_path}/other?capacity=8MiB&fail=0.5&seed=3"
    ) as store:
        for _ in range(20):
            store.put(meta(), bytearray(b"abcdefgh"))
            obj = store.get(KEY)
            assert obj is not None
            assert bytes(obj.data) == b"abcdefgh"


def test_a_probability_above_one_is_refused() -> None:
    with pytest.raises(ConfigError):
        CreateStorageBackend("faulty:cpu?fail=2")


def test_heal_lets_a_call_go_on_that_was_told_to_block_and_does_not_yet() -> None:
    for stop in each_stop(faulty_module.__file__, ("_call", "_draw", "_block"), "caller"):
        backend = FaultyBackend(LMSLocalBackend())
        backend.inject("get", Fault.BLOCK)
        caller = threading.Thread(target=backend.get, args=(KEY,), name="caller")
        caller.start()
        stop.beside(backend.heal)
        caller.join(60)
        assert not caller.is_alive()


LINES = [
    "get fail",
    "get fail @3",
    "put fail-after x2",
    "* slow p=0.05 for=200ms",
    "contains lie @2 x4 p=0.5",
    "get nothing; put fail @1",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_faults_reads_as_it_was_written(line: str) -> None:
    assert "; ".join(map(str, parse_orders(line))) == line


@pytest.mark.parametrize(
    "line", ["get", "get break", "get fail @0", "get fail p=2.5.1", "get fail x", "GET fail", "get fail put fail"]
)
def test_what_is_no_fault_is_refused_with_an_example(line: str) -> None:
    with pytest.raises(ConfigError, match="get fail @3"):
        CreateStorageBackend(f"faulty:cpu?faults={line}")


def outcomes(backend: FaultyBackend) -> list[object]:
    found: list[object] = []
    for i in range(200):
        for call in (
            partial(backend.put, meta(), bytearray([i] * 8)),
            partial(read, backend),
            partial(backend.contains, KEY),
        ):
            try:
                found.append(call())
            except StorageUnavailableError:
                found.append("failed")
    return found


def test_what_happened_by_chance_is_a_line_that_makes_it_happen_again() -> None:
    backend = FaultyBackend(LMSLocalBackend(), seed=7)
    backend.order("* fail p=0.1; get nothing p=0.1; contains lie p=0.2; put fail-after p=0.1")
    first = outcomes(backend)
    again = FaultyBackend(LMSLocalBackend())
    again.order(backend.happened)
    assert outcomes(again) == first
    assert "failed" in first
    assert again.happened == backend.happened
    assert backend.happened in repr(backend)


def test_an_error_says_which_fault_it_was_and_when() -> None:
    with CreateStorageBackend("faulty:cpu?faults=list_keys fail @2") as backend:
        assert backend.list_keys() == []
        with pytest.raises(StorageUnavailableError, match="list_keys fail @2"):
            backend.list_keys()
        assert backend.list_keys() == []


def test_a_program_that_the_kit_prints_holds_the_line() -> None:
    report = run_properties(DeviceHarness("faulty:cpu?faults=get nothing @1"), profile="quick", only=["PUT-01"])
    (result,) = [result for result in report.results if result.id == "PUT-01"]
    assert result.status is Status.FAILED
    assert "get nothing @1" in explain(report)


def test_what_the_page_of_the_kit_shows_of_faults_works() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
    (shown,) = [block for block in blocks(page) if "unlucky" in block.body]
    exec(compile(shown.body, str(page), "exec"), {})
