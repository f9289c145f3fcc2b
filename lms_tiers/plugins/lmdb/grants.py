"""Room for puts: what one gets before its bytes are written, and gives back where it does not happen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Final

from lms_tiers.errors import BackendClosedError, CapacityError, ForkedProcessError, ValueTooLargeError
from lms_tiers.plugins.lmdb.datafile import DataFile
from lms_tiers.plugins.lmdb.entries import Entries
from lms_tiers.plugins.lmdb.extents import Room
from lms_tiers.plugins.lmdb.index import Index
from lms_tiers.plugins.lmdb.layout import PAGE, Chunk
from lms_tiers.plugins.lmdb.pages import Counters, Pages
from lms_tiers.plugins.lmdb.space import Budget, charge, pages_for


@dataclass(slots=True, eq=False)
class Put(Chunk):
    """A put on its way: `pieces` are its stored bytes; `record` and `charged` come with its grant.

    `instead` is of the encoded copy of a chunk the record of the raw one: it has that one's sequence number, and takes
    its place only while that one is there. `thread` and `number` say which call's it is: later ones have larger ones.
    """

    pieces: list[memoryview] = field(default_factory=list)
    instead: bytes | None = None
    record: bytes = b""
    charged: int = 0
    thread: int = field(init=False)
    number: int = field(init=False)


class Grants(Entries):
    """Chunks, and who gets which pages."""

    def __init__(
        self, where: Path, budget: Budget, seed: int, data: DataFile, index: Index, room: Room, counters: Counters,
        clock: int,
    ) -> None:  # fmt: skip
        super().__init__(where, seed, index, complete=not counters.chunks)
        self.budget: Final = budget
        self.data: Final = data
        self.counters: Final = counters
        self.clock = clock
        self.pid: Final = os.getpid()
        self.pages: Final = Pages(budget, data, index, room, counters, self.changed)
        self.calls: Final = self.pages.calls
        #: Puts that were granted and have not happened, by `id`.
        self._puts: Final[dict[int, Put]] = {}
        self.closed = False

    def mend(self) -> None:
        """Finish what an interrupt cut short. The lock is held."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise where no call may begin."""
        # The process first: a lock that another thread held at the fork stays locked in the child for ever.
        if os.getpid() != self.pid:
            raise ForkedProcessError("lmdb")
        if self.closed:
            raise BackendClosedError("lmdb")

    def grant(self, put: Put) -> None:
        """Pages, a sequence number and a record for a put.

        Raises
        ------
        ValueTooLargeError, CapacityError
        """
        counters, usable, stream, least = self.counters, self.budget.usable, put.stream, put.nrecord
        cost = charge(pages_for(stream, least), least)
        if cost > usable:
            raise ValueTooLargeError(put.text, cost, usable, f"lmdb store {self.where}")
        put.thread, put.number = get_ident(), next(self.calls.numbers)
        with self.lock:
            self.mend()
            self.check()
            if counters.charged + cost > usable:
                raise CapacityError(f"lmdb store {self.where}", cost, max(0, usable - counters.charged))
            self._puts[id(put)] = put
            self.pages.torn = True
            counters.charged += cost
            put.charged = cost
            self.pages.torn = False
        while (wait := self._grant(put, stream, least)) is not None:
            if not wait():
                raise self._no_pages(put)
        put.record = put.pack(self.seed)

    def _grant(self, put: Put, stream: int, least: int) -> Callable[[], bool] | None:
        """Give a put the pages it lacks, or answer what it has to wait for.

        `stream`: its stored bytes. `least`: bytes of its record, with one extent.
        """
        with self.lock:
            self.mend()
            self.pages.torn = True
            pages, nrecord = put.pages, least + 8 * max(0, len(put.extents) - 1)
            while (lacks := pages_for(stream, nrecord) - pages) > 0:
                if not self.pages.take(lacks, put.extents):
                    wait = self.pages.obstacle()
                    self.pages.torn = False  # all is accounted for
                    if wait is None:
                        raise self._no_pages(put)
                    return wait
                pages, nrecord = put.pages, least + 8 * (len(put.extents) - 1)
            before, put.charged = put.charged, charge(pages, nrecord)
            self.counters.charged += put.charged - before
            if put.instead is None:
                self.clock += 1
                put.sequence = self.clock
            self.pages.torn = False
            return None

    def _no_pages(self, put: Put) -> CapacityError:
        return CapacityError(f"lmdb store {self.where}", put.charged, self.pages.room.free.pages * PAGE)

    def take_back(self, put: Put) -> None:
        """A put that was granted and does not happen gives back what it has: nobody can know of it."""
        with self.lock:
            self._take_back(put)

    def _take_back(self, put: Put) -> None:
        self.mend()
        if id(put) not in self._puts:
            return  # it has happened, or has given back what it had
        self.pages.torn = True
        del self._puts[id(put)]
        self.counters.charged -= put.charged
        extents, put.extents, put.charged = put.extents, [], 0
        self.pages.unwritten(extents)
        self.pages.torn = False
