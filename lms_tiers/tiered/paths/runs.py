"""Reading a run of chunks: those that one tier holds by one call of its backend, one look afterwards for all.

What does not come out plainly (absent, failed, overtaken, being loaded by another) the reader gets one by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from lms_tiers.messages import CacheEngineKey, LMSMemoryObj
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.reads import DamagedChunkError, Reader, nbytes_of
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
        thread = threading.get_ident() if tier.position else 0
        if thread:
            tier.calls[thread] = time.monotonic()
        objs: Sequence[LMSMemoryObj | None] = ()
        started = _clock_ns()
        error: BaseException | None = None
        try:
            try:
                objs = tier.backend.get_many(keys if len(leading) == len(keys) else [keys[i] for i, _ in leading])
                if len(objs) != len(leading):
                    raise DamagedChunkError
            finally:
                if thread:
                    tier.calls.pop(thread, None)
            took = _clock_ns() - started
            with h.lock:
                tier.read_latency.add(took)
                if tier.breaker.failures:
                    h.worked(tier)
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
                h.failed(tier, texts[group[0][0]], error)
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
                and length == nbytes_of(obj.data)
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
