"""A small ring of page-locked buffers between ordinary host memory and a device."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Final

from lms_tiers.arena.chunk import Fence
from lms_tiers.arena.copying import as_array
from lms_tiers.plugins.gpu.streams import Streams

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes


class Slot:
    """One buffer: as bytes, as a tensor, and the fence of the copy that used it last."""

    def __init__(self, streams: Streams, nbytes: int) -> None:
        import torch

        exporter = streams.locked(nbytes)
        self.bytes: Final[Bytes] = as_array(exporter)
        self.tensor: Final[torch.Tensor] = torch.frombuffer(exporter, dtype=torch.uint8)
        self.fence: Fence | None = None


class Ring:
    """Slots in turn: the one used longest ago comes next, so that a copy is under way while the next one is filled.

    A thread holds one slot at a time, so any number of threads gets on with any number of slots.
    """

    def __init__(self, streams: Streams, slots: int, slot_bytes: int) -> None:
        self.slot_bytes: Final = slot_bytes
        self._streams: Final = streams
        self._slots: Final[queue.SimpleQueue[Slot]] = queue.SimpleQueue()
        for _ in range(slots):
            self._slots.put(Slot(streams, slot_bytes))

    def take(self) -> Slot:
        """A slot that nobody fills or reads any more."""
        slot = self._slots.get()
        if slot.fence is not None:
            try:
                self._streams.join(slot.fence)
            except BaseException:
                self._slots.put(slot)
                raise
            slot.fence = None
        return slot

    def give(self, slot: Slot, fence: Fence | None) -> None:
        """Hand a slot back; it is used again after `fence`."""
        slot.fence = fence
        self._slots.put(slot)
