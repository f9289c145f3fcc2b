"""The tiered store: one `LMSBackendInterface` over tiers, fastest first. The protocol is in docs/tiering.md.

This file is the face: it checks arguments and hands on. What happens is in reads.py, writes.py, mover.py and room.py;
calls of many chunks are in batches.py, what the index alone answers is in known.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Optional

from lms_tiers.changes import mending
from lms_tiers.interface import Capabilities, ChunkInFile, ChunkView
from lms_tiers.messages import CacheEngineKey, ChunkMeta, ClientMetaMessage, LMSMemoryObj, key_text
from lms_tiers.tiered.batches import Batches
from lms_tiers.tiered.life import warm
from lms_tiers.tiered.life.audit import Auditor
from lms_tiers.tiered.life.ends import check_tiers, give_up, shut_down, store_capabilities, watch_forks
from lms_tiers.tiered.life.flush import Flusher
from lms_tiers.tiered.life.report import store_stats
from lms_tiers.tiered.paths.beyond import Beyond
from lms_tiers.tiered.paths.mover import Mover, promoting, writing_through
from lms_tiers.tiered.paths.reads import Reader
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.paths.runs import RunReader, SlotReader
from lms_tiers.tiered.paths.writes import Writer
from lms_tiers.tiered.state.health import Limits
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import known_text
from lms_tiers.tiered.state.tier import TierConfig
from lms_tiers.tiered.state.uses import Chains
from lms_tiers.tiered.watch.events import EventLog, TierEvent
from lms_tiers.tiered.watch.stats import StoreStats

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


class TieredStore(Batches):
    """Chunks in tiers, each with a budget and an eviction policy.

    Parameters
    ----------
    tiers : sequence of TierConfig
        Fastest first; the store owns their backends once it is constructed.
    on_events : callable, optional
        Gets batches of `TierEvent` from one thread, off the data path.
    clock : callable
        Seconds, monotonic; for policies, leases and breakers.
    back_pressure : float
        Seconds a put waits for a tier below to take chunks before it drops one that nobody else holds.
    stall : float
        Seconds after which a call inside a backend switches the tier off for others.
    patience : float
        Seconds to wait for another mutator of the same key in the same tier.
    queue_bytes : int
        Bytes that may wait to be moved into a tier.
    breaker_threshold, breaker_cooldown, breaker_longest : int, float, float
        Failures in a row that switch a tier off; seconds until it is probed, doubling up to the longest.
    read_deadline : float, optional
        Seconds a get waits for a tier below the top; with it, another thread makes each such read. Without it a backend
        that never comes back keeps the callers that were inside when it got stuck. Views have none.
    close_timeout : float
        Seconds that `close` spends on flushing, and again on threads and backends that do not come back.

    Raises
    ------
    ConfigError
        No tier, a backend that cannot remove, a capacity missing in the middle or not positive, names that repeat.
    StorageUnavailableError
        A tier cannot say what it holds, or a thread cannot be started, which it names.
    """

    def __init__(
        self, tiers: Sequence[TierConfig], *,
        on_events: Callable[[Sequence[TierEvent]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        back_pressure: float = 1.0, stall: float = 2.0, patience: float = 10.0, queue_bytes: int = 64 << 20,
        breaker_threshold: int = 5, breaker_cooldown: float = 1.0, breaker_longest: float = 60.0,
        read_deadline: float | None = None, close_timeout: float = 30.0,
    ) -> None:  # fmt: skip
        check_tiers(tiers)
        limits = Limits(stall, breaker_threshold, breaker_cooldown, breaker_longest)
        shared = tiers[-1] if tiers[-1].backend.capabilities.shared else None
        self._log: Final = EventLog(on_events)
        name = " > ".join(tier.name for tier in tiers)
        self._h = Hierarchy(name, tiers if shared is None else tiers[:-1], clock, self._log, limits)
        watch_forks(self._h)
        self._room: Final = Room(self._h)
        self._movers: Final = [
            Mover(self._h, self._room, tier, queue_limit=queue_bytes, back_pressure=max(back_pressure, 0.001))
            for tier in self._h.tiers
        ]
        self._h.poke = lambda tier: self._movers[tier.position].poke()
        self._beyond = None if shared is None else Beyond(self._h, self._room, shared, limits)
        if any(mover.tier.through for mover in self._movers[1:]):
            self._h.written = writing_through(self._movers)
        self._chains = Chains()
        self._reader: Final = Reader(self._h, self._chains, clock, patience, read_deadline)
        self._h.recency.promote = promoting(self._h, self._movers)
        self._runs = RunReader(self._reader)
        self._slots = SlotReader(self._reader, self._runs, self._beyond)
        self._writer = Writer(self._h, self._room, max(back_pressure, 0.001), patience)
        if self._beyond is not None and shared is not None:
            self._beyond.read_by(self._reader, lambda tier, *pick: self._movers[tier.position].offer(*pick))
            self._writer.go_on(self._beyond.store, shared.backend.capabilities.max_value_bytes)
        self._flusher: Final = Flusher(self._h, self._movers, self._beyond)
        self._h.mend = Auditor(self._h, self._movers, self._flusher.fit_anew).mend
        self._clock = clock
        self._close_timeout: Final = close_timeout
        self._ending: Final = threading.RLock()  # a signal's handler may close what is being closed
        self._closed = False
        self._capabilities: Final = store_capabilities(tiers)
        self._max_key = self._capabilities.max_key_bytes
        try:
            self._log.start()
            warm.warm(self._h, self._room, read_deadline)
        except BaseException:
            give_up(self._h, self._movers, self._log, close_timeout)
            raise

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # of this store, not of the class
        """What the store offers depends on its tiers."""
        return self._capabilities

    # -- one chunk ---------------------------------------------------------------------------------------------------

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """Store a chunk in the first tier that takes it; see the interface."""
        self._h.check_open()
        text = key_text(client_meta.key, self._max_key)
        try:
            self._h.settle(text, change=True)
            self._writer.put(client_meta, text, kv_chunk_bytes, self._chains.single(self._clock(), text, put=True))
        except BaseException as error:
            self._h.mend(error)
            raise

    @mending
    def contains(self, key: CacheEngineKey) -> bool:
        """Whether a tier that works holds the key. Takes no lock."""
        self._h.check_open()
        text = known_text(self._h.index, key)
        return self._contains(text) if self._beyond is None else self._held([key], [text])[0]

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """The newest chunk put under `key`, or None."""
        if self._h.closing:  # or forked
            self._h.check_open()
        try:
            beyond = self._beyond
            if beyond is None or beyond.edge.revalidate is None or not beyond.edge.outdated(key_text(key)):
                obj = self._reader.get(key)
                if obj is not None or beyond is None:
                    return obj
            text = key_text(key)
            return beyond.get([key], [text], [self._chains.single(self._clock(), text)])[0]
        except BaseException as error:
            self._h.mend(error)
            raise

    @mending
    def remove(self, key: CacheEngineKey) -> None:
        """Forget `key` in all tiers; its bytes leave the top tier now, the lower ones soon.

        Raises
        ------
        OutcomeUnknownError
            A tier shared with others did not forget it in time: it will, as soon as it can be reached.
        """
        self.remove_many([key])

    @mending
    def remove_many(self, keys: Sequence[CacheEngineKey]) -> None:
        """Forget `keys`, as `remove` does."""
        self._h.check_open()
        changes = []
        for text in [key_text(key) for key in keys]:
            self._h.settle(text, change=True)
            changes.append((text, self._room.remove(text)))
        if self._beyond is not None:
            self._beyond.remove(changes)

    @mending
    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """Read a chunk into the caller's buffer, straight from the tier that holds it."""
        self._h.check_open()
        text = key_text(key)
        self._h.settle(text)
        found: ChunkMeta | None = None
        if self._beyond is None or not self._beyond.lacks(text):
            found = self._reader.get_into(key, text, self._chains.single(self._clock(), text), buffer)
        return super().get_into(key, buffer) if found is None and self._beyond is not None else found

    @property
    def lends(self) -> bool:
        """Whether a tier does."""
        return any(tier.backend.lends for tier in self._h.tiers)

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """Borrow a chunk's bytes from the tier that holds it."""
        self._h.check_open()
        text = key_text(key)
        try:
            self._h.settle(text)
            if self._beyond is None or not self._beyond.lacks(text):
                with self._reader.view(key, text, self._chains.single(self._clock(), text)) as view:
                    if view is not None or self._beyond is None:
                        yield view
                        return
            with super().view(key) as view:
                yield view
        except BaseException as error:
            self._h.mend(error)
            raise

    @property
    def files(self) -> bool:
        """Whether its only tier does: chunks that may rise are read."""
        return not self._reader.shares and self._h.tiers[0].backend.files

    @contextmanager
    def in_file(self, key: CacheEngineKey) -> Iterator[ChunkInFile | None]:
        """See `LMSBackendInterface`."""
        self._h.check_open()
        if not self.files:
            yield None
            return
        text = key_text(key)
        try:
            self._h.settle(text)
            with self._reader.in_file(key, text, self._chains.single(self._clock(), text)) as found:
                yield found
        except BaseException as error:
            self._h.mend(error)
            raise

    @mending
    def get_tensor(self, key: CacheEngineKey, out: torch.Tensor | None = None) -> torch.Tensor | None:
        """The chunk as a tensor, straight from the tier that holds it."""
        self._h.check_open()
        text = key_text(key)
        self._h.settle(text)
        found: torch.Tensor | None = None
        if self._beyond is None or not self._beyond.lacks(text):
            context = self._chains.single(self._clock(), text)
            found = self._reader.read(key, text, context, lambda backend, key, meta: backend.get_tensor(key, out))
        return super().get_tensor(key, out) if found is None and self._beyond is not None else found

    @mending
    def put_tensor(self, client_meta: ClientMetaMessage, tensor: torch.Tensor) -> None:
        """Store a tensor, straight into the first tier that takes it."""
        self._h.check_open()
        text = key_text(client_meta.key, self._max_key)
        self._h.settle(text, change=True)
        self._writer.put(client_meta, text, tensor, self._chains.single(self._clock(), text, put=True), tensor=True)

    @contextmanager
    def request(
        self, request_id: int | str | None = None, partial_keys: Collection[CacheEngineKey] = ()
    ) -> Iterator[None]:
        """All calls of this thread within the block belong to one request, in the order of its prefix chain.

        Parameters
        ----------
        request_id : int or str, optional
            For policies; made up where None.
        partial_keys : collection of CacheEngineKey
            Chunks that the request fills only partly (almost never reused).
        """
        partial = frozenset(key_text(key) for key in partial_keys)
        try:
            self._chains.begin(request_id, partial)
            yield
        finally:
            self._chains.end()

    # -- the whole store ---------------------------------------------------------------------------------------------

    @mending
    def flush(self, timeout: float | None = None) -> None:
        """Return when every chunk present now is clean down to the lowest persistent tier, and stale copies are gone.

        As far as capacity allows: where the lower tier is smaller, the hottest chunks are the ones it holds.

        Raises
        ------
        DeadlineExceededError
            Not within `timeout` seconds.
        StorageUnavailableError
            A persistent tier is switched off.
        """
        self._h.check_open()
        self._flusher.flush(timeout)

    @mending
    def drain(self, timeout: float | None = None) -> None:
        """Return when the movers have nothing left to do (`DeadlineExceededError` after `timeout` seconds)."""
        self._h.check_open()
        self._flusher.drain(timeout)

    @mending
    def resize(self, tier: str | int, capacity: int, timeout: float | None = 30.0) -> None:
        """Give a tier another capacity; returns when it holds no more than that.

        Raises
        ------
        ConfigError
            No such tier, not a positive size, or more than the backend was opened with.
        DeadlineExceededError
            What is above the new capacity could not leave within `timeout` seconds; the new capacity stands.
        """
        self._h.check_open()
        self._flusher.resize(self._room, tier, capacity, timeout)

    @mending
    def clear(self, timeout: float | None = 30.0) -> None:
        """Forget every chunk; returns when their bytes are deleted. What a shared tier holds stays: it is others' too.

        Raises
        ------
        DeadlineExceededError, StorageUnavailableError
            They are forgotten, but not all deleted.
        """
        self._h.check_open()
        self._flusher.clear(timeout)

    def stats(self) -> StoreStats:
        """Counters of the store and each tier since it was opened."""
        self._h.check_open()
        return store_stats(self._h, self._reader, self._beyond)

    def close(self) -> None:
        """Flush, save what policies remember, end the movers, close the backends.

        A tier that does not come back is left behind after `close_timeout` seconds. A call beside another one returns
        when that has ended; the next call after one that was interrupted finishes what that had begun.
        """
        self._h.check_open(ending=True)
        h = self._h
        with h.lock:
            h.closing = True
            h.wake()
        with self._ending:
            if not self._closed:
                shut_down(h, self._room, self._flusher, self._movers, self._log, self._close_timeout, self._beyond)
                self._closed = True
