"""Mutants that answer reads wrongly: misses, metadata, the caller's buffer, one buffer for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, List, Optional

from lms_conformance.zoo.broken_values import Described
from lms_conformance.zoo.mutant import Wrapper, mutant, text_of, with_data
from lms_tiers.errors import InvalidBufferError
from lms_tiers.interface import ChunkView, LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    LMSMemoryObj,
)


@mutant("raises-on-a-miss", "GET-01")
class RaisesOnMiss(Wrapper):
    """Raises KeyError for an absent key."""

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Or raise."""
        obj = self.inner.get(key)
        if obj is None:
            raise KeyError(text_of(key))
        return obj


@mutant("reads-once", "GET-02")
class ReadsOnce(Wrapper):
    """Forgets a chunk when it is read for the third time, as a queue would."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._reads: dict[str, int] = {}

    def get(self, key: CacheEngineKey) -> Optional[LMSMemoryObj]:
        """Thrice."""
        reads = self._reads[text_of(key)] = self._reads.get(text_of(key), 0) + 1
        return self.inner.get(key) if reads <= 3 else None


@mutant("answers-tuples", "GET-03")
class AnswersTuples(Described):
    """Answers a plain tuple for the shape."""

    def describe(self, obj: LMSMemoryObj) -> LMSMemoryObj:
        """With a tuple."""
        return dataclasses.replace(obj, shape=tuple(obj.shape))  # type: ignore[arg-type]  # the bug


@mutant("fills-the-buffer", "GET-04")
class FillsBuffer(Wrapper):
    """Writes zeros behind the chunk in the caller's buffer."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """And zeros."""
        meta = self.inner.get_into(key, buffer)
        if meta is not None:
            view = memoryview(buffer).cast("B")
            view[meta.length :] = bytes(view.nbytes - meta.length)
        return meta


@mutant("fills-before-it-checks", "GET-05")
class FillsFirst(Wrapper):
    """Writes what fits into a buffer that is too small, then raises."""

    def get_into(self, key: CacheEngineKey, buffer: Any) -> ChunkMeta | None:
        """What fits."""
        try:
            return self.inner.get_into(key, buffer)
        except InvalidBufferError:
            obj = self.inner.get(key)
            if obj is not None and isinstance(buffer, bytearray):
                buffer[:] = memoryview(obj.data)[: len(buffer)]
            raise


@mutant("views-parts-in-disorder", "GET-06")
class ViewsInDisorder(Wrapper):
    """Lends the parts of a larger chunk in the wrong order."""

    @contextmanager
    def view(self, key: CacheEngineKey) -> Iterator[ChunkView | None]:
        """The last part first."""
        with self.inner.view(key) as view:
            if view is None or view.meta.length < 1000:
                yield view
            else:
                data = memoryview(b"".join(bytes(b) for b in view.buffers))
                yield ChunkView(view.meta, (data[500:], data[:500]))


class Pooled(Described):
    """Answers from a ring of buffers that are used again."""

    buffers = 1

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._ring = [bytearray(1 << 20) for _ in range(self.buffers)]

    def describe(self, obj: LMSMemoryObj) -> LMSMemoryObj:
        """In the ring's next buffer."""
        if obj.length > len(self._ring[0]):
            return obj
        buffer = self._ring.pop(0)
        self._ring.append(buffer)
        view = memoryview(buffer)[: obj.length]
        view[:] = memoryview(obj.data)
        return with_data(obj, view.toreadonly())


@mutant("answers-from-one-buffer", "GET-07")
class OneBuffer(Pooled):
    """Answers every get from one and the same buffer."""


@mutant("answers-from-a-ring", "ALI-05")
class Ring(Pooled):
    """Answers gets from a ring of three buffers."""

    buffers = 3


@mutant("lists-a-tuple", "LST-01")
class ListsTuple(Wrapper):
    """Answers a tuple from list_keys."""

    def list_keys(self) -> List[CacheEngineKey]:
        """As a tuple."""
        found: Any = tuple(self.inner.list_keys())
        return found  # type: ignore[no-any-return]
