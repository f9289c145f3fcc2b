"""Putting a run of chunks by one call of the backend, with one reservation and one publication for all.

Whatever is not plain (an item that is refused, a key somebody else is at, a failure) ends or undoes the batch, and the
writer goes on item by item: the batch is an optimisation and never the only way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import Any, Final, NamedTuple

from lms_tiers.errors import CapacityError, LmsTiersError, StorageFullError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import ChunkMeta, ClientMetaMessage, put_bytes
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry, Fit
from lms_tiers.tiered.state.tier import Tier, stored_bytes

#: Chunks and bytes of one batch.
_CHUNKS: Final = 64
_BYTES: Final = 64 << 20


class _Run(NamedTuple):
    """Chunks that are written together."""

    metas: Sequence[ClientMetaMessage]
    texts: Sequence[str]
    contexts: Sequence[AccessContext]
    entries: list[Entry]
    needs: list[int]


class BatchWriter:
    """Batches into the first tier of `hierarchy` that works.

    Parameters
    ----------
    check : callable
        ``(client_meta, text, nbytes)``: a chunk's metadata and what it needs in each tier, or a `LmsTiersError`.
    back_pressure : float
        Seconds to wait for room.
    """

    def __init__(
        self, hierarchy: Hierarchy, room: Room, check: Callable[[ClientMetaMessage, str, int], tuple[ChunkMeta, Fit]],
        back_pressure: float,
    ) -> None:  # fmt: skip
        self._h: Final = hierarchy
        self._room: Final = room
        self._check: Final = check
        self._back_pressure: Final = back_pressure

    def put(
        self, items: Sequence[tuple[ClientMetaMessage, Any]], texts: Sequence[str],
        contexts: Sequence[AccessContext], start: int,
    ) -> int:  # fmt: skip
        """Store a run of items from `start` on; answers how many, 0 where that is not possible in one go."""
        tier = self._tier()
        if tier is None:
            return 0
        sizes = (put_bytes(texts[i], items[i][1]) for i in range(start, len(items)))
        metas = [client_meta for client_meta, _ in items[start : start + _CHUNKS]]
        run = self._take(tier, metas, sizes, texts[start:], contexts[start:], 2)
        if run is None:
            return 0
        batch = items[start : start + len(run.metas)]

        def store() -> list[bool]:
            tier.backend.put_many(batch)
            return [True] * len(batch)

        return len(self._write(tier, run, store, blame=True))

    def put_from(
        self, client_metas: Sequence[ClientMetaMessage], texts: Sequence[str], contexts: Sequence[AccessContext],
        start: int, source: LMSBackendInterface,
    ) -> list[bool]:  # fmt: skip
        """Let the backend take a run from `source`; which of it `source` held, of none where that is not possible."""
        tier = self._tier()
        if tier is None:
            return []
        metas = client_metas[start : start + _CHUNKS]
        run = self._take(tier, metas, (meta.length for meta in metas), texts[start:], contexts[start:], 1)
        if run is None:
            return []
        # Whose fault a failure is, the source's or the tier's, is known when it is done step by step.
        return self._write(tier, run, lambda: tier.backend.put_from(run.metas, source), blame=False)

    def _tier(self) -> Tier | None:
        return next((tier for tier in self._h.tiers if self._h.up & tier.bit), None)

    def _take(
        self, tier: Tier, metas: Sequence[ClientMetaMessage], sizes: Iterable[int], texts: Sequence[str],
        contexts: Sequence[AccessContext], least: int,
    ) -> _Run | None:  # fmt: skip
        """Reserve for the leading chunks, `least` of them or none, and become the mutator of their keys."""
        h = self._h
        checked, needs, unfit = self._plain(tier, metas, sizes, texts)
        if len(needs) < least:
            return None
        with h.lock:
            if h.closing:
                return None
            for i, (text, need) in enumerate(zip(texts, needs, strict=False)):
                old = h.index.get(text)
                held = old is not None and old.tiers & tier.bit
                if text in tier.busy or not (held or h.admits(tier, text, need, contexts[i])):
                    del needs[i:]
                    break
            if len(needs) < least:
                return None
            total = sum(needs)
            leaving = self._room.take(tier, total)
        if leaving is not None and not self._room.make_room(tier, total, "", self._back_pressure, leaving, force=False):
            return None
        run = texts[: len(needs)]
        entries = [
            Entry(checked[i], unfit[i], h.nowhere, contexts[i].parent, contexts[i].position) for i in range(len(run))
        ]
        with h.lock:
            if h.closing or any(text in tier.busy for text in run):
                self._room.give_back(tier, total)
                return None
            for text, need, entry in zip(run, needs, entries, strict=True):
                h.acquire(tier, text, need, entry)
        return _Run(metas[: len(run)], run, contexts, entries, needs)

    def _plain(
        self, tier: Tier, client_metas: Sequence[ClientMetaMessage], sizes: Iterable[int], texts: Sequence[str]
    ) -> tuple[list[ChunkMeta], list[int], list[int]]:
        """The leading chunks that are valid, distinct and fit: metadata, need, tiers that cannot hold it (bits)."""
        most = min(_BYTES, tier.budget // 4)
        metas: list[ChunkMeta] = []
        needs: list[int] = []
        unfit: list[int] = []
        total = 0
        seen: set[str] = set()
        nbytes = iter(sizes)
        for client_meta, text in zip(client_metas, texts, strict=False):
            try:
                meta, fit = self._check(client_meta, text, next(nbytes))
            except LmsTiersError:
                break  # raised again where its turn comes
            need = fit.needs[tier.position]
            if need is None or total + need > most or text in seen:
                break
            total += need
            seen.add(text)
            metas.append(meta)
            needs.append(need)
            unfit.append(fit.unfit)
        return metas, needs, unfit

    def _write(self, tier: Tier, run: _Run, store: Callable[[], list[bool]], blame: bool) -> list[bool]:
        """Write by `store`, which answers what of the run was stored; nothing of it where that failed."""
        h = self._h
        error: BaseException | None = None
        stored: list[bool] = []
        charges: list[int] = []
        started = time.perf_counter_ns()
        try:
            tier.begun.add(get_ident())
            stored = tier.call(store)
            charges = [
                stored_bytes(tier, meta.key, need) if held else 0
                for meta, need, held in zip(run.metas, run.needs, stored, strict=True)
            ]
        except (KeyboardInterrupt, SystemExit):
            raise  # nobody knows where it came from: see audit.py
        except BaseException as caught:
            error = caught
        took = time.perf_counter_ns() - started
        with h.lock:
            if error is None and not h.over:
                tier.write_latency.add(took)
                if tier.failing:
                    tier.worked()
                for i, text in enumerate(run.texts):
                    if stored[i]:
                        h.publish(tier, text, run.entries[i], run.needs[i], charges[i], run.contexts[i])
                    else:
                        self._room.give_back(tier, run.needs[i])
                        h.release(tier, text)
                if tier.dirty_bytes > tier.dirty_most:
                    self._room.clean_ahead(tier)
                return stored
            if blame and error is not None and not isinstance(error, (CapacityError, StorageFullError)):
                tier.failed(run.texts[0], error)
            for text, need in zip(run.texts, run.needs, strict=True):
                h.doubt(tier, text, need)  # nobody knows how far the backend got
        return []
