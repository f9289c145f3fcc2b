"""One chunk's place in an arena: its pages, who reads them, and what a device may still do to them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lms_tiers.arena.pages import Run
from lms_tiers.messages import ChunkMeta

#: Something a device finishes later (an event); the arena only asks whether it is done.
Fence: TypeAlias = Any


@dataclass(slots=True, eq=False)
class Chunk:
    """One chunk's place in the arena.

    Attributes
    ----------
    runs : tuple of (first page, pages)
        In the order of the chunk's bytes.
    after : list of fences
        Work on these pages by earlier chunks that a writer must let go first.
    written : fence or None
        The copy that fills the pages, where it may still be under way after `publish`.
    reads : list of fences
        Copies out of the pages that may still be under way.
    readers : list
        Each lease: the thread whose call has it, or a weak reference to the object that it was lent to.
    outstayed : bool
        Once the chunk is gone: a reservation waited for its readers in vain.
    """

    key: str
    meta: ChunkMeta
    pages: int
    runs: tuple[Run, ...]
    after: list[Fence] = field(default_factory=list)
    written: Fence | None = None
    reads: list[Fence] = field(default_factory=list)
    readers: list[Any] = field(default_factory=list)
    outstayed: bool = False

    def forget_dead(self) -> None:
        """Leases whose holder has died are over."""
        self.readers = [r for r in self.readers if not isinstance(r, weakref.ref) or r() is not None]
