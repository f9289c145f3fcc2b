"""Reading chunks into buffers of the caller's: by a tier itself, where it can, those that it holds by one call.

Metadata is compared with the index before anything is written. Whatever else there is (a tier that only lends bytes, a
chunk that is to rise, a read with a deadline, a tier shared with others) comes as an object that nobody changes, and is
copied once it is known to stand: then a buffer gets all of its chunk or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from lms_tiers.buffers import leading_bytes, scatter_bytes, writable_bytes
from lms_tiers.errors import InvalidBufferError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.beyond import Beyond
from lms_tiers.tiered.paths.reads import DamagedChunkError, Reader
from lms_tiers.tiered.paths.runs import RunReader
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier


class Slot:
    """Where a chunk goes: buffers that are filled one after another, and what is to come there.

    Attributes
    ----------
    fault : InvalidBufferError or None
        Why the buffers cannot take the chunk.
    spoiled : bool
        Whether bytes were written that are not those of a chunk that was answered.
    """

    __slots__ = ("_expected", "_views", "fault", "spoiled")

    def __init__(self, buffers: Sequence[Any], expected: ChunkMeta | None) -> None:
        self._expected: Final = expected
        self._views: list[memoryview] = []
        self.fault: InvalidBufferError | None = None
        self.spoiled = False
        try:
            self._views = [writable_bytes(buffer, 0) for buffer in buffers]
        except InvalidBufferError as error:
            self.fault = error.with_traceback(None)  # which keeps this frame, and the buffers

    def takes(self, meta: ChunkMeta) -> bool:
        """Whether such a chunk may be written here; `fault` is why not, where it is the expected one."""
        if self.fault is not None or (self._expected is not None and self._expected != meta):
            return False
        room = sum(map(len, self._views))
        if room < meta.length:
            self.fault = InvalidBufferError(f"the destinations have {room} bytes, the chunk {meta.length}.")
        return room >= meta.length

    def room(self, length: int) -> list[memoryview]:
        """Buffers of exactly `length` bytes together, which it takes."""
        return leading_bytes(self._views, length)

    def fill(self, obj: LMSMemoryObj) -> None:
        """Copy a chunk that it takes."""
        if obj.length:
            scatter_bytes([memoryview(obj.data).cast("B")], self._views)


class SlotReader:
    """Reads of `reader` and `beyond` into slots."""

    def __init__(self, reader: Reader, runs: RunReader, beyond: Beyond | None) -> None:
        self._r: Final = reader
        self._runs: Final = runs
        self._beyond: Final = beyond
        #: Of the tiers that write into a caller's buffers by themselves.
        self._writes: Final = sum(tier.bit for tier in reader.h.tiers if _writes_itself(tier.backend))

    def read(
        self, keys: Sequence[CacheEngineKey], texts: Sequence[str], contexts: Sequence[AccessContext],
        slots: Sequence[Slot],
    ) -> list[ChunkMeta | None]:  # fmt: skip
        """The metadata of each chunk that its slot holds now, or None."""
        h, beyond = self._r.h, self._beyond
        found: list[ChunkMeta | None] = [None] * len(keys)
        groups: dict[Tier, list[tuple[int, Entry]]] = {}
        rest: list[int] = []
        far: list[int] = []
        for i, text in enumerate(texts):
            entry = h.index.get(text)
            if slots[i].fault is not None:
                continue
            if beyond is not None and beyond.edge.outdated(text):
                far.append(i)
                continue
            if entry is None or not entry.tiers & h.up:
                rest.append(i)
                continue
            if not slots[i].takes(entry.meta):
                continue
            bits = entry.tiers & h.up
            tier = h.tiers[(bits & -bits).bit_length() - 1]
            if tier.bit & self._writes and not self._lifted(tier, entry, contexts[i]):
                groups.setdefault(tier, []).append((i, entry))
            else:
                rest.append(i)
        for tier, group in groups.items():
            rest += self._straight(tier, group, keys, texts, contexts, slots, found)
        if rest:
            rest.sort()
            objs = self._runs.get_many([keys[i] for i in rest], [texts[i] for i in rest], [contexts[i] for i in rest])
            far += self._copied(rest, keys, objs, slots, found)
        if far and beyond is not None:
            far.sort()
            objs = beyond.get([keys[i] for i in far], [texts[i] for i in far], [contexts[i] for i in far])
            self._copied(far, keys, objs, slots, found)
        return found

    def _lifted(self, tier: Tier, entry: Entry, context: AccessContext) -> bool:
        """Whether a chunk below the top is to come as an object: it may rise (see `promoting`), or come too late."""
        if not tier.position:
            return False
        h, top = self._r.h, self._r.h.tiers[0]
        if self._r.deadline is not None:
            return True  # a late backend must not write into a buffer that its caller has got back
        return bool(
            tier.rises and context.promote
            and (entry.tiers & h.again or top.used + entry.meta.length <= top.budget)
        )  # fmt: skip

    def _straight(
        self, tier: Tier, group: list[tuple[int, Entry]], keys: Sequence[CacheEngineKey], texts: Sequence[str],
        contexts: Sequence[AccessContext], slots: Sequence[Slot], found: list[ChunkMeta | None],
    ) -> list[int]:  # fmt: skip
        """Let a tier write a group into its slots; answers those to be read otherwise."""
        h = self._r.h
        if tier.calls:
            with h.lock:
                tier.look()
            if not h.up & tier.bit:
                return [i for i, _ in group]
        epoch = tier.epoch
        metas: Sequence[ChunkMeta | None] = ()
        error: BaseException | None = None
        for i, _ in group:
            slots[i].spoiled = True  # until it is known to hold its chunk
        requests = [(keys[i], slots[i].room(entry.meta.length)) for i, entry in group]
        started = time.perf_counter_ns()
        try:
            with tier.inside_below():
                metas = tier.backend.get_many_into(requests)
            if len(metas) != len(group):
                raise DamagedChunkError
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as caught:
            error = caught.with_traceback(None)  # which keeps this frame, and the slots
        took = time.perf_counter_ns() - started
        again: list[int] = []
        with h.lock:
            tier.read_latency.add(took)
            if error is not None:
                h.failed(tier, texts[group[0][0]], error)
                return [i for i, _ in group]
            if tier.breaker.failures:
                h.worked(tier)
            h.recency.tell()
            for (i, entry), meta in zip(group, metas, strict=True):
                if meta != entry.meta or not h.stands(tier, texts[i], entry, epoch):
                    again.append(i)
                    continue
                tier.bytes_read += entry.meta.length
                h.recency.hit(tier, texts[i], entry, contexts[i])
                slots[i].spoiled = False
                found[i] = meta
        return again

    @staticmethod
    def _copied(
        numbers: Sequence[int], keys: Sequence[CacheEngineKey], objs: Sequence[LMSMemoryObj | None],
        slots: Sequence[Slot], found: list[ChunkMeta | None],
    ) -> list[int]:  # fmt: skip
        """Copy what was read; answers those that were not found."""
        absent: list[int] = []
        for i, obj in zip(numbers, objs, strict=True):
            if obj is None:
                absent.append(i)
                continue
            meta = ChunkMeta.of_obj(keys[i], obj)
            if slots[i].takes(meta):
                slots[i].fill(obj)
                slots[i].spoiled = False
                found[i] = meta
        return absent


def _writes_itself(backend: LMSBackendInterface) -> bool:
    """Whether a backend has a way of its own into a caller's buffers, and not the one by borrowed bytes."""
    kind, base = type(backend), LMSBackendInterface
    return kind.get_many_into is not base.get_many_into or kind.get_scattered is not base.get_scattered
