"""Which pages of `data` a chunk gets, when pages given up are used again, and when their blocks are given back.

Callers hold the store's lock throughout.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lms_tiers.errors import CapacityError
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.epochs import Epochs
from lms_tiers.plugins.lmdb.extents import Room
from lms_tiers.plugins.lmdb.index import Index
from lms_tiers.plugins.lmdb.layout import PAGE, Extent
from lms_tiers.plugins.lmdb.space import Budget

#: Seconds that a put waits for readers to leave what it could use.
PATIENCE: float = 10.0
#: Pages whose blocks are given back together where the index needs room, at most.
_PUNCHED: Final = 1024


@dataclass(slots=True)
class Counters:
    """What is told by `stats`, and kept by a clean close."""

    chunks: int = 0
    charged: int = 0
    share: int = 0
    read: int = 0
    failures: int = 0
    corrupt: int = 0
    unreadable: int = 0
    records: int = 0


class Pages:
    """Pages of one store."""

    def __init__(
        self, where: Path, budget: Budget, data: DataFile, index: Index, room: Room, epochs: Epochs, counters: Counters,
        changed: threading.Condition,
    ) -> None:  # fmt: skip
        self._where: Final = where
        self._budget: Final = budget
        self._data: Final = data
        self._index: Final = index
        self.room: Final = room
        self._epochs: Final = epochs
        self._counters: Final = counters
        self._changed: Final = changed
        #: How far the journal is on the medium.
        self.synced = 0
        #: Bytes of the index, less its spare, that a checkpoint under way was promised.
        self._promised = 0
        #: Whether a put waits for the index to be written anew, smaller.
        self.pressed = False
        self._limbo: Final[deque[tuple[int, int, Sequence[Extent]]]] = deque()

    def take(self, pages: int, cost: int) -> list[Extent]:
        """Pages for a chunk that is charged `cost`; waits for readers of what was given up.

        Raises
        ------
        CapacityError
        """
        while True:
            self.reclaim()
            growth = self.growth()
            if growth < 0:
                self.punch(-growth)
                growth = self.growth()
            taken = self.room.take(pages, growth)
            if taken is not None:
                return taken
            if self._limbo and self._await_first(*self._limbo[0][:2]):
                continue
            if not self._await_index():
                raise CapacityError(f"lmdb store {self._where}", cost, self.room.free.pages * PAGE)

    def _await_first(self, number: int, position: int) -> bool:
        """Wait for what holds pages back that were given up; whether it is gone."""
        deadline = time.monotonic() + PATIENCE
        while position > self.synced:  # whoever gave them up has it synced
            if time.monotonic() > deadline:
                return False
            self._changed.wait(0.005)
        self._changed.release()
        try:
            return self._epochs.wait_beyond(number, PATIENCE)
        finally:
            self._changed.acquire()

    def _await_index(self) -> bool:
        """Wait for a checkpoint under way, or for a worn index to be written anew; whether there was any."""
        if not self._promised and not self.worn:
            return False
        self.pressed = True
        self._changed.notify_all()
        return self._changed.wait_for(lambda: not self.pressed, PATIENCE)

    @property
    def worn(self) -> bool:
        """Whether the index has grown beyond twice its due."""
        return self._index.nbytes > 2 * self._counters.share + self._budget.spare * PAGE

    def promise_index(self) -> int:
        """Bytes that the index may have until `index_written`: `data` leaves them to it."""
        self.make_room_for(0)
        wanted = max(self._index.nbytes, self._counters.share) + self._budget.spare * PAGE
        limit = min(wanted, self._budget.files - self.room.backed * PAGE)
        self._promised = limit - self._budget.spare * PAGE
        return limit

    def index_written(self) -> None:
        """A checkpoint is over."""
        self._promised = 0

    def make_room_for(self, nbytes: int) -> None:
        """Give blocks of free pages back until so many bytes are left beside the index, where there are."""
        short = -(-nbytes // PAGE) - self.growth()
        if short > 0:
            self.punch(short)

    def growth(self) -> int:
        """Pages that `data` may grow by; below 0: that it has too many."""
        index = max(self._index.nbytes, self._counters.share, self._promised) + self._budget.spare * PAGE
        return (self._budget.files - index) // PAGE - self.room.backed

    def punch(self, pages: int) -> None:
        """Give the blocks of at least so many free pages back, where there are."""
        pages = max(pages, min(_PUNCHED, self.room.backed // 64))
        while pages > 0:
            run = self.room.free.take_longest(pages)
            if run is None:
                return
            if not self._data.punch(*run):
                self.room.free.add(*run)
                return
            self.room.hollow.add(*run)
            pages -= run[1]

    def give_tail_back(self, least: int) -> None:
        """Cut free pages off the end of `data`, where there are at least so many."""
        page = self.room.tail()
        if self.room.end - page >= max(1, least):
            with suppress(OSError):
                self._data.cut(page)
                self.room.cut(page)

    def give_up(self, extents: Sequence[Extent], position: int) -> None:
        """No chunk has these any more; they are used again once the journal is on the medium up to `position`."""
        self._limbo.append((self._epochs.advance(), position, extents))

    def unwritten(self, extents: Sequence[Extent]) -> None:
        """Nobody can know of what was to be written here."""
        for run in extents:
            # Whether they have blocks is not known where the medium refused them; and no record must be left in them.
            if self._data.punch(*run):
                self.room.hollow.add(*run)
            else:
                self.room.free.add(*run)

    def reclaim(self) -> None:
        """Free what was given up and can be used again."""
        limbo = self._limbo
        if not limbo:
            return
        oldest = self._epochs.oldest()
        while limbo and limbo[0][0] < oldest and limbo[0][1] <= self.synced:
            extents = limbo[0][2]
            with suppress(OSError):
                # Its record is found no more, should the index ever be made anew from `data`.
                self._data.wipe(sum(extents[-1]) - 1)
            limbo.popleft()
            self.room.give(extents)
