"""Putting a run of chunks by one call of the backend, with one reservation and one publication for all.

Whatever is not plain (an item that is refused, a key somebody else is at, a failure) ends or undoes the batch, and the
writer goes on item by item: the batch is an optimisation and never the only way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Final

from lms_tiers.errors import CapacityError, LmsTiersError, StorageFullError
from lms_tiers.messages import ChunkMeta, ClientMetaMessage
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry, Fit
from lms_tiers.tiered.state.tier import Tier, stored_bytes
from lms_tiers.tiered.watch.events import EventKind, EventReason

#: Chunks and bytes of one batch.
_CHUNKS: Final = 64
_BYTES: Final = 64 << 20


class BatchWriter:
    """Batches into the first tier of `hierarchy` that works.

    Parameters
    ----------
    check : callable
        ``(client_meta, text, data)``: a chunk's metadata and what it needs in each tier, or a `LmsTiersError`.
    written : callable
        ``(tier, text, entry)``: a chunk was stored. Called with the lock held.
    back_pressure : float
        Seconds to wait for room.
    """

    def __init__(
        self, hierarchy: Hierarchy, room: Room, check: Callable[[ClientMetaMessage, str, Any], tuple[ChunkMeta, Fit]],
        written: Callable[[Tier, str, Entry], None], back_pressure: float,
    ) -> None:  # fmt: skip
        self._h: Final = hierarchy
        self._room: Final = room
        self._check: Final = check
        self._written: Final = written
        self._back_pressure: Final = back_pressure
        self.puts = 0

    def put(
        self, items: Sequence[tuple[ClientMetaMessage, Any]], texts: Sequence[str],
        contexts: Sequence[AccessContext], start: int,
    ) -> int:  # fmt: skip
        """Store a run of items from `start` on; answers how many, 0 where that is not possible in one go."""
        h = self._h
        tier = next((t for t in h.tiers if h.up & t.bit), None)
        if tier is None:
            return 0
        metas, needs, unfit = self._plain(tier, items, texts, start)
        if len(needs) < 2:
            return 0
        with h.lock:
            if h.closing:
                return 0
            for i, (text, need) in enumerate(zip(texts[start : start + len(needs)], needs, strict=True)):
                old = h.index.get(text)
                held = old is not None and old.tiers & tier.bit
                if text in tier.busy or not (held or h.admits(tier, text, need, contexts[start + i])):
                    del needs[i:]
                    break
            if len(needs) < 2:
                return 0
            total = sum(needs)
            leaving = self._room.take(tier, total)
        if leaving is not None and not self._room.make_room(tier, total, "", self._back_pressure, leaving, force=False):
            return 0
        run = texts[start : start + len(needs)]
        entries = [
            Entry(metas[i], unfit[i], h.nowhere, contexts[start + i].parent, contexts[start + i].position)
            for i in range(len(run))
        ]
        with h.lock:
            if h.closing or any(text in tier.busy for text in run):
                self._room.give_back(tier, total)
                return 0
            for text, need, entry in zip(run, needs, entries, strict=True):
                h.acquire(tier, text, need, entry)
        return self._write(tier, items, run, contexts, start, entries, needs)

    def _plain(
        self, tier: Tier, items: Sequence[tuple[ClientMetaMessage, Any]], texts: Sequence[str], start: int
    ) -> tuple[list[ChunkMeta], list[int], list[int]]:
        """The leading items that are valid, distinct and fit: metadata, need, tiers that cannot hold it (bits)."""
        most = min(_BYTES, tier.budget // 4)
        metas: list[ChunkMeta] = []
        needs: list[int] = []
        unfit: list[int] = []
        total = 0
        seen: set[str] = set()
        for i in range(start, min(len(items), start + _CHUNKS)):
            client_meta, data = items[i]
            try:
                meta, fit = self._check(client_meta, texts[i], data)
            except LmsTiersError:
                break  # raised again where its turn comes
            need = fit.needs[tier.position]
            if need is None or total + need > most or texts[i] in seen:
                break
            total += need
            seen.add(texts[i])
            metas.append(meta)
            needs.append(need)
            unfit.append(fit.unfit)
        return metas, needs, unfit

    def _write(
        self, tier: Tier, items: Sequence[tuple[ClientMetaMessage, Any]], run: Sequence[str],
        contexts: Sequence[AccessContext], start: int, entries: list[Entry], needs: list[int],
    ) -> int:  # fmt: skip
        h = self._h
        error: BaseException | None = None
        charges: list[int] = []
        started = time.perf_counter_ns()
        batch = items[start : start + len(run)]
        try:
            with tier.inside_below():
                tier.begun.add(get_ident())
                tier.backend.put_many(batch)
                charges = [stored_bytes(tier, meta.key, need) for (meta, _), need in zip(batch, needs, strict=True)]
        except (KeyboardInterrupt, SystemExit):
            raise  # nobody knows where it came from: see audit.py
        except BaseException as caught:
            error = caught
        took = time.perf_counter_ns() - started
        with h.lock:
            if error is None and not h.closing:
                tier.write_latency.add(took)
                if tier.breaker.failures:
                    h.worked(tier)
                self.puts += len(run)
                for i, text in enumerate(run):
                    entry = entries[i]
                    tier.bytes_written += entry.meta.length
                    tier.settle(needs[i], charges[i])
                    h.publish(tier, text, entry, charges[i], contexts[start + i])
                    if h.log.on:  # before the key is let go: see audit.py
                        h.log.add(EventKind.STORED, EventReason.REQUEST, tier.name, text, charges[i])
                    h.release(tier, text)
                    self._written(tier, text, entry)
                if tier.dirty_bytes > tier.dirty_most:
                    self._room.clean_ahead(tier)
                return len(run)
            if error is not None and not isinstance(error, (CapacityError, StorageFullError)):
                h.failed(tier, run[0], error)
            for text, need in zip(run, needs, strict=True):
                h.doubt(tier, text, need)  # nobody knows how far the backend got
                h.release(tier, text)
        return 0
