"""Writing to a tier that is shared with others: one thread sends what this store puts and removes, newest change only.

One thread, so that two changes of a key never overtake each other. A write whose outcome is unknown may still take
effect: its key rests, unread, before it is sent again.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from lms_tiers.changes import Deadline
from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    InvalidChunkError,
    InvalidKeyError,
    LmsTiersError,
    OutcomeUnknownError,
    StorageFullError,
    StorageUnavailableError,
    ValueTooLargeError,
    nothing_done,
)
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage
from lms_tiers.tiered.paths.mover import BATCH_BYTES, BATCH_CHUNKS
from lms_tiers.tiered.paths.reads import fetch
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.paths.worker import Worker
from lms_tiers.tiered.state.edge import Edge, Unsent
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import keys_of

_log = logging.getLogger(__name__)

#: Keys removed by one call.
_REMOVE_BATCH: Final = 256

#: Seconds in which a write of unknown outcome takes effect, or never does.
DOUBT: Final = 5.0

#: Seconds until chunks that could not be read are looked at again, where nothing changes before.
_AGAIN: Final = 0.05

#: Why a shared tier does not take a chunk, and would not take it the next time either.
_REFUSALS: Final = (InvalidKeyError, InvalidChunkError, ValueTooLargeError, CapacityError, StorageFullError)

Change = tuple[str, Unsent]


class Sender(Worker):
    """Sends to `backend` what `edge` says it lacks."""

    def __init__(self, hierarchy: Hierarchy, room: Room, edge: Edge, backend: LMSBackendInterface) -> None:
        super().__init__(hierarchy, f"lms-tiers-send-{edge.name}")
        self._room: Final = room
        self._edge: Final = edge
        self._backend: Final = backend
        self._singly = 0  # so many chunks are sent one by one, to find the one that makes a batch fail
        edge.poke = self.poke
        edge.rouse = self.rouse

    # -- from other threads ------------------------------------------------------------------------------------------

    def store(self, text: str, entry: Entry, data: Any, seconds: float) -> None:
        """Send a chunk that no private tier takes; returns when the tier has it. Takes the lock.

        Raises
        ------
        CapacityError, ...
            The tier refused it.
        StorageUnavailableError
            It is switched off.
        OutcomeUnknownError
            It did not answer within `seconds`.
        """
        h, edge = self._h, self._edge
        with h.lock:
            if h.closing:
                raise BackendClosedError("the store")
            if edge.gone():
                raise StorageUnavailableError(edge.name, "is switched off, and no other tier takes the chunk.")
            change = edge.changed(text, entry, data)
        stored = self.wait([(text, change)], Deadline("put", seconds), lambda: False)
        if change.error is not None:
            raise change.error
        if not stored:
            with h.lock:
                edge.lose(text, change)
            raise OutcomeUnknownError(edge.name, "put", "it did not answer in time.")

    def flush(self, deadline: Deadline) -> None:
        """Return when the tier has all that was put and removed before.

        Raises
        ------
        DeadlineExceededError
        StorageUnavailableError
            It is switched off, or it refused chunks.
        """
        h, edge = self._h, self._edge
        with h.lock:
            changes = [(text, change) for text, change in edge.unsent.items() if not change.lost]
            failing = [(text, change) for text, change in changes if change.error is not None]
            for text, _ in changes:
                edge.queue[text] = None
        # Who waits wants to know now; of those that failed before, one is enough to know.
        for tried in (failing[-1:], changes):
            with h.lock:
                for _, change in tried:
                    change.hasten()
                if tried:
                    edge.hasten()
                    self.poke()
            if not self.wait(tried, deadline, partial(_hopeless, edge, tried)):
                deadline.left()
                last = next((f" Last: {change.error}" for _, change in tried if change.error is not None), "")
                raise StorageUnavailableError(edge.name, f"{len(changes)} changes could not be sent.{last}")
        errors = [change.error for _, change in changes if change.error is not None]
        if errors:
            raise StorageUnavailableError(edge.name, f"{len(errors)} chunks were refused. Last: {errors[-1]}")

    def pending(self) -> bool:
        """Whether there is something to send now. The lock is held."""
        now = self._h.clock()
        return not self.idle or any(_due(self._edge.unsent[text]) <= now for text in self._edge.queue)

    def wait(self, changes: Sequence[Change], deadline: Deadline, hopeless: Callable[[], bool]) -> bool:
        """Whether the tier has all `changes`, or what came after them; False in the end, or where it is `hopeless`."""
        h, unsent = self._h, self._edge.unsent
        left = list(changes)
        while True:
            with h.lock:
                left = [(text, it) for text, it in left if unsent.get(text) is it and not it.lost]
                if not left:
                    return True
                if hopeless():
                    return False
                change = h.change()
            try:
                h.wait(change, deadline.tick())
            except LmsTiersError:
                return False

    # -- the thread --------------------------------------------------------------------------------------------------

    def _stumbled(self, error: BaseException) -> None:
        with self._h.lock:
            self._edge.failed("", error)

    def _timeout(self) -> float | None:
        """Seconds until something can be sent; None where nothing is to be."""
        edge = self._edge
        if not edge.queue:
            return None
        now = self._h.clock()
        if not edge.up:
            return max(0.01, edge.retry_at - now)
        return max(0.01, min(_due(edge.unsent[text]) for text in edge.queue) - now)

    def _next(self) -> Callable[[], None] | None:
        """What to do next, prepared under the lock."""
        edge = self._edge
        probing = not edge.up
        if not probing:  # removals that cannot be sent would be remembered in the place of what was lost, without end
            for text in edge.too_many_lost(_REMOVE_BATCH):
                edge.changed(text, None)
            if not edge.through:
                self._cold()
        if probing and not (edge.queue and edge.due()):
            return None
        removals: list[Change] = []
        writes: list[Change] = []
        now, nbytes = self._h.clock(), 0
        most = 1 if self._singly or probing else BATCH_CHUNKS
        for text in list(itertools.islice(edge.queue, 4 * _REMOVE_BATCH)):
            it = edge.unsent[text]
            if (it.not_before if probing else _due(it)) > now:
                continue
            if it.entry is None:
                removals.append((text, it))
            elif len(writes) < most and (not writes or nbytes + it.entry.meta.length <= BATCH_BYTES):
                nbytes += it.entry.meta.length
                writes.append((text, it))
            if len(removals) == _REMOVE_BATCH:
                break
        if not (removals or writes) or not edge.may_ask():
            return None
        return partial(self._remove, removals) if removals else partial(self._send, writes)

    def _cold(self) -> None:
        """Queue what grows cold at the end of the private tiers."""
        h, edge = self._h, self._edge
        source = h.tiers[-1]
        if not source.wanted and source.budget - source.used + source.ahead >= source.window >> 1:
            return
        cold = 0
        for text, entry in h.victims(source, source.window + source.wanted):
            it = edge.unsent.get(text)
            if it is not None and it.entry is entry:
                edge.queue[text] = None
            cold += entry.charges[source.position]
        source.ahead = cold

    # -- jobs, without the lock --------------------------------------------------------------------------------------

    def _remove(self, removals: list[Change]) -> None:
        keys = keys_of([text for text, _ in removals])
        error = self._call(partial(self._backend.remove_many, keys))
        with self._h.lock:
            if error is None:
                self._edge.removed += len(removals)
                for text, it in removals:
                    self._edge.settled(text, it)
            else:
                self._failed(removals, error)
            self._h.wake()

    def _send(self, writes: list[Change]) -> None:
        h, edge = self._h, self._edge
        with h.lock:
            change = h.change()
        ready: list[Change] = []
        items: list[tuple[ClientMetaMessage, Any]] = []
        for text, it in writes:
            entry = it.entry
            data = None if entry is None else self._data(text, entry, it)
            if entry is not None and data is not None:
                ready.append((text, it))
                items.append((entry.meta.message(CacheEngineKey.from_string(text)), data))
                continue
            with h.lock:
                if entry is not None and h.index.get(text) is entry:
                    continue  # being overwritten, or in a tier that is switched off: it is looked at again
                edge.dropped += edge.unsent.get(text) is it
                edge.lose(text, it)
                h.wake()
        if not ready:
            h.wait(change, _AGAIN)
            return
        nbytes = sum(meta.length for meta, _ in items)
        started = time.perf_counter_ns()
        put = partial(self._backend.put_many, items) if len(items) > 1 else partial(self._backend.put, *items[0])
        error = self._call(put)
        took = time.perf_counter_ns() - started
        with self._h.lock:
            self._singly = max(0, self._singly - len(ready))
            if error is None:
                edge.write_latency.add(took)
                edge.sent += len(ready)
                edge.bytes_written += nbytes
                for text, it in ready:
                    edge.settled(text, it)
            else:
                self._failed(ready, error)
            self._h.wake()

    def _data(self, text: str, entry: Entry, it: Unsent) -> Any:
        """The bytes of a chunk that is still the newest generation; None where they are gone."""
        h = self._h
        if it.data is not None:
            return it.data
        for _ in h.tiers:
            with h.lock:
                granted = entry.tiers & h.up if h.index.get(text) is entry else 0
                if not granted:
                    return None
                source = h.tiers[(granted & -granted).bit_length() - 1]
            obj = fetch(h, source, text, entry)
            if obj is not None:
                return obj.data
        return None

    def _call(self, call: Callable[[], None]) -> Exception | None:
        """Call the backend, on record as being inside it; what it raised."""
        h, edge = self._h, self._edge
        error: Exception | None = None
        try:
            edge.inside(call)
        except Exception as caught:
            error = caught
        with h.lock:
            edge.round_trips += 1
            if error is None or isinstance(error, _REFUSALS):
                edge.worked()
        return error

    def _failed(self, changes: list[Change], error: Exception) -> None:
        """A call failed, and nobody knows which of `changes` the tier has. The lock is held."""
        edge = self._edge
        in_doubt = not nothing_done(error)
        refused = isinstance(error, _REFUSALS)
        if refused and len(changes) == 1:
            edge.refused += 1
            changes[0][1].error = error
            edge.lose(*changes[0])
            return
        if not refused:
            edge.failed("", error)
        if in_doubt:
            edge.in_doubt += len(changes)
            until = self._h.clock() + DOUBT
            for text, it in changes:
                newest = edge.unsent.get(text, it)
                newest.not_before = it.not_before = until
        if len(changes) > 1:
            self._singly = len(changes)
        elif not in_doubt:
            changes[0][1].failed(error, self._h.clock())


def _due(change: Unsent) -> float:
    """When a change may be sent, and is worth sending."""
    return max(change.not_before, change.retry_at)


def _hopeless(edge: Edge, changes: Sequence[Change]) -> bool:
    """Whether the tier is gone, or one of `changes` failed anew. The lock is held."""
    return edge.gone() or any(change.error is not None and not change.lost for _, change in changes)
