"""The pages of one host pool in the store: looked up, loaded into the pool, saved out of it. Calls wait for the store.

A page that is loaded has its expected length and metadata, and its checksum is right where the medium keeps one;
anything else is absent. Whatever a store or a pool raises is a page that is not there, or not stored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from lms_tiers.buffers import scatter_bytes
from lms_tiers.doors.lent import Lent
from lms_tiers.doors.sglang.identity import chunk_meta, namespace
from lms_tiers.doors.sglang.options import DoorOptions
from lms_tiers.doors.sglang.pages import Pages
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.keys import OpaqueKey
from lms_tiers.messages import ChunkMeta
from lms_tiers.namespaced import Namespaced
from lms_tiers.request import RequestContext
from lms_tiers.tiered.store import TieredStore

_log = logging.getLogger(__name__)

#: Bytes of copies of pages at one time, and pages of one window.
_COPIES: Final = 8 << 20
_WINDOW: Final = 128
#: Keys that are removed together.
_TOGETHER: Final = 256

Buffers = Sequence[memoryview]


class PoolStore:
    """One pool's pages.

    Parameters
    ----------
    backend : LMSBackendInterface
        Of all pools; not closed by this.
    config : HiCacheStorageConfig
    pool : HostKVCache
    name : str
        The pool's.
    dtype : str
        Of the elements, where the pool's own is bytes.
    """

    def __init__(
        self, backend: LMSBackendInterface, config: Any, pool: Any, name: str, options: DoorOptions, dtype: str
    ) -> None:
        self.pool: Final = pool
        self.pages: Final = Pages(pool)
        self.namespace: Final = namespace(
            config, pool, self.pages, name, revision=options.revision, dtype=dtype,
            free=options.namespace,
        )  # fmt: skip
        self._store: Final = Namespaced(backend, self.namespace, owns=False)
        self._meta: Final = chunk_meta(pool, self.pages.nbytes)
        self._promote: Final = options.promote
        self._contexts: Final = isinstance(backend, TieredStore)
        kind, base = type(backend), LMSBackendInterface
        #: Whether the store fills many buffers by one call; else its chunks are got by one call, and copied.
        self._fills: Final = kind.get_many_into is not base.get_many_into
        self._mine: Final = threading.local()

    # -- keys --------------------------------------------------------------------------------------------------------

    def held(self, keys: Sequence[str]) -> list[bool]:
        """Which keys the store holds."""
        return self._store.contains_many([OpaqueKey(key) for key in keys])

    def leading(self, keys: Sequence[str]) -> int:
        """How many of the leading keys it holds."""
        return self._store.contains_prefix([OpaqueKey(key) for key in keys], **self._context(None))

    def clear(self) -> int:
        """Remove every page of this pool, of this model and topology; answers how many."""
        keys = self._store.list_keys()
        for begin in range(0, len(keys), _TOGETHER):
            self._store.remove_many(keys[begin : begin + _TOGETHER])
        return len(keys)

    # -- pages of the pool -------------------------------------------------------------------------------------------

    def load(self, keys: Sequence[str], indices: Any, position: int | None) -> list[bool]:
        """Load pages to where `indices` say; which of them are there now, whole."""
        if self.pages.straight:
            return self._read(keys, self.pages.spans(indices), position)
        found: list[bool] = []
        firsts = self.pages.first(indices)
        for begin, end in self._windows(len(keys)):
            copies = self._scratch(end - begin)
            window = self._read(
                keys[begin:end], [[view] for _, view in copies], None if position is None else position + begin
            )
            for index, (page, _), there in zip(firsts[begin:end], copies, window, strict=True):
                if there:
                    self.pages.copy_in(index, page)
            found += window
        return found

    def save(self, keys: Sequence[str], indices: Any, position: int | None) -> list[bool]:
        """Store pages that are not held yet; which of all of them are."""
        held = self.held(keys)
        if all(held):
            return held
        spans = self.pages.spans(indices) if self.pages.straight else None
        firsts = self.pages.first(indices)
        for begin, end in self._windows(len(keys)) if spans is None else [(0, len(keys))]:
            lent: dict[str, tuple[ChunkMeta, Buffers]] = {}
            copies = [] if spans else self._scratch(end - begin)
            for i in range(begin, end):
                if not held[i]:
                    lent[keys[i]] = (
                        self._meta,
                        spans[i] if spans else [self.pages.copy_out(firsts[i], copies[i - begin])],
                    )
            stored = self._write(lent, position)
            held[begin:end] = [held[i] or keys[i] in stored for i in range(begin, end)]
        return held

    def _windows(self, count: int) -> Iterable[tuple[int, int]]:
        step = min(_WINDOW, max(1, _COPIES // max(1, self.pages.nbytes)))
        return ((begin, min(count, begin + step)) for begin in range(0, count, step))

    def _scratch(self, count: int) -> list[tuple[Any, memoryview]]:
        """Copies of this thread, used again."""
        copies: list[tuple[Any, memoryview]] = self._mine.__dict__.setdefault("copies", [])
        while len(copies) < count:
            copies.append(self.pages.scratch())
        return copies[:count]

    # -- single pages in the caller's memory -------------------------------------------------------------------------

    def read(self, keys: Sequence[str], targets: Sequence[Buffers]) -> list[bool]:
        """Read pages into buffers of the caller's, which have the length of a page."""
        return self._read(keys, targets, None)

    def write(self, keys: Sequence[str], sources: Iterator[memoryview]) -> list[bool]:
        """Store flat pages of the caller's that are not held yet."""
        held = self.held(keys)
        for begin, end in self._windows(len(keys)):
            lent: dict[str, tuple[ChunkMeta, Buffers]] = {}
            for i in range(begin, end):
                source = next(sources)
                if not held[i] and len(source) == self.pages.nbytes:
                    lent[keys[i]] = self._meta, [source]
            stored = self._write(lent, None)
            held[begin:end] = [held[i] or keys[i] in stored for i in range(begin, end)]
        return held

    # -- the store ---------------------------------------------------------------------------------------------------

    def _context(self, position: int | None) -> dict[str, Any]:
        if not self._contexts:
            return {}
        return {"context": RequestContext(position=position, promote=self._promote)}

    def _read(self, keys: Sequence[str], targets: Sequence[Buffers], position: int | None) -> list[bool]:
        named = [OpaqueKey(key) for key in keys]
        if self._fills:
            found = self._store.get_many_into(
                zip(named, targets, strict=True), expected=[self._meta] * len(keys), **self._context(position)
            )
            return [meta is not None for meta in found]
        there: list[bool] = []
        for key, obj, buffers in zip(named, self._store.get_many(named), targets, strict=True):
            right = obj is not None and ChunkMeta.of_obj(key, obj).within(None) == self._meta
            if obj is not None and right and obj.length:
                scatter_bytes([memoryview(obj.data).cast("B")], list(buffers))
            there.append(right)
        return there

    def _write(self, lent: dict[str, tuple[ChunkMeta, Buffers]], position: int | None) -> set[str]:
        """Store what is lent; the keys of what is stored now."""
        if not lent:
            return set()
        messages = [self._meta.message(OpaqueKey(key)) for key in lent]
        try:
            answers = self._store.put_from(messages, Lent(lent), **self._context(position))
        except LmsTiersError as error:
            _log.warning("storing %d pages failed: %s", len(lent), error)
            answers = self._store.contains_many([message.key for message in messages])
        return {key for key, stored in zip(lent, answers, strict=True) if stored}
