"""A small ring of page-locked buffers between ordinary host memory and a device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from lms_tiers.arena.chunk import Fence
from lms_tiers.arena.copying import as_array
from lms_tiers.plugins.gpu.streams import Streams

if TYPE_CHECKING:
    import torch

    from lms_tiers.arena.copying import Bytes


class Slot:
    """One buffer: as bytes, as a tensor, the fence of the copy that used it last, and the thread that has it now."""

    def __init__(self, streams: Streams, nbytes: int) -> None:
        import torch

        exporter = streams.locked(nbytes)
        self.bytes: Final[Bytes] = as_array(exporter)
        self.tensor: Final[torch.Tensor] = torch.frombuffer(exporter, dtype=torch.uint8)
        self.fence: Fence | None = None
        self.holder: int | None = None
        self.turn = 0


class Ring:
    """Slots in turn: the one lent longest ago comes next, so that a copy is under way while the next one is filled.

    A thread holds one slot at a time, so any number of threads gets on with any number of slots. Which slots are lent
    stands in their `holder` alone: an interrupt between any two steps leaves nothing that `give_back` does not mend.
    """

    def __init__(self, streams: Streams, slots: int, slot_bytes: int) -> None:
        self.slot_bytes: Final = slot_bytes
        self._streams: Final = streams
        self._slots: Final = tuple(Slot(streams, slot_bytes) for _ in range(slots))
        self._free: Final = threading.Condition()
        self._turn = 0

    @property
    def lent(self) -> int:
        """How many slots threads hold now."""
        return sum(slot.holder is not None for slot in self._slots)

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """A slot that nobody fills or reads any more; its `fence` at the block's end tells when it is used again."""
        try:
            slot = self._take()
            if slot.fence is not None:
                self._streams.join(slot.fence)
                slot.fence = None
            yield slot
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Free what this thread holds, also where an interrupt kept the block from doing so."""
        mine = threading.get_ident()
        with self._free:
            for slot in self._slots:
                if slot.holder == mine:
                    slot.holder = None
            # Also where nothing was held: an interrupt may have come between the freeing and the telling.
            self._free.notify()

    def _take(self) -> Slot:
        with self._free:
            while not (free := [slot for slot in self._slots if slot.holder is None]):
                self._free.wait()
            slot = min(free, key=lambda slot: slot.turn)
            self._turn += 1
            slot.turn = self._turn
            slot.holder = threading.get_ident()
            return slot
