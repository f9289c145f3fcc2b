"""Reading a run of chunks, as objects or into buffers of the caller's: what one tier holds by one call of its backend.

One look afterwards serves for all. What does not come out plainly (absent, failed, overtaken, being loaded by another)
the reader gets one by one.

Of a chunk that goes into buffers, metadata is compared with the index before anything is written. What no tier writes
there by itself (of a tier that only lends bytes, of a chunk that is to rise, of a read with a deadline, of one shared
with others) comes as an object that nobody changes, and is copied once it is known to stand: then a buffer gets all of
its chunk or nothing.
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
from lms_tiers.tiered.state.index import Entry, Load
from lms_tiers.tiered.state.tier import Tier

_clock_ns = time.perf_counter_ns


class RunReader:
    """The runs of `reader`."""

    def __init__(self, reader: Reader) -> None:
        self._r: Final = reader

    def get_many(
        self, keys: Sequence[CacheEngineKey], texts: Sequence[str], contexts: Sequence[AccessContext]
    ) -> list[LMSMemoryObj | None]:
        """The chunk or None for each key: those that one tier holds are read by one call of its backend."""
        h = self._r.h
        found: list[LMSMemoryObj | None] = [None] * len(keys)
        rest: list[int] = []
        entries = list(map(h.index.get, texts))
        groups = self._groups(entries, rest)
        absent = entries.count(None)
        if absent:
            self._r.miss(absent)
        for bit, group in groups.items():
            tier = h.tiers[bit.bit_length() - 1]
            if len(group) == 1 or tier.calls or (tier.position and self._r.deadline is not None):
                rest += [i for i, _ in group]
            else:
                rest += self._get_group(tier, group, keys, texts, contexts, found)
        for i in sorted(rest):
            found[i] = self._r.get_one(keys[i], texts[i], contexts[i])
        return found

    def _groups(self, entries: list[Entry | None], rest: list[int]) -> dict[int, list[tuple[int, Entry]]]:
        """By the bit of the highest tier that holds them; `rest` gets those that none does which can be asked."""
        up = self._r.h.up
        groups: dict[int, list[tuple[int, Entry]]] = {}
        for i, entry in enumerate(entries):
            if entry is None:
                continue
            mask = entry.tiers & up
            if not mask:
                rest.append(i)
                continue
            bit = mask & -mask
            group = groups.get(bit)
            if group is None:
                group = groups[bit] = []
            group.append((i, entry))
        return groups

    def _get_group(
        self, tier: Tier, group: list[tuple[int, Entry]], keys: Sequence[CacheEngineKey], texts: Sequence[str],
        contexts: Sequence[AccessContext], found: list[LMSMemoryObj | None],
    ) -> list[int]:  # fmt: skip
        """Read a group from one tier; answers those to be read one by one."""
        h = self._r.h
        leading: list[tuple[int, Entry]] = group
        rest: list[int] = []
        mine: list[tuple[str, Load]] = []
        if tier.position:
            leading = []
            for i, entry in group:
                load = Load(entry)
                if tier.loads.setdefault(texts[i], load) is load:
                    leading.append((i, entry))
                    mine.append((texts[i], load))
                else:
                    rest.append(i)
        epoch = tier.epoch
        objs: Sequence[LMSMemoryObj | None] = ()
        started = _clock_ns()
        error: BaseException | None = None
        try:
            asked = keys if len(leading) == len(keys) else [keys[i] for i, _ in leading]
            objs = tier.call(tier.backend.get_many, asked)
            if len(objs) != len(leading):
                raise DamagedChunkError
            took = _clock_ns() - started
            with h.lock:
                tier.read_latency.add(took)
                if tier.failing:
                    tier.worked()
                rest += self._settle(tier, leading, objs, texts, contexts, epoch, found)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as caught:
            error = caught.with_traceback(None)  # which keeps this frame
            rest = [i for i, _ in group if found[i] is None]
        finally:
            for text, load in mine:
                tier.loads.pop(text, None)
                load.finish()
        if error is not None:
            with h.lock:
                tier.failed(texts[group[0][0]], error)
        return rest

    def _settle(
        self, tier: Tier, group: list[tuple[int, Entry]], objs: Sequence[LMSMemoryObj | None], texts: Sequence[str],
        contexts: Sequence[AccessContext], epoch: int, found: list[LMSMemoryObj | None],
    ) -> list[int]:  # fmt: skip
        """Take what was read and still stands; answers the others. The lock is held."""
        h = self._r.h
        index, writing, bit = h.index, tier.writing, tier.bit
        shares, lower, nbytes = self._r.shares, bool(tier.position), 0
        hit = h.recency.hit
        h.recency.tell()
        rest: list[int] = []
        if tier.epoch != epoch:
            return [i for i, _ in group]
        for (i, entry), obj in zip(group, objs, strict=True):
            text, length = texts[i], entry.meta.length
            if (
                obj is not None
                and obj.length == length
                and length == memoryview(obj.data).nbytes
                and text not in writing
                and index.get(text) is entry
                and entry.tiers & bit
            ):
                nbytes += length
                hit(tier, text, entry, contexts[i], obj if lower else None)
                if lower:
                    tier.loads[text].result = obj
                found[i] = self._r.shared(obj) if shares and type(obj.data) is bytearray else obj
            else:
                rest.append(i)
        tier.bytes_read += nbytes
        return rest


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
        started = _clock_ns()
        try:
            metas = tier.call(tier.backend.get_many_into, requests)
            if len(metas) != len(group):
                raise DamagedChunkError
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as caught:
            error = caught.with_traceback(None)  # which keeps this frame, and the slots
        took = _clock_ns() - started
        again: list[int] = []
        with h.lock:
            tier.read_latency.add(took)
            if error is not None:
                tier.failed(texts[group[0][0]], error)
                return [i for i, _ in group]
            if tier.failing:
                tier.worked()
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
