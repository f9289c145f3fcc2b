"""Copies between the arena on a device and everything else, and the order they happen in.

The rules, which hold for every stream of every thread:
- A writer of pages first lets go of `chunk.after`, the work of the chunks that had the pages before.
- A reader first waits for `chunk.written`; it leaves a fence of its own, or waits for its copy, before its lease ends.
- Copies from and to the host run in two streams of the backend's own, one a direction; copies within the device run in
  the caller's current stream, so they are in order with its kernels and nobody else waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from lms_tiers.arena.chunk import Chunk, Fence
from lms_tiers.arena.copying import Copier
from lms_tiers.arena.host import span_edges
from lms_tiers.plugins.gpu.staging import Ring
from lms_tiers.plugins.gpu.streams import Stream, Streams

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes


class Transfers:
    """Copies of one backend.

    Parameters
    ----------
    streams : Streams
    memory : torch.Tensor
        The arena's allocation, flat uint8.
    page_bytes : int
    ring : Ring
        Staging for ordinary host memory.
    copier : Copier
        Copies between host buffers.
    """

    def __init__(self, streams: Streams, memory: torch.Tensor, page_bytes: int, ring: Ring, copier: Copier) -> None:
        self._streams: Final = streams
        self._memory: Final = memory
        self._page_bytes: Final = page_bytes
        self._ring: Final = ring
        self._copier: Final = copier
        self._inward: Final = streams.stream()
        self._outward: Final = streams.stream()

    def spans(self, chunk: Chunk) -> list[torch.Tensor]:
        """The chunk's bytes in the arena, in order."""
        edges = span_edges(chunk.runs, chunk.meta.length, self._page_bytes)
        return [self._memory[start:end] for start, end in edges if end > start]

    # -- into the arena --------------------------------------------------------------------------------------------

    def write_staged(self, items: Sequence[tuple[Chunk, Bytes]]) -> None:
        """Copy ordinary host memory in; it is the caller's again at the return, when the device may still be at it."""
        with self._writing([chunk for chunk, _ in items], self._inward):
            tasks = []
            for chunk, source in items:
                for at in range(0, source.size, self._ring.slot_bytes):
                    end = min(at + self._ring.slot_bytes, source.size)
                    tasks.append(partial(self._stage, cut(self.spans(chunk), at, end), source[at:end]))
            self._copier.each(tasks)

    def write_locked(self, chunk: Chunk, sources: Sequence[torch.Tensor], *, ordered: bool = False) -> None:
        """Ask for a copy of page-locked host memory, which the device reads by itself; until `finish_writes`."""
        with self._writing([chunk], self._inward):
            if ordered:
                self._streams.wait(self._inward, self._streams.record(self._streams.current()))
            self._copy_pairs(self.spans(chunk), sources, self._inward)

    def finish_writes(self) -> None:
        """Wait until every copy from the host that was asked for so far is done."""
        self._streams.join(self._streams.record(self._inward))

    def write_here(self, chunk: Chunk, source: torch.Tensor) -> None:
        """Copy device memory in, in the caller's stream: whatever it asks of its stream next finds the copy done."""
        current = self._streams.current()
        with self._writing([chunk], current):
            self._copy_pairs(self.spans(chunk), [source], current)

    # -- out of the arena ------------------------------------------------------------------------------------------

    def read_host(self, chunk: Chunk, targets: Sequence[torch.Tensor], *, ordered: bool = False) -> None:
        """Ask for a copy to host memory; it is there after `finish_reads`."""
        if ordered:
            self._streams.wait(self._outward, self._streams.record(self._streams.current()))
        self._streams.wait(self._outward, chunk.written)
        self._copy_pairs(targets, self.spans(chunk), self._outward)

    def finish_reads(self) -> None:
        """Wait until every copy to the host that was asked for so far is done."""
        self._streams.join(self._streams.record(self._outward))

    def read_here(self, chunk: Chunk, target: torch.Tensor) -> Fence:
        """Copy to device memory in the caller's stream; the fence is for the lease's end."""
        current = self._streams.current()
        self._streams.wait(current, chunk.written)
        try:
            self._copy_pairs([target], self.spans(chunk), current)
        finally:
            fence = self._streams.record(current)
        return fence

    def finish(self, fences: Iterable[Fence]) -> None:
        """Wait for both streams and for `fences`."""
        for fence in (self._streams.record(self._inward), self._streams.record(self._outward), *fences):
            self._streams.join(fence)

    def give_back(self) -> None:
        """Free the staging that an interrupted call of this thread left held; after `finish`."""
        self._ring.give_back()

    # -- parts -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, chunks: Sequence[Chunk], stream: Stream) -> Iterator[None]:
        for chunk in chunks:
            for fence in chunk.after:
                self._streams.wait(stream, fence)
        try:
            yield
        finally:
            # Also after a failure: some copies may be under way, and the pages must not change hands before.
            written = self._streams.record(stream)
            for chunk in chunks:
                chunk.written = written
        for chunk in chunks:
            chunk.after.clear()

    def _stage(self, targets: Sequence[torch.Tensor], source: Bytes) -> None:
        with self._ring.slot() as slot:
            self._copier.copy(slot.bytes[: source.size], source)
            try:
                self._copy_pairs(targets, [slot.tensor[: source.size]], self._inward)
            finally:
                slot.fence = self._streams.record(self._inward)

    def _copy_pairs(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], stream: Stream) -> None:
        for target, source in pairs(targets, sources):
            self._streams.copy(target, source, stream)


def pairs(
    targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut two lists of flat tensors into equally long pieces; they end where the shorter list does."""
    i = j = at_i = at_j = 0
    while i < len(targets) and j < len(sources):
        size = min(targets[i].numel() - at_i, sources[j].numel() - at_j)
        if size:
            yield targets[i][at_i : at_i + size], sources[j][at_j : at_j + size]
        at_i, at_j = at_i + size, at_j + size
        if at_i == targets[i].numel():
            i, at_i = i + 1, 0
        if at_j == sources[j].numel():
            j, at_j = j + 1, 0


def cut(spans: Sequence[torch.Tensor], start: int, end: int) -> list[torch.Tensor]:
    """Bytes `start` to `end` of a list of flat tensors."""
    found = []
    for span in spans:
        piece = span[max(start, 0) : max(end, 0)]
        if piece.numel():
            found.append(piece)
        start, end = start - span.numel(), end - span.numel()
    return found
