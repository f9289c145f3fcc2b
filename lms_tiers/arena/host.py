"""The host arena's memory: one private mapping of the capacity, page-locked for the accelerator where asked for."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from lms_tiers.arena.copying import as_array
from lms_tiers.arena.recycle import byte_array, map_block
from lms_tiers.errors import StorageUnavailableError

if TYPE_CHECKING:
    from lms_tiers.arena.copying import Bytes
    from lms_tiers.arena.pages import Run

_log = logging.getLogger(__name__)


class Locker:
    """Page-locks memory of this process for the accelerator, by the driver's registration call (CUDA and ROCm).

    Registering a mapping of ours locks exactly its bytes; torch's own pinned allocator rounds up to a power of two
    and would take up to twice a tier's capacity.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime: Final = runtime

    @staticmethod
    def find() -> tuple[Locker | None, str]:
        """A locker, or None and what is missing."""
        import torch

        if not torch.cuda.is_available():
            built = "sees no device" if torch.version.cuda or torch.version.hip else "is built without CUDA or ROCm"
            return None, f"torch {torch.__version__} {built}"
        return Locker(torch.cuda.cudart()), ""  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def lock(self, address: int, nbytes: int) -> str | None:
        """Lock memory; answers what went wrong, or None."""
        code = int(self._runtime.cudaHostRegister(address, nbytes, 1))  # 1: for every context of the process
        if code == 0:
            return None
        _forget_last_error()
        return f"the driver refused to lock {nbytes} bytes (cudaHostRegister answered {code})"

    def unlock(self, address: int) -> None:
        """Unlock what was locked at `address`."""
        code = int(self._runtime.cudaHostUnregister(address))
        if code != 0:
            _log.warning("cudaHostUnregister answered %d: pages stay locked until the process ends.", code)


def _forget_last_error() -> None:
    """Let torch see and drop the driver's last error here, so that it does not blame the next kernel for it."""
    import torch

    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")


def lock_block(locker: Locker | None, block: mmap.mmap) -> tuple[Any, str | None]:
    """An exporter over `block` that unlocks it before the mapping goes, and what kept it from being locked."""
    exporter = byte_array(len(block)).from_buffer(block)
    if locker is None:
        return exporter, None
    address = ctypes.addressof(exporter)
    if (fault := locker.lock(address, len(block))) is not None:
        return exporter, fault
    # The finaliser holds the mapping, so it is unlocked first and unmapped after. At exit the system does both.
    weakref.finalize(exporter, _unlock, locker, address, block, os.getpid()).atexit = False
    return exporter, None


def _unlock(locker: Locker, address: int, block: mmap.mmap, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has no part in the parent's registration
        locker.unlock(address)


#: Where the arena begins within its mapping. Buffers mostly begin at or just behind a page: a copy between addresses
#: that agree in their last twelve bits runs at half speed, as each load waits for a store that only looks like its own.
SKEW: Final = mmap.PAGESIZE // 2


class HostMemory:
    """One mapping of `nbytes` and a page more, as bytes and as a tensor.

    Attributes
    ----------
    locked : bool
        Whether it is page-locked.
    """

    def __init__(self, name: str, nbytes: int, page_bytes: int, *, pin: str, prefault: bool = False) -> None:
        self.page_bytes: Final = page_bytes
        locker: Locker | None = None
        if pin != "off":
            locker, missing = Locker.find()
            if locker is None:
                _unlocked(name, pin, missing)
        try:
            block = map_block(nbytes + mmap.PAGESIZE)
        except (OSError, OverflowError, ValueError) as error:
            raise StorageUnavailableError(name, f"{nbytes} bytes of memory cannot be mapped: {error}") from error
        self.exporter, fault = lock_block(locker, block)
        if fault is not None:
            _unlocked(name, pin, fault)
        self.locked: Final = locker is not None and fault is None
        self.bytes: Final[Bytes] = as_array(self.exporter)[SKEW : SKEW + nbytes]
        if prefault and not self.locked:  # locking has touched every page already
            self.bytes[:: mmap.PAGESIZE] = 0

    def spans(self, runs: tuple[Run, ...], nbytes: int) -> list[Bytes]:
        """The first `nbytes` of `runs` as arrays over the arena."""
        if len(runs) == 1 and nbytes <= runs[0][1] * self.page_bytes:
            start = runs[0][0] * self.page_bytes
            return [self.bytes[start : start + nbytes]]
        return [self.bytes[start:end] for start, end in span_edges(runs, nbytes, self.page_bytes)]

    def tensors(self, runs: tuple[Run, ...], nbytes: int) -> list[Any]:
        """The same as flat uint8 tensors."""
        import torch

        return [torch.from_numpy(span) for span in self.spans(runs, nbytes)]


def span_edges(runs: tuple[Run, ...], nbytes: int, page_bytes: int) -> list[tuple[int, int]]:
    """First byte and end of each piece of the first `nbytes` of `runs`."""
    edges: list[tuple[int, int]] = []
    for first, pages in runs:
        size = min(nbytes, pages * page_bytes)
        edges.append((first * page_bytes, first * page_bytes + size))
        nbytes -= size
    return edges


def _unlocked(name: str, pin: str, reason: str) -> None:
    if pin == "require":
        raise StorageUnavailableError(
            name, f"memory cannot be page-locked: {reason}. Use pin=auto to go on with ordinary memory."
        )
    _say(f"{name} uses ordinary memory, not page-locked: {reason}.")


@lru_cache(maxsize=16)
def _say(text: str) -> None:
    """Warn once in a process, not once a backend."""
    _log.warning(text)
