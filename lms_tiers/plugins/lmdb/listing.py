"""Listing a store, however large: keys as a stream, and every chunk in the order of use.

What the index does not have yet is copied first; the index itself is read a batch at a time. What changes meanwhile may
or may not be listed; no key is listed twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeAlias, TypeVar

import lmdb
import numpy as np
import numpy.typing as npt

from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey, OpaqueKey
from lms_tiers.plugins.lmdb.calls import calling
from lms_tiers.plugins.lmdb.directory import unavailable
from lms_tiers.plugins.lmdb.layout import HASH_BYTES, STAMP
from lms_tiers.plugins.lmdb.space import charge
from lms_tiers.plugins.lmdb.store import Store

_T = TypeVar("_T")
#: Whether chunks of a layout can be read.
Reads: TypeAlias = Callable[[str], bool]

#: Chunks listed between two looks at the index, and those that are only walked over.
BATCH: int = 128
WALKED: int = 1024

#: Where other calls came in meanwhile a walk sleeps so many seconds after each look: a look goes with the interpreter's
#: lock and the index, and of a call that meets it nothing is left but to wait. See docs/bench/lmdb.md.
_BREATH: Final = 0.01
#: Numbers of calls that a walk takes itself from look to look.
_OWN: Final = 2


def keys(store: Store, reads: Reads) -> Iterator[list[CacheEngineKey]]:
    """Every key whose manifest can be trusted and whose layout can be read, a batch at a time."""
    with store.lock:
        ahead = store.newer()
    for found in store.walk(ahead, BATCH):
        chunks = [store.trusted(value[STAMP.size :]) for _, value in found]
        yield [CacheEngineKey.from_string(chunk.text) for chunk in chunks if chunk is not None and reads(chunk.layout)]


def chunks_by_use(store: Store, reads: Reads) -> Iterator[list[ChunkInfo]]:
    """Every chunk that can be trusted and read, least recently put or used first, a batch at a time.

    24 bytes of each are held for that. Batches are empty until all are known.
    """
    with store.lock:
        ahead = store.newer()
    later = {name: STAMP.pack(stamp) for name, stamp in ahead.stamps.items()}
    names, stamps = bytearray(), bytearray()
    for found in store.walk(ahead, WALKED):
        names += b"".join([name for name, _ in found])
        # A stamp, and the number that a manifest begins with.
        numbers = b"".join([later.get(name, value[:8]) + value[8:16] for name, value in found])
        stamps += np.frombuffer(numbers, "<u8").reshape(-1, 2).max(axis=1).tobytes()
        yield []
    order = np.argsort(np.frombuffer(stamps, "<u8"), kind="stable")
    listed: npt.NDArray[np.uint8] = np.frombuffer(names, np.uint8).reshape(-1, HASH_BYTES)
    for begin in range(0, len(order), BATCH):
        some = [row.tobytes() for row in listed[order[begin : begin + BATCH]]]
        asked = [name for name in some if name not in ahead.records]
        there = store.index.find(asked) if asked else {}
        infos: list[ChunkInfo] = []
        for name in some:
            newest = ahead.records[name] if name in ahead.records else there.get(name, (0, None))[1]
            chunk = None if newest is None else store.trusted(newest)
            if newest is None or chunk is None or not reads(chunk.layout):
                continue  # removed meanwhile, or not to be read
            if store.dirty.get(chunk.text, b"") is None or store.committing.get(chunk.text, b"") is None:
                continue
            # Opaque: parsing the texts of a million keys takes seconds, and whoever scans compares texts.
            infos.append(ChunkInfo(OpaqueKey(chunk.text), chunk.meta, charge(chunk.pages, len(newest))))
        yield infos


class Batches(Generic[_T]):
    """What a listing has, each batch a call of its own: `close` waits for one, not for whoever holds the listing."""

    def __init__(self, store: Store, batches: Iterator[list[_T]]) -> None:
        self._store: Final = store
        self._batches: Final = batches

    def __iter__(self) -> Iterator[_T]:
        numbers = self._store.calls.numbers
        before = next(numbers)
        while (batch := self.next()) is not None:
            yield from batch
            # Whoever gets batches that are empty cannot pace itself.
            if not batch and next(numbers) - before > _OWN:
                time.sleep(_BREATH)
            before = next(numbers)

    @calling
    def next(self) -> list[_T] | None:
        """One more, None at the end.

        Raises
        ------
        StorageUnavailableError
        """
        try:
            return next(self._batches, None)
        except lmdb.Error as error:
            raise unavailable(self._store.where, error, "read failed") from error
