"""`gpu`: device texts that work, and honest errors for those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lms_tiers.errors import (
    ConfigError,
    DeviceMemoryError,
    StorageUnavailableError,
)
from lms_tiers.plugins.gpu.backend import GpuBackend, GpuOptions
from lms_tiers.plugins.gpu.streams import HostStreams
from lms_tiers.plugins.gpu.torch_streams import TorchStreams
from tests.plugins.arena_chunks import MIB, content, key, message, open_text
from tests.plugins.gpu.machine import needs_accelerator, needs_none


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("gpu:cpu", "needs a capacity"),
        ("gpu:nonsense?capacity=1MiB", "names no device"),
        ("gpu:cpu?capacity=1MiB&page=5000B", "power of two"),
        ("gpu:cpu?capacity=1MiB&staging=1KiB", "staging"),
    ],
)
def test_a_device_text_that_does_not_work_says_why(device: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_text(device)


@needs_none
@pytest.mark.parametrize("device", ["gpu", "gpu:0", "cuda:0", "gpu:cuda:1", "gpu:xpu:0"])
def test_without_an_accelerator_it_says_what_is_missing(device: str) -> None:
    with pytest.raises(StorageUnavailableError, match=r"is built without|sees no device|knows no device"):
        open_text(f"{device}?capacity=64MiB")


def test_a_device_type_without_streams_says_so() -> None:
    with pytest.raises(StorageUnavailableError, match=r"it cannot be a tier|knows no device"):
        open_text("gpu:mps?capacity=64MiB")


def test_the_arena_on_host_memory_opens_by_device_text() -> None:
    with open_text("gpu:cpu?capacity=1MiB&page=8KiB") as backend:
        backend.put(message("k", 9000), content(1, 9000))
        assert backend.stored_bytes(key("k")) == 16384
        assert backend.capabilities.tensors


def test_capacity_is_rounded_down_to_what_the_allocator_takes_whole(make_streams: Any) -> None:
    streams = make_streams()
    streams.granule = 2 * MIB
    with GpuBackend("gpu", 5 * MIB, GpuOptions(), streams) as backend:
        assert backend.usable_bytes == 4 * MIB


def test_more_memory_than_the_system_gives_is_a_typed_error() -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be mapped"):
        GpuBackend("gpu:cpu", 1 << 60, GpuOptions(), HostStreams())


class FakeModule:
    """What torch's device modules offer, as far as it is used, over nothing."""

    def __init__(self, *, available: bool = True, count: int = 2) -> None:
        self.available, self.count = available, count
        self.Stream = self.Event = self.current_stream = self.stream = None

    def is_available(self) -> bool:
        return self.available

    def device_count(self) -> int:
        return self.count

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return 123, 456


def test_an_index_beyond_the_last_device_names_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_device_module", lambda device: FakeModule())
    with pytest.raises(StorageUnavailableError, match="use gpu:0 to gpu:1"):
        TorchStreams(torch.device("xpu", 2))


def test_a_build_that_sees_no_device_says_to_check_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_device_module", lambda device: FakeModule(available=False))
    monkeypatch.setattr("torch.version.cuda", "13.0")
    with pytest.raises(StorageUnavailableError, match="check the driver"):
        TorchStreams(torch.device("cuda", 0))


def test_too_little_device_memory_is_a_typed_error_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_device_module", lambda device: FakeModule())
    streams = TorchStreams(torch.device("xpu", 0))

    def full(*args: object, **kwargs: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("torch.empty", full)
    with pytest.raises(DeviceMemoryError) as error:
        streams.memory(1000)
    assert (error.value.asked, error.value.free) == (1000, 123)


@needs_accelerator
def test_out_of_memory_at_start_is_a_typed_error() -> None:
    with pytest.raises(DeviceMemoryError):
        open_text("gpu:0?capacity=900GiB")
