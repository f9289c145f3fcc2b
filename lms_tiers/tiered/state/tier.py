"""One tier: a backend, a budget, a policy, and the counters of the three. It knows neither the tiers beside it nor
threads: its fields are guarded by the store's lock, its backend is called without it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Final, Literal, TypeVar

from lms_tiers.errors import ConfigError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import OpaqueKey
from lms_tiers.policies.base import EvictionPolicy
from lms_tiers.tiered.state.health import Askers, Health, Limits
from lms_tiers.tiered.state.index import Busy, Entry, Load
from lms_tiers.tiered.watch.events import EventLog, EventReason
from lms_tiers.tiered.watch.stats import TierStats

T = TypeVar("T")

#: The cold end that is kept clean: a tenth of the capacity, and no more than this (walking it takes the lock).
_MAX_WINDOW: Final = 256 << 20

#: One part in so many of a tier may be dirty while its movers have nothing better to do.
_DIRTY_SHARE: Final = 4

#: Dirty chunks remembered, and no older ones: those are found as they grow cold.
_MAX_DIRTY: Final = 1 << 16

#: Refused keys remembered.
_MAX_REFUSED: Final = 1 << 16

#: Seconds that a tier shared with others has to answer.
DEADLINE: Final = 1.0

#: Why a chunk leaves to make room: it lies below as well, or has nowhere to go, or no tier below wants it.
EVICTIONS: Final = (
    EventReason.CLEANED, EventReason.CAPACITY, EventReason.NOT_ADMITTED, EventReason.BACK_PRESSURE,
    EventReason.BREAKER_OPEN,
)  # fmt: skip

#: Or it is lost, because a tier that should have taken it was too slow, or is switched off.
DROPS: Final = EVICTIONS[3:]

#: Uses are told to a backend in batches of this many.
TOUCH_BATCH: Final = 512


@dataclass(frozen=True, slots=True)
class TierConfig:
    """What a tier is made of.

    Attributes
    ----------
    name : str
        Unique within the store.
    backend : LMSBackendInterface
        With the capability `remove`; the store owns it from then on.
    capacity : int or None
        Physical bytes; None (in the lowest tier only) means no limit and no eviction.
    policy : EvictionPolicy or None
        None for a shared tier: its engine evicts by itself.
    write : {"back", "through"} or None
        When chunks put above reach this tier: as they grow cold there, or at once. None: at once where the backend is
        shared, else as they grow cold.
    promote : {"hits", "never"}
        Whether chunks that are hit here are offered to the tiers above.
    deadline : float
        Of a shared tier: seconds a call may take before its caller goes on without it.
    revalidate : float or None
        Of a shared tier: seconds after which private copies of its chunks are asked for again.
    """

    name: str
    backend: LMSBackendInterface
    capacity: int | None
    policy: EvictionPolicy | None
    write: Literal["back", "through"] | None = None
    promote: Literal["hits", "never"] = "hits"
    deadline: float = DEADLINE
    revalidate: float | None = None


class Tier(Health):
    """See the module. Methods need the store's lock held, unless they say otherwise."""

    def __init__(
        self, config: TierConfig, position: int, count: int, clock: Callable[[], float], log: EventLog, limits: Limits
    ) -> None:
        super().__init__(config.name, clock, log, limits)
        self.backend: Final = config.backend
        assert config.policy is not None  # `check_tiers` has seen to it
        self.policy = config.policy
        self.through: Final = config.write == "through"
        self.position: Final = position
        self.rises: Final = config.promote != "never" and position > 0
        self.bit: Final = 1 << position
        self.below: Final = ((1 << count) - 1) & ~((1 << (position + 1)) - 1)
        self.unfit: Final = 1 << (count + position)
        capabilities = config.backend.capabilities
        self.persistent: Final = capabilities.persistent
        self.max_value: Final = capabilities.max_value_bytes
        #: Whether chunks may take less than was reserved for them.
        self.shrinks: Final = type(config.backend).reserve_bytes is not LMSBackendInterface.reserve_bytes
        #: Whether the backend makes chunks smaller by itself.
        self.cools: Final = type(config.backend).shrunk is not LMSBackendInterface.shrunk
        self.touches: Final = type(config.backend).touch is not LMSBackendInterface.touch

        self._opened_capacity: Final = config.capacity
        self._usable: Final = config.backend.usable_bytes
        self.capacity: int | None = None
        self.budget = sys.maxsize
        self.window = 0
        self.dirty_most = 0
        self.set_capacity(config.capacity)

        #: Bytes held, in-flight writes (`reserved`) and stale bytes not yet deleted (`garbage`) included. Never above
        #: `budget`.
        self.used = 0
        #: By the thread that writes.
        self.reserved: Final[dict[int, int]] = {}
        self.peak = 0
        self.keys = 0
        #: Chunks that the backend holds and the index does not know yet; their bytes are in `used`.
        self.unlisted = 0
        #: Keys whose bytes in this backend are being written or deleted: one mutator at a time for each.
        self.busy: Final = Busy()
        #: Those of them that are being overwritten in place: what a read finds is not yet to be seen.
        self.writing: Final[set[str]] = set()
        #: Threads whose call has begun to write here since it became a mutator.
        self.begun: Final[set[int]] = set()
        #: Keys whose bytes are in the backend and no longer granted, with their charge.
        self.garbage: Final[dict[str, int]] = {}
        #: Counts writes that failed in a way that leaves the bytes in doubt; a read that saw it change is void.
        self.epoch = 0
        #: Keys hit, oldest first, not yet told to the backend.
        self.touched: dict[str, None] = {}
        #: Pinned keys that were in the way when victims were chosen last.
        self.passed: dict[str, None] = {}
        #: Keys this tier's policy refused to take from above.
        self.refused: Final[set[str]] = set()
        #: Those of them that could not be written: they may leave above, and are not where a flush wants them.
        self.unwritten: Final[set[str]] = set()
        #: Chunks that came without a copy below, and their bytes, oldest first, as a hint: some have one by now.
        self.dirty: Final[OrderedDict[str, int]] = OrderedDict()
        self.dirty_bytes = 0
        #: Bytes at the cold end known to be clean (an estimate: hits take from it unseen).
        self.ahead = 0
        #: Bytes that each thread waits for to put.
        self.wanting: Final[dict[int, int]] = {}
        self.loads: Final[dict[str, Load]] = {}
        #: For reads that have a deadline.
        self.askers: Final = Askers(f"lms-tiers-read-{config.name}")
        #: Chunks to be moved into this tier: (key, entry, source object or None).
        self.queue: Final[deque[tuple[str, Entry, Any, int]]] = deque()
        #: Each flush that is under way notes, by thread, what arrived meanwhile, even if it left again at once.
        self.watchers: Final[dict[int, set[str]]] = {}
        self.queue_bytes = 0
        self.queue_peak = 0
        #: Until when nothing is written to a medium that is full (`Hierarchy.clock`). Reads go on.
        self.rests_until = 0.0

        self.hits = self.misses = self.corrupt = 0
        #: What left to make room, and why.
        self.evicted: Final = dict.fromkeys(EVICTIONS, 0)
        self.promoted = self.demoted = self.skipped = self.bytes_written = self.bytes_read = 0

    def set_capacity(self, capacity: int | None) -> None:
        """Take another capacity; the budget is what the backend can use of it."""
        budget = sys.maxsize if capacity is None else capacity
        if self._usable is not None:
            opened = self._opened_capacity
            if opened and capacity is not None:
                if capacity > opened:
                    raise ConfigError(
                        f"tier {self.name!r} was opened with {opened} bytes and cannot grow to {capacity}: "
                        "open it anew with a larger capacity."
                    )
                budget = min(budget, self._usable * capacity // opened)
            else:
                budget = min(budget, self._usable)
        self.capacity = capacity
        self.budget = budget
        self.window = 0 if capacity is None else min(budget // 10, _MAX_WINDOW)
        self.dirty_most = budget // _DIRTY_SHARE

    def need(self, length: int) -> int | None:
        """Bytes to reserve for a chunk, None where this tier can never hold it. Calls the backend: no lock held."""
        if self.max_value is not None and length > self.max_value:
            return None
        try:
            need = self.backend.reserve_bytes(length)
        except Exception:
            return None  # a backend that cannot say what it needs gets nothing
        return need if need <= self.budget else None

    def call(self, do: Callable[..., T], *args: Any) -> T:
        """What the backend answers, as `inside`; not on record in the top tier, whose calls are the hot path."""
        return self.inside(do, *args) if self.position else do(*args)

    def reserve(self, need: int) -> None:
        """Reserve `need` bytes, which fit, for a write of this thread."""
        thread = get_ident()
        if need:
            self.reserved[thread] = self.reserved.get(thread, 0) + need
        self.used += need
        if self.used > self.peak:
            self.peak = self.used

    def settle(self, need: int, charge: int) -> None:
        """Of `need` bytes that this thread reserved, `charge` are held from now on, and no more."""
        left = self.reserved.pop(get_ident(), 0) - need
        if left:
            self.reserved[get_ident()] = left
        self.used -= need - charge

    @property
    def wanted(self) -> int:
        """Bytes that putters wait for."""
        return sum(self.wanting.values()) if self.wanting else 0

    # -- what is told later ------------------------------------------------------------------------------------------

    def note_dirty(self, text: str, nbytes: int) -> None:
        """A chunk of `nbytes` came that no tier below holds."""
        self.dirty_bytes += nbytes - self.dirty.pop(text, 0)  # on record only where an interrupt kept it there
        self.dirty[text] = nbytes
        if len(self.dirty) > _MAX_DIRTY:
            self.oldest_dirty()

    def oldest_dirty(self) -> str:
        """Take one off the record."""
        text, nbytes = self.dirty.popitem(last=False)
        self.dirty_bytes -= nbytes
        return text

    def refuse(self, text: str) -> None:
        """Do not offer `text` to this tier again; it may leave the tiers above."""
        if len(self.refused) >= _MAX_REFUSED:
            self.unwritten.clear()
            self.refused.clear()  # the ones that matter are refused again
        self.refused.add(text)

    def snapshot(self) -> TierStats:
        """The counters now, without the backend's own."""
        return TierStats(
            name=self.name, policy=self.policy.name, capacity_bytes=self.capacity, bytes_used=self.used,
            peak_bytes=self.peak, keys=self.keys + self.unlisted, hits=self.hits, misses=self.misses,
            failures=self.failures, corrupt=self.corrupt, evictions=sum(self.evicted.values()),
            evictions_by_reason=dict(self.evicted), drops=sum(self.evicted[reason] for reason in DROPS),
            promoted=self.promoted, demoted=self.demoted, promotions_skipped=self.skipped,
            bytes_written=self.bytes_written, bytes_read=self.bytes_read, queue_bytes=self.queue_bytes,
            queue_peak_bytes=self.queue_peak, garbage_bytes=sum(self.garbage.values()), breaker=self.breaker,
            breaker_changes=dict(self.entered),
            read_latency=self.read_latency.snapshot(), write_latency=self.write_latency.snapshot(),
        )  # fmt: skip


def keys_of(texts: list[str]) -> list[Any]:
    """Keys for backend calls that only need their identity."""
    return [OpaqueKey(text) for text in texts]


def stored_bytes(tier: Tier, key: Any, need: int) -> int:
    """What a chunk just written takes, of the `need` bytes reserved. Calls the backend."""
    if not tier.shrinks:
        return need
    try:
        stored = tier.backend.stored_bytes(key)
    except Exception:
        return need  # the reservation is an upper bound
    return need if stored is None or not 0 <= stored <= need else stored
