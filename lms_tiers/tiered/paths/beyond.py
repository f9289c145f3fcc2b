"""The way beyond the private tiers: a tier that is shared with others, asked by `Shared` and written by `Sender`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from lms_tiers.changes import Deadline
from lms_tiers.errors import OutcomeUnknownError
from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey, LMSMemoryObj, key_text
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.reads import Reader
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.paths.sender import Sender
from lms_tiers.tiered.paths.shared import Shared
from lms_tiers.tiered.state.chain import Chains
from lms_tiers.tiered.state.edge import Edge, Unsent
from lms_tiers.tiered.state.health import Breaker
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry, known_text
from lms_tiers.tiered.state.tier import TierConfig


class Beyond:
    """The shared tier of `hierarchy`, which knows its edge from here on.

    Parameters
    ----------
    stall : float
        Seconds after which a call inside its backend switches it off.
    """

    def __init__(self, hierarchy: Hierarchy, room: Room, config: TierConfig, breaker: Breaker, stall: float) -> None:
        self.edge: Final = Edge(
            config.name, hierarchy.clock, hierarchy.log, breaker,
            through=config.write != "back", stall=stall, revalidate=config.revalidate,
        )  # fmt: skip
        hierarchy.edge = self.edge
        self._h: Final = hierarchy
        self._room: Final = room
        self.backend: Final = config.backend
        self.deadline: Final = config.deadline
        self.revalidates: Final = config.revalidate is not None
        self._promotes: Final = config.promote != "never"
        self.sender: Final = Sender(hierarchy, room, self.edge, config.backend)

    def read_by(self, reader: Reader) -> None:
        """Serve what `reader` finds in no private tier."""
        self._reader = reader
        self._shared = Shared(
            self._h, self._room, reader, self.edge, self.backend, self.deadline, promotes=self._promotes
        )

    def lacks(self, text: str) -> bool:
        """Whether the private tiers do not hold `text`, or hold a copy that is to be asked for again. Takes no lock."""
        return text not in self._h.index or self.edge.outdated(text)

    def doubts(self, key: CacheEngineKey) -> bool:
        """Whether a private copy, if there is one, is to be asked for again. Takes no lock."""
        return self.edge.outdated(known_text(self._h.index, key))

    def get_one(self, key: CacheEngineKey, chains: Chains) -> LMSMemoryObj | None:
        """A chunk that the private tiers do not hold, or hold a copy of that is to be asked for again."""
        text = key_text(key)
        return self.get([key], [text], [chains.single(self._h.clock(), text)])[0]

    def get(
        self, keys: Sequence[CacheEngineKey], texts: Sequence[str], contexts: Sequence[AccessContext]
    ) -> list[LMSMemoryObj | None]:
        """The chunk or None for each key, by one call of the backend."""
        return self._shared.fetch(keys, texts, contexts)

    def contains(self, keys: Sequence[CacheEngineKey], texts: Sequence[str]) -> list[bool]:
        """Which keys it holds, and this store may read there, by one call of the backend."""
        return self._shared.contains(keys, texts) if keys else []

    def listed(self) -> Iterator[CacheEngineKey]:
        """What it lists, but for what this store may not read there."""
        return self._shared.listed()

    def scan(self) -> Iterator[ChunkInfo]:
        """As `listed`, with metadata."""
        return (info for info in self.backend.scan() if not self.edge.hides(info.key.to_string()))

    def store(self, text: str, entry: Entry, data: Any) -> None:
        """Store a chunk that no private tier takes; see `Sender.store`."""
        self.sender.store(text, entry, data, self.deadline)

    def remove(self, changes: Sequence[tuple[str, Unsent | None]]) -> None:
        """Return when it has forgotten the keys of `changes`, or they were put anew.

        Raises
        ------
        OutcomeUnknownError
            Not in time. This store has forgotten them for good, and goes on trying.
        """
        removals = [(text, change) for text, change in changes if change is not None]
        if not self.sender.wait(removals, Deadline("remove", self.deadline), lambda: not self.edge.up):
            raise OutcomeUnknownError(
                self.edge.name, "remove", "it did not answer; what is forgotten here is removed there when it does."
            )

    def flush(self, deadline: Deadline) -> None:
        """Return when it has all that was put and removed before, as firmly as it promises."""
        self.sender.flush(deadline)
        self.backend.flush(deadline.left())

    def close(self, until: float) -> bool:
        """End the threads; False where one does not come back from the backend."""
        with self._h.lock:
            self.sender.stop()
        ended = self.sender.join(max(0.0, until - time.monotonic()))
        return self._shared.askers.close(max(0.0, until - time.monotonic())) and ended
