"""The backend's one allocation and its windows: reserve, ask the device, publish; lease, ask the device, release."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import pydantic

from lms_tiers.arena.arena import Arena
from lms_tiers.arena.backend import ArenaBackend, checked_page_bytes, needed_capacity
from lms_tiers.arena.chunk import Chunk
from lms_tiers.arena.copying import Copier, as_array
from lms_tiers.arena.recycle import Recycler, byte_array, map_block
from lms_tiers.errors import BackendClosedError, CapacityError
from lms_tiers.interface import ChunkView, LMSBackendInterface
from lms_tiers.messages import ChunkMeta, ClientMetaMessage
from lms_tiers.options import Options, Size
from lms_tiers.plugins.gpu.staging import Ring
from lms_tiers.plugins.gpu.streams import Streams
from lms_tiers.plugins.gpu.transfers import Transfers

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes

_log = logging.getLogger(__name__)

_SLOTS: Final = 8
#: Batches are filled and published in windows of this many bytes.
WINDOW: Final = 64 << 20


class GpuOptions(Options):
    """Options of ``gpu``."""

    page: Annotated[Size, pydantic.Field(description="bytes of one arena page, a power of two")] = 4 << 10
    staging: Annotated[Size, pydantic.Field(ge=1 << 16, description="bytes of page-locked staging")] = 16 << 20
    recycle: Annotated[Size, pydantic.Field(description="bytes of page-locked buffers kept for `get`")] = 128 << 20
    threads: Annotated[int, pydantic.Field(ge=0, le=64, description="threads that stage; 0: by the machine")] = 0


class GpuCore(ArenaBackend):
    """Everything of the backend but the contract's methods.

    Parameters
    ----------
    name : str
        For errors and logs.
    capacity : int
        Bytes; rounded down to what the device's allocator takes whole, all of it taken at once.
    options : GpuOptions
    streams : Streams
        The device.
    """

    def __init__(self, name: str, capacity: int, options: GpuOptions, streams: Streams) -> None:
        page_bytes = checked_page_bytes(name, options.page)
        if capacity >= streams.granule:
            capacity -= capacity % streams.granule
        capacity = needed_capacity(name, capacity, page_bytes)
        super().__init__(Arena(name, capacity, page_bytes, fence_done=streams.done))
        self._streams: Final = streams
        self._copier: Final = Copier(options.threads)
        self._recycler: Final = Recycler(options.recycle, self._host_block)
        memory = streams.memory(self._arena.usable_bytes)
        self.device: Final = memory.device
        ring = Ring(streams, _SLOTS, max(4096, options.staging // _SLOTS))
        self._transfers: Transfers | None = Transfers(streams, memory, page_bytes, ring, self._copier)
        self._counting: Final = threading.Lock()

    # -- windows of puts -------------------------------------------------------------------------------------------

    def _fill(self, window: list[tuple[Chunk, Bytes]]) -> None:
        """Copy reserved chunks in and publish them; empties the list."""
        items = list(window)
        window.clear()
        if items:
            self._finish([chunk for chunk, _ in items], lambda: self._now().write_staged(items))

    def _finish(self, chunks: list[Chunk], copy: Callable[[], None]) -> None:
        """Run `copy`, then publish the chunks in order; where anything goes wrong the others are given back."""
        try:
            copy()
            while chunks:
                self._arena.publish(chunks.pop(0))
        except BaseException as error:
            for chunk in chunks:
                self._arena.abandon(chunk)
            raise self._typed(error) from error

    def _put_window(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """`put_from` of as many as there is room for before the chunks they replace give theirs back."""
        held: list[bool] = []
        chunks: list[Chunk] = []
        staged: list[tuple[Chunk, Bytes]] = []
        filling = 0

        def finish() -> None:
            self._now().write_staged(staged)
            self._now().finish_writes()  # the views end with the window

        with contextlib.ExitStack() as views:
            try:
                for client_meta in client_metas:
                    view = views.enter_context(source.view(client_meta.key))
                    right = view is not None and view.meta == ChunkMeta.of(client_meta, client_meta.length)
                    if view is not None and right:
                        try:
                            chunk = self._reserve(client_meta, client_meta.length)
                        except CapacityError:
                            if not chunks:
                                raise
                            break
                        try:
                            self._start(chunk, view, staged)
                        except BaseException:
                            self._arena.abandon(chunk)  # none of those that are published below: it has no bytes
                            raise
                        chunks.append(chunk)
                        filling += client_meta.length
                    held.append(right)
                    if filling >= WINDOW:
                        break
            except RuntimeError as error:
                raise self._typed(error) from error
            finally:
                if chunks:
                    self._finish(chunks, finish)
        return held

    def _start(self, chunk: Chunk, view: ChunkView, staged: list[tuple[Chunk, Bytes]]) -> None:
        """Ask the device for page-locked bytes at once, so that it is busy while the next views are opened."""
        arrays = [as_array(buffer) for buffer in view.buffers if buffer.nbytes]
        tensors = [readable_tensor(array) for array in arrays]
        if all(map(self._streams.is_locked, tensors)):
            self._now().write_locked(chunk, tensors)
        else:
            staged.append((chunk, arrays[0] if len(arrays) == 1 else as_array(b"".join(view.buffers))))

    # -- parts -----------------------------------------------------------------------------------------------------

    def _now(self) -> Transfers:
        transfers = self._transfers
        if transfers is None:
            raise BackendClosedError(self.name)
        return transfers

    def _failed(self, error: RuntimeError) -> None:
        with self._counting:
            self._failures += 1
        _log.warning("%s failed: %s", self.name, str(error).partition("\n")[0])

    def _host_block(self, nbytes: int) -> Any:
        # What callers keep beyond the limit is ordinary memory: locked pages are a machine-wide good.
        within = self._recycler.lent_bytes + nbytes <= self._recycler.limit
        return self._streams.locked(nbytes) if within else map_block(nbytes)

    def _detail(self) -> dict[str, float]:
        return {"recycled": self._recycler.reused, "recycle_idle_bytes": self._recycler.idle_bytes}

    def _quiesce(self) -> None:
        self._copier.settle()
        transfers = self._transfers
        if transfers is not None:
            with contextlib.suppress(RuntimeError):  # a device that fails is at no pages
                transfers.finish([self._streams.record(self._streams.current())])
            transfers.give_back()

    def _close(self) -> None:
        # No memory goes back to the device's allocator while a copy may still be at it.
        pending = self._arena.drain()
        transfers, self._transfers = self._transfers, None
        if transfers is not None:
            with contextlib.suppress(RuntimeError):
                transfers.finish(pending)
        self._recycler.close()
        self._copier.close()


class Reads:
    """Copies of leased chunks to the host, under way beside each other; at the block's end they are done, or `failed`.

    A device that fails makes misses and a count, never an exception and never half-filled buffers that look whole.
    """

    def __init__(self, transfers: Transfers, on_failure: Callable[[RuntimeError], None]) -> None:
        self.failed = False
        self._transfers: Final = transfers
        self._on_failure: Final = on_failure
        self._any = False

    def add(self, chunk: Chunk, targets: Sequence[torch.Tensor], *, ordered: bool = False) -> None:
        """Ask for one copy."""
        if targets and not self.failed:
            self._any = True
            try:
                self._transfers.read_host(chunk, targets, ordered=ordered)
            except RuntimeError as error:
                self._fail(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Also after an error: copies may be under way into buffers that are about to be used again.
        if self._any:
            try:
                self._transfers.finish_reads()
            except RuntimeError as failure:
                self._fail(failure)

    def _fail(self, error: RuntimeError) -> None:
        if not self.failed:
            self.failed = True
            self._on_failure(error)


def readable_tensor(array: Bytes) -> torch.Tensor:
    """A flat tensor over an array that may be read-only, which torch would warn of; it is only read, and only now."""
    import torch

    return torch.frombuffer(byte_array(array.size).from_address(array.ctypes.data), dtype=torch.uint8)


def as_tensors(buffer: memoryview | Bytes) -> list[torch.Tensor]:
    """A writable buffer as a list of one flat tensor, or of none where it is empty."""
    import torch

    return [torch.frombuffer(buffer, dtype=torch.uint8)] if buffer.nbytes else []
