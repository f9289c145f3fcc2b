"""Which pages of `data` a chunk gets, when pages given up are used again, and when their blocks are given back.

Everything here is called with the store's lock held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from lms_tiers.changes import Awaited
from lms_tiers.plugins.lmdb.calls import Calls
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.extents import Room, gaps
from lms_tiers.plugins.lmdb.index import Index
from lms_tiers.plugins.lmdb.layout import PAGE, Extent
from lms_tiers.plugins.lmdb.space import Budget

#: Seconds that a put waits for readers to leave what it could use.
PATIENCE: float = 10.0
#: Pages whose blocks are given back together where the index needs room, at most.
_PUNCHED: Final = 1024
#: Free pages whose blocks are kept for the next puts: at least, and as a share of all.
_KEPT: Final = (16 << 20) // PAGE
_KEPT_SHARE: Final = 4


@dataclass(slots=True)
class Counters:
    """What is told by `stats`; the first three are kept by a clean close."""

    chunks: int = 0
    charged: int = 0
    share: int = 0
    read: int = 0
    corrupt: int = 0
    unreadable: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """Pages that a chunk has no more.

    `number`: of the change. `position`: the journal must be on the medium up to there. `charged`: bytes that stay
    charged until then. `lost`: an interrupt took them, from several chunks maybe.
    """

    text: str
    extents: Sequence[Extent]
    number: int
    position: int
    charged: int
    lost: bool = False


class Pages:
    """Pages of one store.

    Attributes
    ----------
    checkpoint : callable
        Makes a checkpoint in the caller's thread, which does not hold the lock: afterwards the journal has room, and
        the index is no larger than it need be. Raises `StorageUnavailableError`.
    torn : bool
        Set while pages, counts and chunks do not agree. Who takes the lock and finds it set comes after an interrupt:
        see `Store.mend`.
    """

    def __init__(
        self, budget: Budget, data: DataFile, index: Index, room: Room, counters: Counters,
        changed: Awaited,
    ) -> None:  # fmt: skip
        self._budget: Final = budget
        self._data: Final = data
        self._index: Final = index
        self.room: Final = room
        self._counters: Final = counters
        self._changed: Final = changed
        self.calls: Final = Calls()
        #: How far the journal is on the medium.
        self.synced = 0
        #: Bytes of the index, less its spare, that a checkpoint under way was promised.
        self._promised = 0
        #: Whether a sync has failed, after which none succeeds.
        self.unsyncable = False
        self.torn = False
        self.checkpoint: Callable[[], None]
        self._limbo: Final[deque[_GivenUp]] = deque()
        #: Given up, and never to be firm, by key: after a power loss the chunks are what they were before.
        self._withheld: Final[dict[str, _GivenUp]] = {}

    def take(self, pages: int, extents: list[Extent]) -> bool:
        """Add pages to those of a chunk; False where there are too few now: see `obstacle`."""
        self.reclaim()
        growth = self.growth()
        if growth < 0:
            self.punch(-growth)
            growth = self.growth()
        taken = self.room.take(pages, growth)
        if taken is not None:
            extents += taken
        return taken is not None

    def obstacle(self) -> Callable[[], bool] | None:
        """What keeps pages back, if anything does: waits for its end without the lock, and tells whether that came.

        Readers of what was given up, a checkpoint under way, or a worn index that is to be written anew.
        """
        first, index = self._limbo[0] if self._limbo else None, bool(self._promised) or self.worn
        return None if first is None and not index else partial(self._outwait, first, index)

    def _outwait(self, first: _GivenUp | None, index: bool) -> bool:
        if first is not None and self._gone(first):
            return True
        if index:
            self.checkpoint()
        return index

    def _gone(self, first: _GivenUp) -> bool:
        # Whoever gave them up has it synced.
        if not self._changed.wait_for(lambda: self.unsyncable or first.position <= self.synced, PATIENCE):
            return False
        if first.position > self.synced:
            return True  # never: they are put aside
        return self.calls.wait(lambda: self.calls.oldest() > first.number, PATIENCE)

    @property
    def settled(self) -> bool:
        """Whether each page is a chunk's or free."""
        return not self._limbo and not self._withheld

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
        within, self.torn = self.torn, True
        while pages > 0:
            run = self.room.free.take_longest(pages)
            if run is None:
                break
            if not self._data.punch(*run):
                self.room.free.add(*run)
                break
            self.room.hollow.add(*run)
            pages -= run[1]
        self.torn = within

    def punch_excess(self) -> None:
        """Give back what is free beyond what the next puts need."""
        excess = self.room.free.pages - max(_KEPT, self.room.backed // _KEPT_SHARE)
        if excess > 0:
            self.punch(excess)

    def give_up(self, text: str, extents: Sequence[Extent], position: int = 0, charged: int = 0) -> None:
        """The chunk of a key has these no more; they are used again, and charged no more, once that is firm."""
        self._let_go(text)
        self._limbo.append(_GivenUp(text, extents, self.calls.advance(), position, charged))

    def _let_go(self, text: str) -> None:
        """The chunk is gone that pages were withheld for."""
        withheld = self._withheld.pop(text, None)
        if withheld is not None:
            self._limbo.append(replace(withheld, position=0))

    def unwritten(self, extents: Sequence[Extent]) -> None:
        """Nobody can know of what was to be written here, or was lost: no record must be left, in none of the pages."""
        for page, count in extents:
            # Whether they have blocks is not known where the medium refused them.
            if self._data.punch(page, count):
                self.room.hollow.add(page, count)
                continue
            with suppress(OSError):
                for number in range(page, page + count):
                    self._data.wipe(number)
            self.room.free.add(page, count)

    def reclaim(self) -> None:
        """Free what was given up and can be used again."""
        limbo = self._limbo
        if not limbo:
            return
        oldest = self.calls.oldest()
        within, self.torn = self.torn, True
        while limbo and limbo[0].number < oldest and (self.unsyncable or limbo[0].position <= self.synced):
            given_up = limbo.popleft()
            if given_up.position > self.synced:
                self._let_go(given_up.text)
                self._withheld[given_up.text] = given_up
                continue
            self._counters.charged -= given_up.charged
            if given_up.lost:
                self.unwritten(given_up.extents)
                continue
            with suppress(OSError):
                # Its record is found no more, should the index ever be made anew from `data`.
                self._data.wipe(sum(given_up.extents[-1]) - 1)
            self.room.give(given_up.extents)
        self.torn = within

    @property
    def waiting_bytes(self) -> int:
        """What is charged for pages that were given up."""
        return sum(kept.charged for kept in (*self._limbo, *self._withheld.values()))

    def recount(self, owned: Sequence[Extent], position: int) -> None:
        """Work out what is free where others own `owned`; what has no owner any more is used again, as is given up.

        `position`: see `give_up`.
        """
        self.room.mend()
        waiting = [run for kept in (*self._limbo, *self._withheld.values()) for run in kept.extents]
        lost = gaps([*owned, *waiting, *self.room.free, *self.room.hollow], self.room.end)
        if lost:
            number = self.calls.advance()
            self._limbo.append(_GivenUp(f"lost {number}", lost, number, position, 0, lost=True))
