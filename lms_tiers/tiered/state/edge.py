"""What a store knows of a tier that it shares with others: nothing of what is there, all that is not there yet.

A shared tier is asked, never indexed. What this store put or removed and the tier may not have yet stands here, and
as long as it does, nobody of this store reads the key there: an older chunk could come back. The methods need the
store's lock unless they say otherwise; none calls the backend.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lms_tiers.messages import ChunkMeta, MemoryFormat
from lms_tiers.tiered.state.health import Health, Limits
from lms_tiers.tiered.state.index import Entry, Load
from lms_tiers.tiered.watch.events import EventLog
from lms_tiers.tiered.watch.stats import BreakerState, EdgeStats

_log = logging.getLogger(__name__)

#: Keys whose bytes were dropped before they were sent, and that are remembered without more ado. Beyond that the
#: oldest are removed from the tier, so that they need not be remembered.
MOST_LOST: Final = 1 << 16

#: Beyond that, where the tier cannot be reached, they are forgotten, and nothing is read there any more.
_BLIND: Final = 1 << 18


#: Seconds until a change that could not be sent is sent again, doubling up to the longest.
_RETRY: Final = 0.25
_LONGEST_RETRY: Final = 30.0

#: A read of the shared tier is of no generation until it rises: which one is there, others decide.
_NONE: Final = Entry(ChunkMeta(0, MemoryFormat.UNDEFINED, None, ()), 0, ())


@dataclass(slots=True, eq=False)
class Unsent:
    """One change of one key that the shared tier may not have. Its identity is the change.

    Attributes
    ----------
    entry : Entry or None
        The generation put; None where the key was removed.
    data : bytes-like or None
        The bytes of a chunk that no private tier holds.
    not_before : float
        When it may be sent (the store's clock): an earlier change of the key may still be on its way until then.
    retry_at : float
        When it is worth sending again, which failed.
    lost : bool
        No bytes are left to send. The key is not read in the shared tier until it is put again.
    error : Exception or None
        Why the tier refused it, or could not take it last.
    """

    entry: Entry | None
    data: Any
    not_before: float
    retry_at: float = 0.0
    lost: bool = False
    error: Exception | None = None
    _delay: float = _RETRY

    def failed(self, error: Exception, now: float) -> None:
        """It could not be sent, and was not stored."""
        self.error = error
        self.retry_at = now + self._delay
        self._delay = min(2 * self._delay, _LONGEST_RETRY)

    def hasten(self) -> None:
        """Somebody waits for it to be sent."""
        self.error = None
        self.retry_at = 0.0


class Asked(Load):
    """One read of the shared tier.

    Attributes
    ----------
    entry : Entry
        As what it rises, once it does.
    since : float
        When it began.
    void : bool
        The key was put or removed since.
    """

    __slots__ = ("since", "void")

    def __init__(self, since: float) -> None:
        super().__init__(_NONE)
        self.since = since
        self.void = False


class Edge(Health):
    """See the module.

    Parameters
    ----------
    through : bool
        Chunks are sent as soon as they are put; otherwise as they grow cold in the private tiers.
    revalidate : float or None
        Seconds after which a private copy is asked for again.
    """

    def __init__(
        self, name: str, clock: Callable[[], float], log: EventLog, limits: Limits, *,
        through: bool, revalidate: float | None,
    ) -> None:  # fmt: skip
        super().__init__(name, clock, log, limits)
        self.switched = self._switched
        self.through: Final = through
        self.revalidate: Final = revalidate
        #: Whether the breaker is closed.
        self.up = True
        #: The newest change of each key that the tier may not have.
        self.unsent: Final[dict[str, Unsent]] = {}
        #: Those of them to be sent now, in order.
        self.queue: Final[dict[str, None]] = {}
        #: Those of them that are lost, oldest first.
        self.lost: Final[dict[str, None]] = {}
        #: More was lost than can be remembered: nothing is read there.
        self.blind = False
        #: Reads under way, and those that found what is on its way into a private tier.
        self.asked: Final[dict[str, Asked]] = {}
        #: When each private copy was known to be what the tier holds; kept where `revalidate` is set.
        self.known: Final[dict[str, float]] = {}
        #: Wakes the sender; set by it.
        self.poke: Callable[[], None] = lambda: None
        #: The same, after an interrupt anywhere.
        self.rouse: Callable[[], None] = lambda: None
        self.hits = self.misses = self.lookups = self.round_trips = self.in_doubt = 0
        self.sent = self.removed = self.refused = self.dropped = self.bytes_read = self.bytes_written = 0

    # -- changes -----------------------------------------------------------------------------------------------------

    def changed(self, text: str, entry: Entry | None, data: Any = None) -> Unsent:
        """`text` is put as `entry`, or removed: what the tier holds under it is out of date from here on."""
        old = self.unsent.get(text)
        if old is not None and old.lost:
            self.lost.pop(text, None)
        change = self.unsent[text] = Unsent(entry, data, old.not_before if old is not None else 0.0)
        reading = self.asked.pop(text, None)
        if reading is not None:
            reading.void = True
        self.known.pop(text, None)
        self.queue.pop(text, None)
        if self.through or entry is None or data is not None:
            self.queue[text] = None
            self.poke()
        return change

    def settled(self, text: str, change: Unsent) -> None:
        """The tier has `change`. One that was given up before stays unread: it has been answered as absent."""
        if self.unsent.get(text) is change and not change.lost:
            del self.unsent[text]
            self.queue.pop(text, None)
            if self.revalidate is not None and change.entry is not None:
                self.known[text] = self._clock()

    def lose(self, text: str, change: Unsent) -> None:
        """The bytes of `change` are gone, or the tier does not take them: what it holds under `text` stays unread."""
        if self.unsent.get(text) is not change or change.lost:
            return
        change.lost = True
        change.data = change.entry = None
        self.queue.pop(text, None)
        self.lost[text] = None
        if len(self.lost) > MOST_LOST:
            self.poke()
        if len(self.lost) > _BLIND:
            if not self.blind:
                _log.error("tier %r: too much was lost unsent; it is not read until the store is reopened", self.name)
            self.blind = True
            oldest = next(iter(self.lost))
            del self.lost[oldest], self.unsent[oldest]

    def gives_up(self, text: str) -> bool:
        """The last private copy of `text` is leaving: whether it had yet to be sent."""
        change = self.unsent.get(text)
        if change is None or change.lost or change.entry is None:
            return False
        self.dropped += 1
        self.lose(text, change)
        return True

    def recount(self, index: dict[str, Entry], thread: int) -> None:
        """After an interrupt of `thread`: work out anew what is to be sent and what is lost, and end its reads."""
        self.sink()
        for text, load in list(self.asked.items()):
            load.void |= text in self.unsent
            if load.void or load.thread == thread:
                del self.asked[text]
            if load.thread == thread:
                load.finish()
        self.queue.clear()
        self.lost.clear()
        for text, change in list(self.unsent.items()):
            here = change.entry is None or change.data is not None or index.get(text) is change.entry
            if change.lost or not here:
                change.lost = False
                self.lose(text, change)
            elif self.through or change.entry is None or change.data is not None:
                self.queue[text] = None
        self.rouse()

    def end(self, text: str, load: Asked) -> None:
        """A read is over. What it found may be on its way up: then it goes on answering those who ask."""
        if self.asked.get(text) is load and load.entry is _NONE:
            del self.asked[text]
        load.finish()

    def rises(self, text: str, entry: Entry) -> bool:
        """Whether `entry` is on its way into a private tier, and nothing was put or removed since it was read."""
        load = self.asked.get(text)
        return load is not None and load.entry is entry

    def risen(self, text: str, entry: Entry) -> None:
        """`entry` has risen, or will not."""
        if self.rises(text, entry):
            del self.asked[text]

    def sink(self) -> None:
        """Nothing that was found is to rise any more."""
        for text in [text for text, load in self.asked.items() if load.done]:
            del self.asked[text]

    def too_many_lost(self, most: int) -> list[str]:
        """Keys, `most` at a time, that are better removed from the tier than remembered."""
        return list(itertools.islice(self.lost, min(most, max(0, len(self.lost) - MOST_LOST))))

    def waits(self, text: str) -> bool:
        """Whether a chunk is worth keeping until it is sent."""
        change = self.unsent.get(text)
        return change is not None and not change.lost and self.up

    def hides(self, text: str) -> bool:
        """Whether what the tier holds under `text` may be out of date. Takes no lock."""
        return self.blind or text in self.unsent

    def outdated(self, text: str) -> bool:
        """Whether a private copy is to be asked for again. Takes no lock."""
        if self.revalidate is None or text in self.unsent:
            return False
        since = self.known.get(text)
        return since is None or self._clock() - since > self.revalidate

    def reading(self, text: str) -> Asked | None:
        """The read of `text` that is under way, or whose chunk is on its way up and need not be asked for again."""
        load = self.asked.get(text)
        if load is not None and load.done and self.revalidate is not None:
            return load if self._clock() - load.since <= self.revalidate else None
        return load

    def confirm(self, text: str, index: dict[str, Entry]) -> None:
        """A private copy is what a read found that rises."""
        load = self.asked.get(text)
        if self.revalidate is not None and load is not None:
            self.known[text] = load.since
            if len(self.known) > 2 * len(index) + 1024:
                for gone in [key for key in self.known if key not in index]:
                    del self.known[gone]

    # -- health ------------------------------------------------------------------------------------------------------

    def may_ask(self) -> bool:
        """Whether the backend may be called now; takes the probe where one is due."""
        self.look()
        return self.up or self.probe()

    def gone(self) -> bool:
        """Whether it is switched off, and not being tried at this moment."""
        return self.breaker is BreakerState.OPEN and not self.due()

    def _switched(self, on: bool) -> None:
        self.up = on
        if on:
            for text in self.queue:
                self.unsent[text].hasten()
            self.poke()

    def snapshot(self) -> EdgeStats:
        """The counters now, without the backend's own."""
        return EdgeStats(
            name=self.name, hits=self.hits, misses=self.misses, lookups=self.lookups, round_trips=self.round_trips,
            bytes_read=self.bytes_read, bytes_written=self.bytes_written, sent=self.sent, removed=self.removed,
            refused=self.refused, dropped=self.dropped, in_doubt=self.in_doubt, failures=self.failures,
            unsent=len(self.unsent) - len(self.lost), tombstones=len(self.unsent), breaker=self.breaker,
            breaker_changes=dict(self.entered),
            read_latency=self.read_latency.snapshot(), write_latency=self.write_latency.snapshot(),
        )  # fmt: skip
