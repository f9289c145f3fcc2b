"""The backend `gpu`: the contract over an arena of device memory.

One allocation at start, so nothing fragments; no call waits for the device except those that hand bytes to the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Optional

from lms_tiers.arena.backend import flat_tensor, needed_capacity, shaped
from lms_tiers.arena.chunk import Chunk
from lms_tiers.arena.copying import as_array, flat_bytes, scattered
from lms_tiers.buffers import tensor_bytes
from lms_tiers.changes import mending
from lms_tiers.errors import CapacityError, InvalidBufferError
from lms_tiers.interface import Capabilities
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.plugins.gpu.core import WINDOW, GpuCore, GpuOptions, Reads, as_tensors
from lms_tiers.plugins.gpu.opening import open_streams

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes

__all__ = ["GpuBackend", "GpuOptions", "open_backend"]


class GpuBackend(GpuCore):
    """Device memory as an arena; see `GpuCore` for the parameters."""

    capabilities: ClassVar[Capabilities] = Capabilities(remove=True, tensors=True)

    # -- in --------------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Stage a chunk and ask the device for it; does not wait until it is there."""
        self.put_many([(client_meta, kv_chunk_bytes)])

    @mending
    def put_many(self, items: Sequence[tuple[ClientMetaMessage, bytearray]]) -> None:
        """Put in order, staged side by side by several threads."""
        self._arena.check()
        window: list[tuple[Chunk, Bytes]] = []
        filling = 0
        try:
            for client_meta, data in items:
                source = flat_bytes(key_text(client_meta.key), data)
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
                if filling >= WINDOW:
                    self._fill(window)
                    filling = 0
        finally:
            # Also when an item raised: the items before it are stored.
            self._fill(window)

    @mending
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
                transfers.finish_writes()
            else:
                transfers.write_staged([(chunk, source.numpy())])

        self._store(client_meta, source.numel(), fill)

    # -- out -------------------------------------------------------------------------------------------------------

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk in a page-locked buffer of the caller's own, which the device filled by itself."""
        return self.get_many([key])[0]

    @mending
    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """All copies are under way before the first is waited for."""
        self._arena.check()
        chunks: list[Chunk] = []
        copies: list[tuple[Chunk, memoryview] | None] = []
        try:
            with self._reads() as reads:
                for key in keys:
                    chunk = self._lease(key)
                    if chunk is None:
                        copies.append(None)
                        continue
                    chunks.append(chunk)
                    copy = self._recycler.take(chunk.meta.length)
                    reads.add(chunk, as_tensors(copy))
                    copies.append((chunk, copy))
            if reads.failed:
                return [None] * len(keys)
            return [found and found[0].meta.memory_obj(found[1].toreadonly()) for found in copies]
        finally:
            for chunk in chunks:
                self._arena.release(chunk)

    @mending
    def get_many_into(
        self, requests: Iterable[tuple[CacheEngineKey, Sequence[Any]]], *,
        expected: Sequence[ChunkMeta | None] | None = None, spoiled: set[int] | None = None,
    ) -> list[ChunkMeta | None]:  # fmt: skip
        """The copies run while the next requests are taken; waits once."""
        self._arena.check()
        chunks: list[Chunk] = []
        lent: set[int] = set()

        def leased() -> Iterable[tuple[Chunk, list[Bytes]] | None]:
            for number, (key, buffers) in enumerate(requests):
                chunk = self._lease(key)
                if chunk is None:
                    yield None
                    continue
                chunks.append(chunk)
                if expected is not None and expected[number] not in (None, chunk.meta):
                    yield None
                    continue
                try:
                    targets = scattered(buffers, chunk.meta.length)
                except InvalidBufferError:
                    yield None
                    continue
                lent.add(number)
                yield chunk, targets

        try:
            found = self._scatter(leased())
            if spoiled is not None:
                spoiled.update(number for number in lent if found[number] is None)
            return found
        finally:
            for chunk in chunks:
                self._arena.release(chunk)

    @mending
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
            elif length and self._streams.is_locked(flat):
                # The caller's stream may still be at a locked tensor; ordinary ones torch is done with.
                with self._reads() as reads:
                    reads.add(chunk, [flat], ordered=True)
                if reads.failed:
                    return None
            elif length and self._scatter([(chunk, [flat.numpy()])])[0] is None:
                return None
            return shaped(flat, chunk.meta) if out is None else out
        except RuntimeError as error:
            self._failed(error)
            return None
        finally:
            self._arena.release(chunk, fence)

    def _reads(self) -> Reads:
        return Reads(self._now(), self._failed)

    def _scatter(self, wanted: Iterable[tuple[Chunk, list[Bytes]] | None]) -> list[ChunkMeta | None]:
        """Copy leased chunks to host memory, through page-locked buffers where it is not; None where that failed."""
        found: list[ChunkMeta | None] = []
        staged: list[tuple[list[Bytes], memoryview]] = []
        with self._reads() as reads:
            for item in wanted:
                if item is None:
                    found.append(None)
                    continue
                chunk, targets = item
                tensors = [tensor for target in targets for tensor in as_tensors(target)]
                if not all(map(self._streams.is_locked, tensors)):
                    copy = self._recycler.take(chunk.meta.length)
                    staged.append((targets, copy))
                    tensors = as_tensors(copy)
                reads.add(chunk, tensors)
                found.append(chunk.meta)
        if reads.failed:
            return [None] * len(found)
        for targets, copy in staged:
            self._copier.move(targets, [as_array(copy)])
        return found


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
