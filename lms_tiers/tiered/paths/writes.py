"""Writing a chunk: reserve, write to the backend, then publish the new generation, which un-grants all older copies.

A put goes to the first tier that can hold the chunk, wants it and works.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Final

from lms_tiers.errors import (
    BackendClosedError,
    CapacityError,
    InvalidChunkError,
    InvalidKeyError,
    LmsTiersError,
    StorageFullError,
    StorageUnavailableError,
    ValueTooLargeError,
    nothing_done,
)
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import ChunkMeta, ClientMetaMessage, put_bytes
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.batch import BatchWriter
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry, Fit
from lms_tiers.tiered.state.tier import Tier, stored_bytes
from lms_tiers.tiered.watch.events import EventKind, EventReason

_clock_ns = time.perf_counter_ns

#: What a write may raise in a tier that is well.
_NOT_SICK: Final = (InvalidKeyError, InvalidChunkError, CapacityError, StorageFullError)

#: What no other tier makes good: the caller's fault, or his end.
_CALLERS: Final = (InvalidKeyError, InvalidChunkError, KeyboardInterrupt, SystemExit)

#: How often more chunks leave for a backend that is fuller than its reservations say.
_FULLER: Final = 4


class Writer:
    """Puts into the tiers of `hierarchy`.

    Parameters
    ----------
    back_pressure : float
        Seconds a put waits for the movers before it drops a chunk nobody else holds.
    patience : float
        Seconds it waits for another mutator of the same key.
    """

    def __init__(self, hierarchy: Hierarchy, room: Room, back_pressure: float, patience: float) -> None:
        self._h: Final = hierarchy
        self._room: Final = room
        self._back_pressure: Final = back_pressure
        self._patience: Final = patience
        self._unfit: Final = sum(tier.unfit for tier in hierarchy.tiers)
        self._batch: Final = BatchWriter(hierarchy, room, self.check, back_pressure)
        self._beyond: Callable[[str, Entry, Any], None] | None = None
        self._most_beyond = 0

    def go_on(self, beyond: Callable[[str, Entry, Any], None], most: int | None) -> None:
        """Give what no tier takes to `beyond`, ``(text, entry, data)``: the shared tier, for chunks of `most` bytes."""
        self._beyond = beyond
        self._most_beyond = sys.maxsize if most is None else most

    def check(self, client_meta: ClientMetaMessage, text: str, nbytes: int) -> tuple[ChunkMeta, Fit]:
        """The metadata of a chunk of `nbytes` bytes and what it needs in each tier.

        Raises
        ------
        InvalidChunkError, ValueTooLargeError
        """
        meta = ChunkMeta.of(client_meta, nbytes)
        fit = self._h.fit(nbytes)
        if fit.unfit == self._unfit and nbytes > self._most_beyond:
            most = [t.budget if t.max_value is None else min(t.budget, t.max_value) for t in self._h.tiers]
            largest = max(self._most_beyond, *most)
            raise ValueTooLargeError(text, nbytes, largest, "every tier of the store")
        return meta, fit

    def put(
        self, client_meta: ClientMetaMessage, text: str, data: Any, context: AccessContext, tensor: bool = False
    ) -> None:
        """Store one chunk, given as bytes or as a tensor, in the first tier that takes it; see the interface."""
        meta, fit = self.check(client_meta, text, put_bytes(text, data))
        h = self._h
        error: BaseException | None = None
        refused = False
        for tier, need in zip(h.tiers, fit.needs, strict=True):
            if tier.position and tier.calls:
                with h.lock:
                    tier.look()
            if need is None or not (h.up & tier.bit or h.probe(tier.bit)):
                continue
            entry = Entry(meta, fit.unfit, h.nowhere, context.parent, context.position)
            try:
                if self._into(tier, client_meta, text, data, entry, need, context, tensor):
                    return
                refused = True
            except BaseException as caught:
                if isinstance(caught, _CALLERS) or (h.closing and isinstance(caught, BackendClosedError)):
                    raise
                h.mend(caught)
                if error is None or not isinstance(caught, CapacityError):  # a sick tier matters more than a full one
                    error = caught
        unwanted = refused and error is None
        entry = Entry(meta, fit.unfit, h.nowhere, context.parent, context.position)
        if self._beyond is not None and not h.closing and self._sent(text, entry, data, tensor, unwanted):
            return
        if unwanted:
            with h.lock:  # stored and evicted at once: nobody may read the generation before it any more
                if h.edge is not None:
                    h.edge.lose(text, h.edge.changed(text, entry))
                h.forget(text, EventReason.NOT_ADMITTED, EventKind.DROPPED)
            return
        if h.closing and (error is None or isinstance(error, CapacityError)):
            raise BackendClosedError("the store")
        if isinstance(error, LmsTiersError) and not isinstance(error, BackendClosedError):
            raise error
        why = "every tier that could take it is switched off."
        if error is not None:
            why = f"no tier took the chunk; last: {type(error).__name__}: {error}"
        raise StorageUnavailableError(", ".join(tier.name for tier in h.tiers), why) from error

    def put_many(
        self, items: Sequence[tuple[ClientMetaMessage, Any]], texts: Sequence[str], contexts: Sequence[AccessContext]
    ) -> None:
        """Store chunks in order; see `LMSBackendInterface.put_many`."""
        start = 0
        while start < len(items):
            stored = self._batch.put(items, texts, contexts, start) if len(items) - start > 1 else 0
            if not stored:
                client_meta, data = items[start]
                self.put(client_meta, texts[start], data, contexts[start])
                stored = 1
            start += stored

    def put_from(
        self, client_metas: Sequence[ClientMetaMessage], texts: Sequence[str], contexts: Sequence[AccessContext],
        source: LMSBackendInterface,
    ) -> list[bool]:  # fmt: skip
        """Store chunks out of `source`, in order; see `LMSBackendInterface.put_from`."""
        held: list[bool] = []
        while (i := len(held)) < len(client_metas):
            held += self._batch.put_from(client_metas, texts, contexts, i, source) or [
                self._copied(client_metas[i], texts[i], contexts[i], source)
            ]
        return held

    def _copied(
        self, client_meta: ClientMetaMessage, text: str, context: AccessContext, source: LMSBackendInterface
    ) -> bool:
        """Store one chunk of `source` by way of a copy; False where it is not held as `client_meta` says."""
        with source.view(client_meta.key) as view:
            if view is None or view.meta != ChunkMeta.of(client_meta, client_meta.length):
                return False
            data = bytearray().join(view.buffers)
        self.put(client_meta, text, data, context)
        return True

    def _sent(self, text: str, entry: Entry, data: Any, tensor: bool, unwanted: bool) -> bool:
        """Send a chunk that no private tier took to the shared one; False where that fails and it is `unwanted`."""
        h = self._h
        assert self._beyond is not None
        old = h.index.get(text)
        if tensor:
            import torch

            data = bytearray(data.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
        try:
            self._beyond(text, entry, data)
        except LmsTiersError:
            if not unwanted:
                raise
            return False
        with h.lock:
            if h.index.get(text) is old:
                h.forget(text, EventReason.NOT_ADMITTED, EventKind.DROPPED)
            h.puts += 1
        return True

    def _into(
        self, tier: Tier, client_meta: ClientMetaMessage, text: str, data: Any, entry: Entry, need: int,
        context: AccessContext, tensor: bool,
    ) -> bool:  # fmt: skip
        """Try one tier: reserve, become the mutator of the key there, write, publish; False where it is not wanted."""
        h = self._h
        with h.lock:
            if h.closing:
                raise BackendClosedError("the store")
            old = h.index.get(text)
            if not (old is not None and old.tiers & tier.bit) and not h.admits(tier, text, need, context):
                return False
            leaving = self._room.take(tier, need, text)
            mutator = leaving is None and h.acquire(tier, text, need, entry)
        room = leaving is None or self._room.make_room(tier, need, text, self._back_pressure, leaving)
        if room and not mutator:  # not yet, or somebody else is: wait until the key is let go
            claimed = h.wait_for(lambda: h.closing or (h.acquire(tier, text, need, entry) and entry), self._patience)
            mutator = claimed is entry
            if not mutator:
                with h.lock:
                    self._room.give_back(tier, need)
        if not mutator:
            raise CapacityError(f"tier {tier.name!r}", need, tier.budget - tier.used)
        started = _clock_ns()
        try:
            self._write(tier, client_meta, data, need, tensor)
            charge = stored_bytes(tier, client_meta.key, need)
        except (KeyboardInterrupt, SystemExit):
            raise  # nobody knows where it came from: see audit.py
        except BaseException as error:
            with h.lock:
                if not isinstance(error, _NOT_SICK) and not h.over:
                    tier.failed(text, error)
                if nothing_done(error) and not h.over:
                    tier.settle(need, 0)
                    h.release(tier, text)
                else:  # nobody knows whether what the tier held before is still there
                    h.doubt(tier, text, need)
            raise
        took = _clock_ns() - started
        with h.lock:
            if tier.failing:
                tier.worked()
            if h.over:  # the closing did not wait for it
                h.doubt(tier, text, need)
                raise BackendClosedError("the store")
            tier.write_latency.add(took)
            h.publish(tier, text, entry, need, charge, context)
            if tier.dirty_bytes > tier.dirty_most:  # the last of a burst of puts may be what makes it too much
                self._room.clean_ahead(tier)
        return True

    def _write(self, tier: Tier, client_meta: ClientMetaMessage, data: Any, need: int, tensor: bool) -> None:
        """Write to the backend; where it is fuller than its reservations say, let more leave and try again."""
        put = tier.backend.put_tensor if tensor else tier.backend.put
        thread = get_ident()
        for more in range(_FULLER + 1):
            try:
                tier.begun.add(thread)
                tier.call(put, client_meta, data)
                return
            except (CapacityError, StorageFullError):
                tier.begun.discard(thread)
                if more == _FULLER or not self._room.spare(tier, need << more):
                    raise
