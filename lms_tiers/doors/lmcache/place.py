"""The store behind the door: how it is opened, what it says of keys, locks, and whether it works.

There are two kinds. A *private* store answers from its index and tells of every chunk that leaves. A store whose lowest
(or only) tier is shared with others has no index of that tier, and nobody tells what others do there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from lms_tiers.device import parse_device
from lms_tiers.errors import LmsTiersError
from lms_tiers.factory import open_device
from lms_tiers.interface import ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, OpaqueKey
from lms_tiers.registry import default_registry
from lms_tiers.tiered.store import TieredStore
from lms_tiers.tiered.watch.events import EventKind, TierEvent
from lms_tiers.tiered.watch.stats import BreakerState

_log = logging.getLogger(__name__)

#: Whose leases they are in the store.
_HOLDER: Final = "lmcache"
#: What a store that is asked whether it works is asked for; no key of LMCache's.
_PROBE: Final = OpaqueKey("lms-tiers:probe")
#: Events in one batch from which some may have been lost.
_MANY: Final = 1 << 12

Look = Callable[[str], ChunkMeta | None]


class Place:
    """An open store.

    Parameters
    ----------
    device : str
        As `CreateStorageBackend` takes it.
    changed : callable
        Called from a thread of the store with key texts that may have come or gone. A private store only.
    lost : callable
        Called likewise where such calls were lost: any key may have come or gone.

    Raises
    ------
    ConfigError, StorageUnavailableError, StorageLockedError, FormatError, PluginError
    """

    def __init__(self, device: str, changed: Callable[[Sequence[str]], None], lost: Callable[[], None]) -> None:
        spec = parse_device(device)
        self.device: Final = str(spec)  # without secrets
        self._changed: Final = changed
        self._lost: Final = lost
        self._events_lost = 0
        self._telling = False
        lowest = default_registry().backends[spec.tiers[-1].name].medium == "shared"
        #: Whether others write there too, behind this store's back.
        self.shared: Final = lowest
        alone = lowest and len(spec.tiers) == 1
        self._tiered: TieredStore | None = None
        self.store: Final[LMSBackendInterface] = open_device(spec, on_events=None if alone else self._observe)
        if isinstance(self.store, TieredStore):
            self._tiered = self.store
        #: What a private store says of a key, by its index; None for one with a tier that is shared.
        self.look: Final[Look | None] = None if lowest or self._tiered is None else self._look(self._tiered)

    def tell(self) -> None:
        """Begin to call `changed`; what has changed before, a listing tells."""
        self._telling = True

    @staticmethod
    def _look(store: TieredStore) -> Look:
        def look(text: str) -> ChunkMeta | None:
            found = store.info(OpaqueKey(text))
            return None if found is None else found.meta

        return look

    def _observe(self, events: Sequence[TierEvent]) -> None:
        if not self._telling:
            return
        texts = [event.key for event in events if event.kind in (EventKind.STORED, EventKind.GONE)]
        if texts and self.look is not None:
            self._changed(texts)
        if len(events) >= _MANY and self._tiered is not None:
            lost = self._tiered.stats().events_lost
            if lost != self._events_lost:
                self._events_lost = lost
                self._lost()

    def chunks(self) -> Iterator[ChunkInfo]:
        """Every chunk there, whoever stored it."""
        return self.store.scan()

    def lock(self, keys: Sequence[CacheEngineKey], seconds: float) -> list[bool]:
        """Which `keys` are there; those of which this store has a copy of its own stay there for so long."""
        pin = getattr(self.store, "pin_each", None)
        held: list[bool] = [False] * len(keys)
        if pin is not None:
            try:
                held = pin(keys, seconds, holder=_HOLDER)
            except LmsTiersError as error:
                _log.debug("keys cannot be locked at %s: %s", self.device, error)
        if self.shared or pin is None:
            rest = [i for i, locked in enumerate(held) if not locked]
            for i, there in zip(rest, self.store.contains_many([keys[i] for i in rest]) if rest else (), strict=True):
                held[i] = there
        return held

    def unlock(self, keys: Sequence[CacheEngineKey]) -> None:
        """Give one lock of each of `keys` back, where there is one; one that cannot be given back ends by its time."""
        unpin = getattr(self.store, "unpin_each", None)
        if unpin is not None:
            try:
                unpin(keys, holder=_HOLDER)
            except LmsTiersError as error:
                _log.debug("locks at %s end by their time: %s", self.device, error)

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether every tier works, and what it says of itself. It may wait as long as the store's own deadlines."""
        before = self.store.stats()
        if self._tiered is None:
            there = self.store.contains(_PROBE)
            failed = not there and self.store.stats().failures > before.failures
            return not failed, {"answers": not failed, "failures": before.failures}
        stats = self._tiered.stats()
        tiers: dict[str, Any] = {}
        for tier in stats.tiers:
            tiers[tier.name] = {
                "works": tier.breaker is BreakerState.CLOSED, "bytes_used": tier.bytes_used,
                "capacity_bytes": tier.capacity_bytes, "chunks": tier.keys, "evictions": tier.evictions,
                "drops": tier.drops, "failures": tier.failures, "corrupt": tier.corrupt,
            }  # fmt: skip
        edge = stats.shared
        if edge is not None:
            self.store.contains(_PROBE)  # so that its breaker knows
            edge = self._tiered.stats().shared or edge
            tiers[edge.name] = {
                "works": edge.breaker is BreakerState.CLOSED and edge.failures == stats.shared.failures,  # type: ignore[union-attr]
                "unsent": edge.unsent, "failures": edge.failures,
            }  # fmt: skip
        return all(tier["works"] for tier in tiers.values()), {"tiers": tiers, "events_lost": stats.events_lost}

    def close(self) -> None:
        """Flush and close the store."""
        self.store.close()


class Answer:
    """What somebody is waited for to say, but not for ever."""

    def __init__(self) -> None:
        self._there: Final = threading.Event()
        self._said: tuple[bool, dict[str, Any]] | None = None

    def give(self, said: tuple[bool, dict[str, Any]]) -> None:
        """Say it."""
        self._said = said
        self._there.set()

    def wait(self, seconds: float) -> tuple[bool, dict[str, Any]] | None:
        """What was said; None where nothing was in time."""
        self._there.wait(seconds)
        return self._said
