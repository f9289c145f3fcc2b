"""Starting warm and stopping tidily: what a persistent tier held, its order, and its policy's memory."""

from __future__ import annotations

import gc
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lms_tiers.errors import LmsTiersError, StorageUnavailableError
from lms_tiers.messages import key_text
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.life import loading
from lms_tiers.tiered.life.loading import Loading, Locating
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier

_log = logging.getLogger(__name__)

#: Saved state: this, a mark, the policy's own state. The mark is the same in all tiers of a store that was closed
#: with everything clean, and zero while it is open.
_MAGIC: Final = b"LMSTIER1"
_MARK: Final = 16
_OPEN: Final = bytes(_MARK)


def warm(hierarchy: Hierarchy, room: Room, deadline: float | None = None) -> None:
    """Take over what the backends hold, least recently used first. Before any other thread knows the store.

    What the lowest tier holds, where that is much, is taken over in the background (see loading.py). A key found in two
    tiers is the same generation in both only if the store was closed with everything clean; otherwise the upper copy is
    the newer one, and the lower one is stale.

    Raises
    ------
    StorageUnavailableError
        A backend cannot say what it holds: a tier of unknown content cannot keep its budget.
    """
    with _no_collection():
        _warm(hierarchy, room, deadline)
    if hierarchy.loading is not None:
        hierarchy.loading.start()


def _warm(hierarchy: Hierarchy, room: Room, deadline: float | None) -> None:
    states = [_load(tier) for tier in hierarchy.tiers]
    marks = {mark for mark, _ in states if mark is not None}
    same = len(marks) == 1 and _OPEN not in marks
    for tier, (mark, state) in zip(hierarchy.tiers, states, strict=True):
        try:
            hierarchy.loading = _in_background(hierarchy, tier, state, deadline)
            if hierarchy.loading is None:
                _scan(hierarchy, tier, same)
        except LmsTiersError:
            raise
        except Exception as error:
            raise StorageUnavailableError(
                tier.name, f"cannot list its chunks: {type(error).__name__}: {error}"
            ) from error
        if state and hierarchy.loading is None:
            try:
                tier.policy.restore(state)
            except Exception as error:
                hierarchy.suspend(tier, error)
        if mark not in (None, _OPEN):
            _save(tier, _OPEN, state)
    for tier in hierarchy.tiers:
        if tier.used > tier.budget and not room.make_room(tier, 0, "", 0.0):
            _log.warning("tier %r holds %d bytes, more than its %d", tier.name, tier.used, tier.budget)


def _in_background(hierarchy: Hierarchy, tier: Tier, state: bytes, deadline: float | None) -> Loading | None:
    """The loading of a tier that need not be waited for.

    Only of the lowest one, and where the tiers above start empty: no copy there tells another generation. And only
    where it keeps its budget as it is: nothing can leave that is not indexed.
    """
    if tier is not hierarchy.tiers[-1] or hierarchy.index or not isinstance(tier.backend, Locating):
        return None
    chunks, nbytes = tier.backend.held()
    if chunks <= loading.FEW or nbytes > tier.budget:
        return None
    return Loading(hierarchy, tier, chunks, nbytes, state, deadline)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collector that walks a growing index again and again takes a third of the time, and finds nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _scan(h: Hierarchy, tier: Tier, same: bool) -> None:
    now = AccessContext(h.clock())  # one for all: the order tells their recency
    for info in tier.backend.scan():
        text = key_text(info.key)
        entry = h.index.get(text)
        tier.used += info.stored_bytes
        if entry is not None and not (same and entry.meta == info.meta):
            tier.garbage[text] = info.stored_bytes
            continue
        if entry is None:
            entry = h.index[text] = Entry(info.meta, h.fit(info.meta.length).unfit, h.nowhere)
        h.grant(tier, text, entry, info.stored_bytes, now)
    tier.peak = tier.used


def save(hierarchy: Hierarchy) -> None:
    """Keep each persistent tier's state. All chunks are down, and nothing moves any more."""
    with hierarchy.lock:
        # A put that the closing overtook may have left bytes behind: then copies of one key may differ.
        clean = not any(tier.garbage or tier.busy for tier in hierarchy.tiers)
    mark = secrets.token_bytes(_MARK) if clean else _OPEN
    for tier in hierarchy.tiers:
        if tier.persistent:
            try:
                with hierarchy.lock:
                    hierarchy.recency.tell()
                    state = tier.policy.state()
            except Exception as error:
                hierarchy.suspend(tier, error)
                state = b""
            _save(tier, mark, state)


def _save(tier: Tier, mark: bytes, state: bytes) -> None:
    try:
        tier.backend.save_state(_MAGIC + mark + state)
    except Exception:
        _log.warning("tier %r could not keep its state", tier.name, exc_info=True)


def _load(tier: Tier) -> tuple[bytes | None, bytes]:
    if not tier.persistent:
        return None, b""
    try:
        saved = tier.backend.load_state()
    except Exception:
        _log.warning("tier %r could not answer its state", tier.name, exc_info=True)
        saved = None
    head = len(_MAGIC)
    if not saved or saved[:head] != _MAGIC or len(saved) < head + _MARK:
        return _OPEN, b""
    return saved[head : head + _MARK], saved[head + _MARK :]
