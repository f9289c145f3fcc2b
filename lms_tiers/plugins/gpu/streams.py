"""The thin layer between the backend and a device: memory, streams, fences and copies; everything else is above it.

`Streams` is what a device offers, `HostStreams` the host playing a device whose copies are over when they are asked
for. The accelerators' own is in `torch_streams`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from lms_tiers.arena.chunk import Fence
from lms_tiers.arena.recycle import map_block
from lms_tiers.errors import StorageUnavailableError

if TYPE_CHECKING:
    import torch

#: An order of work on a device; work of one stream happens in the order it was asked for.
Stream: TypeAlias = Any


class Streams(Protocol):
    """What the backend needs of a device. Everything but `join` only asks for work and returns."""

    @property
    def device(self) -> torch.device:
        """The device."""

    @property
    def granule(self) -> int:
        """The device's allocator takes whole multiples of this many bytes."""

    def memory(self, nbytes: int) -> torch.Tensor:
        """One allocation on the device, flat uint8 (`DeviceMemoryError`)."""

    def empty(self, nbytes: int) -> torch.Tensor:
        """Device memory of the caller's own, for use in the current stream."""

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether copies of a tensor are the device's own, in the caller's stream; otherwise it is the host's."""

    def locked(self, nbytes: int) -> Any:
        """Host memory that the device reads and writes by itself, as a writable exporter of a buffer."""

    def is_locked(self, host: torch.Tensor) -> bool:
        """Whether a host tensor lies in such memory."""

    def stream(self) -> Stream:
        """A new stream."""

    def current(self) -> Stream:
        """The calling thread's current stream."""

    def record(self, stream: Stream) -> Fence:
        """A fence passed when everything asked of `stream` so far is done."""

    def wait(self, stream: Stream, fence: Fence) -> None:
        """Let what is asked of `stream` from now on start only after `fence`; the caller does not wait."""

    def done(self, fence: Fence) -> bool:
        """Whether `fence` is passed."""

    def join(self, fence: Fence) -> None:
        """Wait here, without the GIL, until `fence` is passed."""

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Ask `stream` for a copy between equally long flat uint8 tensors; both stay alive and untouched until then."""


class HostStreams:
    """The host as a device: every copy is over when it was asked for, every fence is passed."""

    granule = 1

    def __init__(self) -> None:
        import torch

        self.device = torch.device("cpu")

    def memory(self, nbytes: int) -> torch.Tensor:
        """Host memory."""
        import torch

        try:
            return torch.frombuffer(map_block(nbytes), dtype=torch.uint8)
        except (OSError, OverflowError, ValueError) as error:
            raise StorageUnavailableError("gpu:cpu", f"{nbytes} bytes of memory cannot be mapped: {error}") from error

    def empty(self, nbytes: int) -> torch.Tensor:
        """Host memory."""
        import torch

        return torch.empty(nbytes, dtype=torch.uint8)

    def holds(self, tensor: torch.Tensor) -> bool:
        """There is but one memory."""
        return True

    def locked(self, nbytes: int) -> Any:
        """Ordinary memory serves."""
        return map_block(nbytes)

    def is_locked(self, host: torch.Tensor) -> bool:
        """All of it serves, so nothing needs staging."""
        return True

    def stream(self) -> Stream:
        """There is but one order: the calling threads' own."""
        return None

    def current(self) -> Stream:
        """The same."""
        return None

    def record(self, stream: Stream) -> Fence:
        """Nothing is ever under way."""
        return None

    def wait(self, stream: Stream, fence: Fence) -> None:
        """Nothing to wait for."""

    def done(self, fence: Fence) -> bool:
        """Always."""
        return True

    def join(self, fence: Fence) -> None:
        """Nothing to wait for."""

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Copy now, without the GIL."""
        target.copy_(source)
