"""Making a store whole after an interrupt, which may come between any two steps of a call (a signal, out of memory).

Nothing is undone step by step. A change that had begun is finished: its record is written again at the same place.
Counts, charges and free pages are then worked out from what is known for certain: the chunks, the pages that wait to be
used again, and the puts under way. What nobody has is free; that a page is lost is all an interrupt does, as every step
takes a page from one owner before it gives it to the next.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Concatenate, Final, NamedTuple, ParamSpec, Protocol, TypeVar

from lms_tiers.errors import from_anywhere
from lms_tiers.plugins.lmdb.entries import Entries
from lms_tiers.plugins.lmdb.layout import Chunk, Damaged, Extent
from lms_tiers.plugins.lmdb.space import charge, index_share

if TYPE_CHECKING:
    from lms_tiers.plugins.lmdb.pages import Pages

P = ParamSpec("P")
R = TypeVar("R")

#: Chunks of the index that are looked at together.
_BATCH: Final = 1024
#: How often a mending that is interrupted itself is begun anew.
_TRIES: Final = 100


class _Put(Protocol):
    """A put under way, with what it has."""

    extents: list[Extent]
    charged: int


class _Store(Protocol):
    """A store, which numbers its calls."""

    @property
    def calls(self) -> Iterator[int]:
        """The numbers."""

    def let_go(self, thread: int, since: int) -> None:
        """Make whole what a call of `thread` left that began at `since` and was interrupted."""


class _Backend(Protocol):
    """Anything whose calls change a store."""

    @property
    def _store(self) -> _Store: ...


S = TypeVar("S", bound=_Backend)


def mending(call: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method of a backend that makes its store whole where the call ends by an interrupt."""

    @functools.wraps(call)
    def mended(backend: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        since = next(backend._store.calls)
        try:
            return call(backend, *args, **kwargs)
        except BaseException as error:
            if from_anywhere(error):
                mend(backend._store, since)
            raise

    return mended


def mend(store: _Store, since: int) -> None:
    """Let go of all that this thread's call held, which began at `since` and was interrupted. Takes the lock."""
    for left in reversed(range(_TRIES)):
        try:
            store.let_go(threading.get_ident(), since)
            return
        except BaseException:
            if not left:
                raise


class Counted(NamedTuple):
    """What a walk over a store found: bytes of pages and index, of all its chunks."""

    chunks: int
    charged: int
    share: int


def recount(entries: Entries, pages: Pages, puts: Mapping[int, _Put], position: int) -> Counted:
    """Give each page its owner again; what chunks and charges there are. The lock is held.

    Parameters
    ----------
    puts : mapping
        Those under way.
    position : int
        Of the journal, that must be on the medium before pages without an owner are used again.

    Raises
    ------
    lmdb.Error
        The index cannot be read: to be done again.
    """
    chunks = charged = share = 0
    owned: list[Extent] = [(0, 1)]
    for chunk, nrecord in _chunks(entries):
        chunks += 1
        charged += charge(chunk.pages, nrecord)
        share += index_share(nrecord)
        owned += chunk.extents
    for put in puts.values():
        charged += put.charged
        owned += put.extents
    pages.recount(owned, position)
    return Counted(chunks, charged + pages.waiting_bytes, share)


def _chunks(entries: Entries) -> Iterator[tuple[Chunk, int]]:
    """Every chunk, and the length of its record."""
    if entries.complete:
        for text, entry in entries.entries.items():
            chunk = entries.forms.chunk(text, entry)
            yield chunk, chunk.nrecord
        return
    newer = {**entries.committing, **entries.dirty}
    for text in newer:
        known = entries.chunk(text)
        if known is not None:
            yield known, known.nrecord
    for found in entries.index.items(_BATCH):
        for _, _, record in found:
            try:
                chunk = Chunk.unpack(record, entries.seed)
            except Damaged:
                continue
            if chunk.text not in newer:
                yield chunk, len(record)
