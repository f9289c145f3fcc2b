"""A start that nobody waits for: the lowest tier's chunks are taken into the index while the store serves.

A thread takes them over as the backend lists them. What is asked for before its turn is looked up in the backend and
taken over at once (`settle`). The bytes that the backend holds are charged from the start. See docs/tiering.md.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Final, Protocol, TypeVar, runtime_checkable

from lms_tiers.changes import Deadline, begin
from lms_tiers.errors import InvalidKeyError, LmsTiersError, StorageUnavailableError
from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey, OpaqueKey
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.stand_ins import LatePolicy, Settled, align
from lms_tiers.tiered.state.tier import Tier
from lms_tiers.tiered.watch.events import EventKind, EventReason

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: A tier with no more chunks than this is taken over before the store is handed out: that takes a tenth of a second.
FEW: Final = 10_000

#: Chunks taken over in one go: readers need the lock, and the interpreter's, in between.
_STEP: Final = 128

#: While chunks are being asked for (one within so many nanoseconds) the loader sleeps so many seconds after a step.
_QUIET: Final = 2_000_000
_BREATH: Final = 0.005

#: Seconds without a word of the backend after which nobody waits for it any more.
_STALL: Final = 60.0

#: Seconds until a listing that failed is begun anew, doubling up to the longest.
_RETRY: Final = 0.5
_LONGEST_RETRY: Final = 60.0


@runtime_checkable
class Locating(Protocol):
    """What a backend offers beyond its interface for its tier to start in the background."""

    def held(self) -> tuple[int, int]:
        """Chunks held, and the physical bytes they are charged with together: at least those that `scan` lists."""

    def locate(self, key: CacheEngineKey) -> ChunkInfo | None:
        """What `scan` would list of `key` now."""

    def iter_keys(self) -> Iterator[CacheEngineKey]:
        """As `list_keys`, without holding them all at once."""


class Loading(Settled):
    """Takes over what `tier`, the lowest one, holds. Nothing is indexed when it is made; settled keys it leaves alone.

    Parameters
    ----------
    chunks, nbytes : int
        What the backend holds; they fit the tier.
    state : bytes
        What the tier's policy saved last time.
    """

    def __init__(
        self, hierarchy: Hierarchy, tier: Tier, chunks: int, nbytes: int, state: bytes, deadline: float | None = None
    ) -> None:  # fmt: skip
        assert isinstance(tier.backend, Locating)
        super().__init__(tier, nbytes)
        self._h: Final = hierarchy
        self._deadline: Final = deadline
        self._backend: Final[Locating] = tier.backend
        self._stuck = False
        self._told = False  # everything, so that the index tells the truth; the policy may not know it yet
        self._last = time.monotonic()  # when the backend told something
        self._asked = 0
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name=f"lms-tiers-start-{tier.name}", daemon=True)
        self._late: Final = LatePolicy(tier.policy, state)
        tier.policy = self._late
        tier.unlisted = chunks
        tier.used = tier.peak = tier.used + nbytes

    @property
    def moves(self) -> bool:
        """See `Settled`."""
        return not self._stuck and time.monotonic() - self._last < _STALL

    def start(self) -> None:
        """See `Settled`."""
        begin(self._thread)

    def stop(self, timeout: float) -> bool:
        """See `Settled`."""
        self._stop.set()
        with self._h.lock:
            self._stuck = True
            self._h.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def wait(self, deadline: Deadline) -> None:
        """See `Settled`."""
        while True:
            with self._h.lock:
                if self._h.loading is not self:
                    return
                if not self.moves:
                    raise StorageUnavailableError(self.tier.name, "cannot list its chunks.")
                change = self._h.change()
            self._h.wait(change, deadline.tick())

    # -- one key -----------------------------------------------------------------------------------------------------

    def settle(self, text: str, change: bool = False) -> None:
        """See `Settled`."""
        h, tier, seen = self._h, self.tier, self.seen
        if text in h.index or self._told or text in seen or (self.cleared and not change):
            return
        info, known, error = self._look(self._backend.locate, text)
        if info is None and known and not change and not tier.failing:
            return  # nothing is there, and nothing to be noted
        unfit = h.fit(info.meta.length).unfit if info is not None else 0
        with h.lock:
            if error is not None and not h.closing:
                tier.failed(text, error)
            elif known and tier.failing:
                tier.worked()
            if h.loading is not self or text in h.index or text in seen:
                return  # settled meanwhile, and what was found may be outdated
            if info is not None:
                self._take(text, info, unfit, None)
            elif change and not known:
                # Of unknown size, and still charged as one that is not settled: see `_weigh`.
                self.unweighed.add(text)
                tier.garbage[text] = 0
                h.log.add(EventKind.GONE, EventReason.IO_ERROR, "", text, 0)
                h.poke(tier)
            if change:
                seen.add(text)  # after it is in the index: others look without the lock

    def holds(self, text: str) -> bool:
        """See `Settled`."""
        h, tier, seen = self._h, self.tier, self.seen
        if text in h.index or self._told or text in seen or self.cleared:
            return False
        there, known, error = self._look(tier.backend.contains, text)
        if error is not None or (known and tier.failing):
            with h.lock:
                if error is not None and not h.closing:
                    tier.failed(text, error)
                elif known and tier.failing:
                    tier.worked()
        # Settled meanwhile: what was found may be outdated, and the index tells.
        return bool(there) and h.loading is self and not (self.cleared or text in seen or text in h.index)

    def _look(
        self, call: Callable[[CacheEngineKey], T], text: str
    ) -> tuple[T | None, bool, BaseException | None]:  # fmt: skip
        """What the backend answers of `text`, whether it has answered, and what it raised."""
        h, tier = self._h, self.tier
        self._asked = time.perf_counter_ns()
        if tier.calls:
            with h.lock:
                tier.look()
        if not h.up & tier.bit and h.probe(tier.bit) is None:
            return None, False, None
        try:
            if self._deadline is None:
                return tier.inside(call, OpaqueKey(text)), True, None
            return tier.askers.ask(partial(tier.inside, call, OpaqueKey(text)), self._deadline), True, None
        except InvalidKeyError:
            return None, True, None  # it holds no such key
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return None, False, error

    def unlisted(self, listed: Container[str]) -> Iterator[str]:
        """See `Settled`."""
        index = self._h.index
        try:
            for key in self._backend.iter_keys():
                text = key.to_string()
                if text not in listed and (text in index or not (self.cleared or text in self.seen)):
                    yield text
        except LmsTiersError:
            raise
        except Exception as error:
            raise StorageUnavailableError(self.tier.name, f"cannot list its chunks: {error!r}") from error

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        h, tier = self._h, self.tier
        pause = _RETRY
        while not self._stop.is_set():
            try:
                self._read()
                break
            except BaseException as error:
                stopped = self._stop.is_set()
                if not stopped:
                    _log.warning("tier %r cannot list its chunks; it is asked again: %r", tier.name, error)
                with h.lock:
                    self._stuck = True
                    if not stopped:
                        tier.failed("", error)
                    h.wake()
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_RETRY)
        if not self._stop.is_set():
            self._finish()

    def _read(self) -> None:
        """Take over what the backend lists; what an earlier listing told is passed over."""
        fit = self._h.fit
        batch: list[tuple[str, ChunkInfo, int]] = []
        for info in self.tier.backend.scan():
            batch.append((info.key.to_string(), info, fit(info.meta.length).unfit))
            if len(batch) == _STEP:
                self._take_batch(batch)
                batch.clear()
                if self._stop.is_set():
                    return
                self._breathe()
        self._take_batch(batch)

    def _breathe(self) -> None:
        """Let others go first: not for long where a put waits for what is loaded to leave."""
        busy = bool(self._h.noted) or time.perf_counter_ns() - self._asked < _QUIET
        time.sleep(_BREATH if busy and not self.tier.wanted else 0.0)

    def _take_batch(self, batch: list[tuple[str, ChunkInfo, int]]) -> None:
        h = self._h
        index, seen = h.index, self.seen
        with h.lock:
            self._stuck, self._last = self._stop.is_set(), time.monotonic()
            h.recency.tell()  # so that hits noted after this show that chunks are being asked for
            now = AccessContext(h.clock())  # one for all: the order tells their recency
            for text, info, unfit in batch:
                if text in self.unweighed:
                    self._weigh(text, info.stored_bytes)
                if text in index:
                    if self.tier.policy is self._late:
                        try:
                            self._late.meet(text, now)
                        except Exception as error:
                            h.suspend(self.tier, error)
                elif text not in seen:
                    self._take(text, info, unfit, now)
            h.wake()

    def _weigh(self, text: str, nbytes: int) -> None:
        """Charge stale bytes for themselves, unless they were deleted or overwritten since. The lock is held."""
        self.unweighed.discard(text)
        if text in self.tier.garbage:
            self.tier.garbage[text] += nbytes  # beside what a write in doubt has reserved since
            self._count(nbytes)

    def _count(self, nbytes: int) -> None:
        """One chunk less is not settled, and is charged for itself. The lock is held."""
        self.tier.unlisted -= 1
        self.unsettled_bytes -= nbytes
        if self.unsettled_bytes < 0:  # the backend told of less than it held
            self.tier.used -= self.unsettled_bytes
            self.unsettled_bytes = 0

    def _take(self, text: str, info: ChunkInfo, unfit: int, turn: AccessContext | None) -> None:
        """Index a chunk that is not settled; `turn` where it is its turn. The lock is held."""
        h, tier = self._h, self.tier
        if self.cleared:
            self.seen.add(text)
            tier.garbage[text] = info.stored_bytes
            self._count(info.stored_bytes)
            h.log.add(EventKind.GONE, EventReason.REQUEST, "", text, 0)
            h.poke(tier)
            return
        charges = h.charges.changed(h.nowhere, tier.position, info.stored_bytes)
        charge = charges[tier.position]
        h.index[text] = Entry(info.meta, unfit | tier.bit, charges)
        self._count(info.stored_bytes)
        tier.keys += 1
        try:
            if tier.policy is not self._late:
                tier.policy.on_insert(text, charge, turn or AccessContext(h.clock()))
            elif turn is None:
                self._late.adopt(text, charge)
            else:
                self._late.load(text, charge, turn)
        except Exception as error:
            h.suspend(tier, error)

    def _finish(self) -> None:
        """Everything is taken over: the policy comes into its own."""
        h, tier, late = self._h, self.tier, self._late
        failed: Exception | None = None
        with h.lock:
            self._told = True
            late.freeze()
        try:
            late.restore_state()
        except Exception as error:
            failed = error
        with h.lock:
            h.recency.tell()
            if tier.policy is late:
                try:
                    tier.policy = late.thaw()
                    if late.torn:
                        bit = tier.bit
                        align(tier.policy, tier.position, {k: e for k, e in h.index.items() if e.tiers & bit})
                except Exception as error:
                    failed = failed or error
                if failed is not None:
                    h.suspend(tier, failed)
            tier.used -= self.unsettled_bytes  # of chunks that it holds and does not list
            tier.unlisted = 0
            h.loading = None
            h.wake()
