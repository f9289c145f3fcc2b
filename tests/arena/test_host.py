"""The host arena's memory: locked where it can be, honest where it cannot, unlocked before it goes."""

from __future__ import annotations

import gc
import logging

import pytest
import torch

from lms_tiers.arena import host
from lms_tiers.arena.host import HostMemory, Locker, span_edges
from lms_tiers.errors import StorageUnavailableError

PAGE = 4096


class Runtime:
    """The driver's two calls, recorded."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.locked: dict[int, int] = {}
        self.calls: list[str] = []

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        self.calls.append("lock")
        if self.code == 0:
            self.locked[address] = nbytes
        return self.code

    def cudaHostUnregister(self, address: int) -> int:
        self.calls.append("unlock")
        return 0 if self.locked.pop(address, None) else 1


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime()
    monkeypatch.setattr(Locker, "find", staticmethod(lambda: (Locker(runtime), "")))
    monkeypatch.setattr(host, "_forget_last_error", lambda: None)
    return runtime


def test_memory_is_locked_whole_and_unlocked_when_the_last_view_died(runtime: Runtime) -> None:
    memory = HostMemory("pinned", 8 * PAGE, PAGE, pin="require")
    assert memory.locked
    assert list(runtime.locked.values()) == [9 * PAGE], "the capacity and a page, not a power of two above it"
    span = memory.spans(((2, 1),), 10)[0]
    del memory
    gc.collect()
    assert runtime.calls == ["lock"], "a view may still be read by the device"
    del span
    gc.collect()
    assert runtime.calls == ["lock", "unlock"]
    assert not runtime.locked


def test_a_driver_that_refuses_leaves_ordinary_memory_and_a_warning(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.code = 2
    with caplog.at_level(logging.WARNING):
        memory = HostMemory("pinned refused", 2 * PAGE, PAGE, pin="auto")
        again = HostMemory("pinned refused", 2 * PAGE, PAGE, pin="auto")
    assert not memory.locked
    assert not again.locked
    assert caplog.text.count("not page-locked") == 1, "it says so once"
    with pytest.raises(StorageUnavailableError, match="cudaHostRegister answered 2"):
        HostMemory("pinned", 2 * PAGE, PAGE, pin="require")


def test_pin_off_asks_no_driver(runtime: Runtime) -> None:
    assert not HostMemory("pinned", PAGE, PAGE, pin="off", prefault=True).locked
    assert runtime.calls == []


def test_an_unlock_that_fails_is_logged(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    Locker(runtime).unlock(1)
    assert "cudaHostUnregister answered 1" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA: the message is for those without")
def test_without_an_accelerator_the_reason_is_told() -> None:
    locker, missing = Locker.find()
    assert locker is None
    assert "torch" in missing
    with pytest.raises(StorageUnavailableError, match="Use pin=auto"):
        HostMemory("pinned", PAGE, PAGE, pin="require")


def test_more_memory_than_the_system_gives_is_a_typed_error() -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be mapped"):
        HostMemory("pinned", 1 << 60, PAGE, pin="off")


def test_spans_end_with_the_chunk() -> None:
    assert span_edges(((3, 2), (0, 1)), 2 * PAGE + 5, PAGE) == [(3 * PAGE, 5 * PAGE), (0, 5)]
    memory = HostMemory("pinned", 8 * PAGE, PAGE, pin="off")
    spans, tensors = memory.spans(((3, 2), (0, 1)), 2 * PAGE + 5), memory.tensors(((3, 2), (0, 1)), 2 * PAGE + 5)
    spans[1][:] = 9
    assert [t.numel() for t in tensors] == [2 * PAGE, 5]
    assert tensors[1].tolist() == [9] * 5
