"""Chunks in one arena of device memory: the contract on top of `transfers`.

One allocation at start, so nothing fragments; no call waits for the device except those that hand bytes to the host.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Optional

import pydantic

from lms_tiers.arena.arena import Arena, Chunk
from lms_tiers.arena.backend import ArenaBackend, checked_page_bytes, flat_tensor, needed_capacity, shaped
from lms_tiers.arena.copying import Copier, as_array, flat_bytes, scattered
from lms_tiers.arena.recycle import Recycler, byte_array, map_block
from lms_tiers.errors import BackendClosedError, CapacityError
from lms_tiers.interface import Capabilities, LMSBackendInterface, tensor_bytes, writable_bytes
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj
from lms_tiers.options import Options, Size
from lms_tiers.plugins.gpu.staging import Ring
from lms_tiers.plugins.gpu.streams import Streams, open_streams
from lms_tiers.plugins.gpu.transfers import Transfers

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes

_log = logging.getLogger(__name__)

_SLOTS: Final = 8
#: `put_many` fills and publishes in windows of this many bytes.
_WINDOW: Final = 64 << 20


class GpuOptions(Options):
    """Options of ``gpu``."""

    page: Annotated[Size, pydantic.Field(description="bytes of one arena page, a power of two")] = 4 << 10
    staging: Annotated[Size, pydantic.Field(ge=1 << 16, description="bytes of page-locked staging")] = 16 << 20
    recycle: Annotated[Size, pydantic.Field(description="bytes of page-locked buffers kept for `get`")] = 128 << 20
    threads: Annotated[int, pydantic.Field(ge=0, le=64, description="threads that stage; 0: by the machine")] = 0


class GpuBackend(ArenaBackend):
    """Device memory as an arena.

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

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, tensors=True)

    def __init__(self, name: str, capacity: int, options: GpuOptions, streams: Streams) -> None:
        page_bytes = checked_page_bytes(name, options.page)
        if capacity >= streams.granule:
            capacity -= capacity % streams.granule
        capacity = needed_capacity(name, capacity, page_bytes)
        super().__init__(Arena(name, capacity, page_bytes, fence_done=streams.done))
        self._streams: Final = streams
        self._copier: Final = Copier(options.threads)
        self._recycler: Final = Recycler(options.recycle, self._host_block)
        ring = Ring(streams, _SLOTS, max(4096, options.staging // _SLOTS))
        memory = streams.memory(self._arena.usable_bytes)
        self.device: Final = memory.device
        self._transfers: Transfers | None = Transfers(streams, memory, page_bytes, ring, self._copier)
        self._counting: Final = threading.Lock()

    # -- host bytes ------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Stage a chunk and ask the device for it; does not wait until it is there."""
        self.put_many([(client_meta, kv_chunk_bytes)])

    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Put in order, staged side by side by several threads."""
        self._arena.check()
        window: list[tuple[Chunk, Any]] = []
        filling = 0
        try:
            for client_meta, data in items:
                source = flat_bytes(client_meta.key.to_string(), data)
                try:
                    chunk = self._reserve(client_meta, source.nbytes)
                except CapacityError:
                    if not window:
                        raise
                    # The chunks this window replaces give their pages back when it is published.
                    self._fill(window)
                    chunk = self._reserve(client_meta, source.nbytes)
                window.append((chunk, as_array(source)))
                filling += source.nbytes
                if filling >= _WINDOW:
                    self._fill(window)
                    filling = 0
        finally:
            # Also when an item raised: the items before it are stored.
            self._fill(window)

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk in a page-locked buffer of the caller's own, which the device filled by itself."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """All copies are under way before the first is waited for."""
        self._arena.check()
        chunks: list[Chunk | None] = []
        try:
            for key in keys:
                chunks.append(self._lease(key))
            copies = [None if chunk is None else self._recycler.take(chunk.meta.length) for chunk in chunks]
            targets = [[] if copy is None else as_tensors(copy) for copy in copies]
            if not self._read([c for c in chunks if c], [t for c, t in zip(chunks, targets, strict=True) if c]):
                return [None] * len(keys)
            return [
                chunk.meta.memory_obj(copy.toreadonly()) if chunk is not None and copy is not None else None
                for chunk, copy in zip(chunks, copies, strict=True)
            ]
        finally:
            for chunk in chunks:
                if chunk is not None:
                    self._arena.release(chunk)

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Copy the chunk into the caller's buffer, straight from the device where it is page-locked."""
        chunk = self._lease(key)
        if chunk is None:
            return None
        try:
            length = chunk.meta.length
            target = writable_bytes(buffer, length)[:length]
            direct = not length or self._streams.is_locked(as_tensors(target)[0])
            copy = target if direct else self._recycler.take(length)
            if not self._read([chunk], [as_tensors(copy)]):
                return None
            if not direct:
                self._copier.copy(as_array(target), as_array(copy))
            return chunk.meta
        finally:
            self._arena.release(chunk)

    def get_scattered(self, key: CacheEngineKey, buffers: Sequence[Any]) -> ChunkMeta | None:
        """Copy the chunk into the caller's buffers, straight from the device where they are page-locked."""
        chunk = self._lease(key)
        if chunk is None:
            return None
        try:
            targets = scattered(buffers, chunk.meta.length)
            tensors = [tensor for target in targets for tensor in as_tensors(target)]
            if all(self._streams.is_locked(tensor) for tensor in tensors):
                return chunk.meta if self._read([chunk], [tensors]) else None
            copy = self._recycler.take(chunk.meta.length)
            if not self._read([chunk], [as_tensors(copy)]):
                return None
            self._copier.scatter(targets, as_array(copy))
            return chunk.meta
        finally:
            self._arena.release(chunk)

    def put_from(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """Copy chunks in from where they lie in the source, by the device itself where that is page-locked."""
        return [self._put_view(client_meta, source) for client_meta in client_metas]

    def _put_view(self, client_meta: ClientMetaMessage, source: LMSBackendInterface) -> bool:
        with source.view(client_meta.key) as view:
            if view is None or view.meta != ChunkMeta.of(client_meta, client_meta.length):
                return False

            def fill(chunk: Chunk) -> None:
                arrays = [as_array(buffer) for buffer in view.buffers if buffer.nbytes]
                tensors = [readable_tensor(array) for array in arrays]
                if tensors and all(self._streams.is_locked(tensor) for tensor in tensors):
                    self._now().write_locked(chunk, tensors)
                    return
                joined = arrays[0] if len(arrays) == 1 else as_array(b"".join(view.buffers))
                self._now().write_staged([(chunk, joined)])

            self._store(client_meta, view.meta.length, fill)
            return True

    # -- tensors ---------------------------------------------------------------------------------------------------

    def get_tensor(self, key: CacheEngineKey, out: torch.Tensor | None = None) -> torch.Tensor | None:
        """The chunk as a tensor on the device, in order with the caller's current stream; no host waits for it.

        With `out` on the host the copy is over at the return.
        """
        chunk = self._lease(key)
        if chunk is None:
            return None
        fence = None
        try:
            length = chunk.meta.length
            if out is None:
                flat = self._streams.empty(length)
            else:
                flat = tensor_bytes(out, length)[:length]
            if self._streams.holds(flat):
                fence = self._now().read_here(chunk, flat)
            elif not self._read_tensor(chunk, flat):
                return None
            return shaped(flat, chunk.meta) if out is None else out
        except RuntimeError as error:
            self._failed(error)
            return None
        finally:
            self._arena.release(chunk, fence)

    def put_tensor(self, client_meta: ClientMetaMessage, tensor: torch.Tensor) -> None:
        """Store a tensor in order with the caller's current stream; it is the caller's again at the return."""
        self._arena.check()
        try:
            source = flat_tensor(tensor)
        except RuntimeError as error:
            raise self._typed(error) from error

        def fill(chunk: Chunk) -> None:
            transfers = self._now()
            if self._streams.holds(source):
                transfers.write_here(chunk, source)
            elif self._streams.is_locked(source):
                transfers.write_locked(chunk, [source], ordered=True)
            else:
                transfers.write_staged([(chunk, source.numpy())])

        self._store(client_meta, source.numel(), fill)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _fill(self, window: list[tuple[Chunk, Any]]) -> None:
        """Copy reserved chunks in and publish them; empties the list."""
        if not window:
            return
        left = list(window)
        window.clear()
        try:
            self._now().write_staged(left)
            while left:
                self._arena.publish(left.pop(0)[0])
        except BaseException as error:
            for chunk, _ in left:
                self._arena.abandon(chunk)
            raise self._typed(error) from error

    def _read(self, chunks: Sequence[Chunk], targets: Sequence[Sequence[Any]], *, ordered: bool = False) -> bool:
        """Copy chunks to host memory and wait; False, counted, where the device failed."""
        transfers = self._now()
        try:
            for chunk, target in zip(chunks, targets, strict=True):
                transfers.read_host(chunk, target, ordered=ordered)
            transfers.finish_reads()
        except RuntimeError as error:
            self._failed(error)
            # Some copies may be under way into buffers that are about to be used again.
            with contextlib.suppress(RuntimeError):
                transfers.finish_reads()
            return False
        return True

    def _read_tensor(self, chunk: Chunk, flat: torch.Tensor) -> bool:
        """Copy a chunk to a host tensor and wait."""
        if not flat.numel():
            return True
        if self._streams.is_locked(flat):
            # The caller's stream may still be at a locked tensor; ordinary ones torch is done with.
            return self._read([chunk], [[flat]], ordered=True)
        copy = self._recycler.take(chunk.meta.length)
        if not self._read([chunk], [as_tensors(copy)]):
            return False
        self._copier.copy(flat.numpy(), as_array(copy))
        return True

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
        within = self._recycler.lent_bytes <= self._recycler.limit
        return self._streams.locked(nbytes) if within else map_block(nbytes)

    def _detail(self) -> dict[str, float]:
        return {
            "recycled": self._recycler.reused,
            "recycle_idle_bytes": self._recycler.idle_bytes,
        }

    def _close(self) -> None:
        # No memory goes back to the device's allocator while a copy may still be at it.
        pending = self._arena.drain()
        transfers, self._transfers = self._transfers, None
        if transfers is not None:
            with contextlib.suppress(RuntimeError):
                transfers.finish(pending)
        self._recycler.close()
        self._copier.close()


def as_tensors(buffer: memoryview | Bytes) -> list[torch.Tensor]:
    """A writable buffer as a list of one flat tensor, or of none where it is empty."""
    import torch

    return [torch.frombuffer(buffer, dtype=torch.uint8)] if buffer.nbytes else []


def readable_tensor(array: Bytes) -> torch.Tensor:
    """A flat tensor over an array that may be read-only, which torch would warn of; it is only read, and only now."""
    import torch

    return torch.frombuffer(byte_array(array.size).from_address(array.ctypes.data), dtype=torch.uint8)


def open_backend(location: str, capacity: int | None, options: GpuOptions) -> GpuBackend:
    """Open ``gpu:LOCATION``.

    Raises
    ------
    ConfigError
        No capacity, or a location that names no device.
    StorageUnavailableError
        No such device here; `DeviceMemoryError` where its free memory is less than the capacity.
    """
    streams = open_streams(location)
    name = f"gpu:{location or '0'}"
    return GpuBackend(name, needed_capacity(name, capacity, 1), options, streams)
