"""Streams of the accelerators that torch knows: CUDA, ROCm (which torch also calls ``cuda``) and XPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lms_tiers.arena.chunk import Fence
from lms_tiers.arena.host import Locker, lock_block
from lms_tiers.arena.recycle import map_block
from lms_tiers.errors import DeviceMemoryError, StorageUnavailableError
from lms_tiers.plugins.gpu.streams import Stream

if TYPE_CHECKING:
    import torch


class TorchStreams:
    """`Streams` over a torch device module.

    Raises
    ------
    StorageUnavailableError
        torch has no such device here, or its module no streams.
    """

    #: torch's allocator rounds allocations of 10 MiB and more up to this.
    granule = 2 << 20

    def __init__(self, device: torch.device) -> None:
        self.device: Final = device
        self._module: Final = _module(device)
        self._locker: Final = Locker.find()[0] if device.type == "cuda" else None

    def memory(self, nbytes: int) -> torch.Tensor:
        """One allocation; what lay there before is waited for, so that every stream may use it."""
        import torch

        try:
            memory = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError:
            free = int(self._module.mem_get_info(self.device)[0])
            raise DeviceMemoryError(f"gpu {self.device}", nbytes, free) from None
        self.join(self.record(self.current()))
        return memory

    def empty(self, nbytes: int) -> torch.Tensor:
        """From torch's allocator, which knows the current stream."""
        import torch

        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Every accelerator's memory: torch orders copies between two of them with both current streams."""
        return tensor.device.type != "cpu"

    def locked(self, nbytes: int) -> Any:
        """A page-locked mapping, exactly as large; ordinary memory where the driver refuses, which is only slower."""
        import torch

        if self._locker is not None:
            return lock_block(self._locker, map_block(nbytes))[0]
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()

    def is_locked(self, host: torch.Tensor) -> bool:
        """Whether the driver knows the memory."""
        return host.is_pinned()

    def stream(self) -> Stream:
        """A new stream."""
        return self._module.Stream(device=self.device)

    def current(self) -> Stream:
        """The calling thread's current stream on this device."""
        return self._module.current_stream(self.device)

    def record(self, stream: Stream) -> Fence:
        """An event."""
        event = self._module.Event()
        event.record(stream)
        return event

    def wait(self, stream: Stream, fence: Fence) -> None:
        """The stream waits, nobody else."""
        stream.wait_event(fence)

    def done(self, fence: Fence) -> bool:
        """Ask the event."""
        return bool(fence.query())

    def join(self, fence: Fence) -> None:
        """Wait for the event; torch releases the GIL."""
        fence.synchronize()

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Stream) -> None:
        """Ask for a copy; between locked host memory and the device it needs no processor."""
        with self._module.stream(stream):
            target.copy_(source, non_blocking=True)


def _module(device: torch.device) -> Any:
    import torch

    where = f"gpu {device}"
    try:
        module = torch.get_device_module(device)
    except RuntimeError:
        raise StorageUnavailableError(
            where, f"torch {torch.__version__} knows no device of type {device.type}"
        ) from None
    missing = [name for name in ("Stream", "Event", "current_stream", "mem_get_info") if not hasattr(module, name)]
    if missing:
        raise StorageUnavailableError(where, f"torch.{device.type} has no {', '.join(missing)}: it cannot be a tier")
    if not module.is_available():
        raise StorageUnavailableError(where, _absent(device))
    if device.index >= module.device_count():
        count = module.device_count()
        raise StorageUnavailableError(where, f"this machine has {count}, numbered from 0: use gpu:0 to gpu:{count - 1}")
    return module


def _absent(device: torch.device) -> str:
    """What is missing: the build, or the device."""
    import torch

    built = torch.version.cuda or torch.version.hip if device.type == "cuda" else torch.xpu._is_compiled()
    if not built:
        needed = "CUDA or ROCm" if device.type == "cuda" else device.type.upper()
        return (
            f"torch {torch.__version__} is built without {needed}: install a build for your accelerator "
            "(pytorch.org/get-started), or use cpu or pinned"
        )
    return f"torch {torch.__version__} sees no device: check the driver and the visible devices, or use cpu or pinned"
