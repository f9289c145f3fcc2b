"""How a backend is asked for a chunk: lengths checked, on record as being inside it, and in time where wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj, OpaqueKey
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier

T = TypeVar("T")

#: How a chunk is asked of a backend: the backend, the key, the expected metadata → what was read, or None.
Ask = Callable[[LMSBackendInterface, Any, ChunkMeta], "T | None"]


class DamagedChunkError(Exception):
    """A backend answered something else than what it was given; never leaves the store."""


def whole(backend: LMSBackendInterface, key: CacheEngineKey, meta: ChunkMeta) -> LMSMemoryObj | None:
    """The chunk as a memory object, lengths checked."""
    obj = backend.get(key)
    if obj is not None and not obj.length == meta.length == nbytes_of(obj.data):
        raise DamagedChunkError
    return obj


def nbytes_of(data: Any) -> int:
    """Bytes of a chunk's data."""
    nbytes: int = data.nbytes if type(data) is memoryview else memoryview(data).nbytes
    return nbytes


def noted(tier: Tier, ask: Ask[T], key: Any, meta: ChunkMeta) -> T | None:
    """Ask, on record as being inside the backend: if it gets stuck, others are warned off."""
    with tier.inside():
        return ask(tier.backend, key, meta)


def in_time(tier: Tier, ask: Ask[T], key: Any, meta: ChunkMeta, deadline: float) -> T | None:
    """Ask in another thread, and leave it behind when the time is over (`DeadlineExceededError`)."""
    return tier.askers.ask(partial(noted, tier, ask, key, meta), deadline)


def fetch(h: Hierarchy, source: Tier, text: str, entry: Entry) -> LMSMemoryObj | None:
    """The chunk's bytes from a tier that holds them, if they are still the newest generation's."""
    epoch = source.epoch
    error: BaseException | None = None
    obj: LMSMemoryObj | None = None
    try:
        obj = whole(source.backend, OpaqueKey(text), entry.meta)
    except BaseException as caught:
        error = caught.with_traceback(None)  # which keeps this frame
    with h.lock:
        stands = h.stands(source, text, entry, epoch)
        if obj is not None:
            if source.breaker.failures:
                h.worked(source)
            source.bytes_read += entry.meta.length
            return obj if stands else None
        if stands and (error is None or isinstance(error, DamagedChunkError)):
            h.lose(source, text, entry)
        # Another length may be that of a newer chunk which is just being written.
        if stands or not (error is None or isinstance(error, DamagedChunkError)):
            h.failed(source, text, error)
    return None
