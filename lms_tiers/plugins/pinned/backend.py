"""Chunks in one arena of host memory, copied in and out without the GIL; page-locked where an accelerator is.

Page-locked memory is slow to allocate and fast to copy to and from a device, so all of it is taken at start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Optional

import pydantic

from lms_tiers.arena.arena import Arena
from lms_tiers.arena.backend import ArenaBackend, checked_page_bytes, flat_tensor, needed_capacity, shaped
from lms_tiers.arena.chunk import Chunk
from lms_tiers.arena.copying import Copier, as_array, flat_bytes
from lms_tiers.arena.host import SKEW, HostMemory, span_edges
from lms_tiers.arena.recycle import Recycler, byte_array
from lms_tiers.buffers import tensor_bytes
from lms_tiers.changes import mending
from lms_tiers.errors import CapacityError, ConfigError, LmsTiersError, StorageUnavailableError
from lms_tiers.interface import ChunkView, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.options import Options, Size

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes


#: `put_from` fills and publishes in windows of this many bytes.
_WINDOW: Final = 64 << 20


class PinnedOptions(Options):
    """Options of ``pinned``."""

    pin: Annotated[Literal["auto", "require", "off"], pydantic.Field(description="page-lock the memory")] = "auto"
    page: Annotated[Size, pydantic.Field(description="bytes of one arena page, a power of two")] = 4 << 10
    prefault: Annotated[bool, pydantic.Field(description="touch all memory at start instead of at first use")] = False
    recycle: Annotated[Size, pydantic.Field(description="bytes of idle buffers kept for `get`")] = 64 << 20
    threads: Annotated[int, pydantic.Field(ge=0, le=64, description="threads of a large copy; 0: by the machine")] = 0


class PinnedBackend(ArenaBackend):
    """Host memory as an arena.

    `get` copies into a buffer that nobody else can see and that is used again when its last view has died; `view`
    lends the arena's own bytes and holds their pages until the last view has died.
    """

    def __init__(self, capacity: int, options: PinnedOptions) -> None:
        name = "pinned"
        page_bytes = checked_page_bytes(name, options.page)
        super().__init__(Arena(name, needed_capacity(name, capacity, page_bytes), page_bytes))
        self._memory: HostMemory | None = HostMemory(
            name, self._arena.usable_bytes, page_bytes, pin=options.pin, prefault=options.prefault
        )
        self.page_locked: Final = self._memory.locked
        self._recycler: Final = Recycler(options.recycle)
        self._copier: Final = Copier(options.threads)

    @mending
    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Copy a chunk into pages of its own, then let it replace the older one."""
        self._arena.check()
        source = flat_bytes(key_text(client_meta.key), kv_chunk_bytes)

        def fill(chunk: Chunk) -> None:
            self._copier.move(self._spans(chunk), [as_array(source)])

        self._store(client_meta, source.nbytes, fill)

    @mending
    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The chunk, copied out of the arena into a buffer of the caller's own."""
        chunk = self._lease(key)
        if chunk is None:
            return None
        try:
            data = self._copy_out(chunk)
        finally:
            self._arena.release(chunk)
        return chunk.meta.memory_obj(data.toreadonly())

    def _put_window(self, client_metas: Sequence[ClientMetaMessage], source: LMSBackendInterface) -> list[bool]:
        """`put_from` of as many as there is room for before the chunks they replace give theirs back."""
        window: list[Chunk] = []
        error: list[LmsTiersError] = []

        def requests() -> Iterator[tuple[CacheEngineKey, Sequence[Any]]]:
            # Pages are reserved while the source copies what was asked for before.
            filling = 0
            for client_meta in client_metas:
                try:
                    chunk = self._reserve(client_meta, client_meta.length)
                except LmsTiersError as caught:
                    error.append(caught)
                    return
                window.append(chunk)
                yield client_meta.key, self._spans(chunk)
                filling += client_meta.length
                if filling >= _WINDOW:
                    return

        held: list[bool] = []
        try:
            found = source.get_many_into(requests())
            if len(found) != len(window):
                raise StorageUnavailableError(
                    self.name, f"the source answered for {len(found)} chunks of {len(window)}: nothing was taken over."
                )
            held = [meta == chunk.meta for chunk, meta in zip(window, found, strict=True)]
            for right in held:
                # It is out of the window first: what `publish` refuses it gives back itself.
                (self._arena.publish if right else self._arena.abandon)(window.pop(0))
        finally:
            for chunk in window:
                self._arena.abandon(chunk)
        if error and not (held and isinstance(error[0], CapacityError)):
            raise error[0]
        return held

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Lend the chunk's bytes where they lie, in as many pieces as they lie in.

        The views are released at the end of the block. Where a caller made views of them that live on, the pages
        stay as they are until those have died too.
        """
        try:
            found = self._lent(key)
            if found is None:
                yield None
                return
            try:
                yield found
            finally:
                for buffer in found.buffers:
                    _release(buffer)
        except BaseException as error:
            self._mend(error)
            raise

    def _lent(self, key: CacheEngineKey) -> ChunkView | None:
        """Views of a chunk's bytes; its pages are lent to them, for as long as any lives."""
        chunk = self._lease(key)
        if chunk is None:
            return None
        try:
            memory = self._memory_now()
            exporter = byte_array(len(memory.exporter)).from_buffer(memory.exporter)
            with memoryview(exporter) as shared:
                whole = shared.cast("B").toreadonly()
            edges = span_edges(chunk.runs, chunk.meta.length, self._arena.page_bytes)
            buffers = tuple(whole[SKEW + start : SKEW + end] for start, end in edges)
            whole.release()
            self._arena.lend(chunk, exporter)
        except BaseException:
            self._arena.release(chunk)
            raise
        return ChunkView(chunk.meta, buffers)

    @mending
    def get_tensor(self, key: CacheEngineKey, out: torch.Tensor | None = None) -> torch.Tensor | None:
        """The chunk as a host tensor of its own, or copied into `out` on any device, in its current stream."""
        import torch

        chunk = self._lease(key)
        if chunk is None:
            return None
        try:
            if out is None:
                data = self._copy_out(chunk)
                flat = torch.frombuffer(data, dtype=torch.uint8) if data.nbytes else torch.empty(0, dtype=torch.uint8)
                return shaped(flat, chunk.meta)
            flat = tensor_bytes(out, chunk.meta.length)[: chunk.meta.length]
            if flat.device.type == "cpu":
                self._copier.move([flat.numpy()], self._spans(chunk))
            else:
                # Blocking, so that the pages are read before the lease ends; from locked pages the device reads itself.
                at = 0
                for span in self._memory_now().tensors(chunk.runs, chunk.meta.length):
                    flat[at : at + span.numel()].copy_(span)
                    at += span.numel()
            return out
        except RuntimeError as error:
            raise self._typed(error) from error
        finally:
            self._arena.release(chunk)

    @mending
    def put_tensor(self, client_meta: ClientMetaMessage, tensor: torch.Tensor) -> None:
        """Copy a tensor's bytes from any device straight into pages, in its device's current stream."""
        self._arena.check()
        source = flat_tensor(tensor)

        def fill(chunk: Chunk) -> None:
            if source.device.type == "cpu":
                self._copier.move(self._spans(chunk), [source.numpy()])
                return
            at = 0
            for span in self._memory_now().tensors(chunk.runs, chunk.meta.length):
                span.copy_(source[at : at + span.numel()])
                at += span.numel()

        self._store(client_meta, source.numel(), fill)

    def _scatter(self, wanted: Iterable[tuple[Chunk, list[Bytes]] | None]) -> list[ChunkMeta | None]:
        found: list[ChunkMeta | None] = []
        for item in wanted:
            if item is not None:
                self._copier.move(item[1], self._spans(item[0]))
            found.append(None if item is None else item[0].meta)
        return found

    def _copy_out(self, chunk: Chunk) -> memoryview:
        data = self._recycler.take(chunk.meta.length)
        if chunk.meta.length:
            self._copier.move([as_array(data)], self._spans(chunk))
        return data

    def _memory_now(self) -> HostMemory:
        memory = self._memory
        if memory is None:
            self._arena.check()
            raise AssertionError("memory is given back after the arena is closed only")
        return memory

    def _spans(self, chunk: Chunk) -> list[Any]:
        return self._memory_now().spans(chunk.runs, chunk.meta.length) if chunk.meta.length else []

    def _detail(self) -> dict[str, float]:
        return {
            "page_locked": float(self.page_locked),
            "copy_threads": self._copier.threads,
            "recycled": self._recycler.reused,
            "recycle_idle_bytes": self._recycler.idle_bytes,
        }

    def _quiesce(self) -> None:
        self._copier.settle()

    def _close(self) -> None:
        # Running calls hold the memory by their arrays: it is unlocked and unmapped when the last of them is done.
        self._memory = None
        self._recycler.close()
        self._copier.close()


def _release(buffer: memoryview) -> None:
    try:
        buffer.release()
    except BufferError:
        # A view of it lives on in the caller's hands; the pages stay until that has died.
        return


def open_backend(location: str, capacity: int | None, options: PinnedOptions) -> PinnedBackend:
    """Open ``pinned``.

    Raises
    ------
    ConfigError
        No capacity, a location, or a page size that does not work.
    StorageUnavailableError
        Not enough memory, or `pin=require` where it cannot be locked.
    """
    if location:
        raise ConfigError(f"backend 'pinned' has no location, {location!r} was given: write pinned?capacity=SIZE.")
    return PinnedBackend(needed_capacity("pinned", capacity, 1), options)
