"""Reading a tier that is shared with others: one round trip for all that the private tiers lack, in time or not at all.

What is found there rises into the private tiers at once, in the reader's thread: its round trip was dearer. A reader
that was overtaken by a put or removal of its own store answers what that one left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import get_ident
from typing import Final, NamedTuple, TypeVar

from lms_tiers.errors import DeadlineExceededError, InvalidChunkError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.asking import nbytes_of
from lms_tiers.tiered.paths.reads import Reader
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.state.askers import Askers
from lms_tiers.tiered.state.edge import Asked, Edge
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier, stored_bytes
from lms_tiers.tiered.watch.events import EventKind, EventReason

T = TypeVar("T")

#: How often a key that this store changes while it is read is looked for anew.
_ROUNDS: Final = 16


class _Rising(NamedTuple):
    """A chunk that was read, on its way into a private tier."""

    text: str
    obj: LMSMemoryObj
    load: Asked
    entry: Entry
    need: int
    context: AccessContext


class Shared:
    """Reads `backend`, the shared tier of `edge`.

    Parameters
    ----------
    deadline : float
        Seconds a call may take before its caller goes on without it.
    promotes : bool
        Whether what is found rises into the private tiers.
    """

    def __init__(
        self, hierarchy: Hierarchy, room: Room, reader: Reader, edge: Edge, backend: LMSBackendInterface,
        deadline: float, promotes: bool = True,
    ) -> None:  # fmt: skip
        self._h: Final = hierarchy
        self._room: Final = room
        self._reader: Final = reader
        self._edge: Final = edge
        self.backend: Final = backend
        self._deadline: Final = deadline
        self._promotes: Final = promotes
        self.askers: Final = Askers(f"lms-tiers-ask-{edge.name}")

    # -- reading -----------------------------------------------------------------------------------------------------

    def fetch(
        self, keys: Sequence[CacheEngineKey], texts: Sequence[str], contexts: Sequence[AccessContext]
    ) -> list[LMSMemoryObj | None]:
        """The chunk or None for each key that no private tier had, by one call of the backend."""
        found: list[LMSMemoryObj | None] = [None] * len(keys)
        left = list(range(len(keys)))
        for _ in range(_ROUNDS):
            left = self._round(left, keys, texts, contexts, found)
            if not left:
                break
        with self._h.lock:
            got = sum(obj is not None for obj in found)
            self._edge.hits += got
            self._edge.misses += len(found) - got
        return found

    def _round(
        self, asked: Sequence[int], keys: Sequence[CacheEngineKey], texts: Sequence[str],
        contexts: Sequence[AccessContext], found: list[LMSMemoryObj | None],
    ) -> list[int]:  # fmt: skip
        """Look for the `asked` ones once; answers those that this store changed meanwhile, to be looked for anew."""
        mine: dict[str, tuple[int, Asked]] = {}
        try:
            here, others, asking = self._begin(asked, texts, mine)
            if asking:
                self._read([keys[i] for i, _ in mine.values()], mine, contexts, found)
        finally:
            for text, (_, load) in mine.items():
                if self._edge.asked.get(text) is load:
                    del self._edge.asked[text]
                load.finish()
        again = [i for i, load in mine.values() if load.void]
        for i, load in others:
            if load.wait(self._deadline, self._h.lock) and load.result is not None and not load.void:
                found[i] = load.result
            elif load.void:
                again.append(i)
        for i in here:
            found[i] = self._reader.get_one(keys[i], texts[i], contexts[i])
            if found[i] is None:
                again.append(i)
        return again

    def _begin(
        self, asked: Sequence[int], texts: Sequence[str], mine: dict[str, tuple[int, Asked]]
    ) -> tuple[list[int], list[tuple[int, Asked]], bool]:
        """Which keys the private tiers have by now, which others ask for, and whether to ask for `mine`."""
        h, edge = self._h, self._edge
        here: list[int] = []
        others: list[tuple[int, Asked]] = []
        with h.lock:
            for i in asked:
                text = texts[i]
                if text in h.index and not edge.outdated(text):
                    here.append(i)
                elif edge.hides(text):
                    continue
                else:
                    load = Asked()
                    leader = edge.asked.get(text)
                    if leader is not None:
                        others.append((i, leader))
                    else:
                        mine[text] = i, load
                        edge.asked[text] = load
            asking = bool(mine) and edge.may_ask()
        return here, others, asking

    def _read(
        self, keys: list[CacheEngineKey], mine: dict[str, tuple[int, Asked]], contexts: Sequence[AccessContext],
        found: list[LMSMemoryObj | None],
    ) -> None:  # fmt: skip
        h, edge, backend = self._h, self._edge, self.backend
        started = time.perf_counter_ns()
        objs: Sequence[LMSMemoryObj | None] | None
        if len(keys) == 1:
            objs = self._ask(lambda: [backend.get(keys[0])])
        else:
            objs = self._ask(lambda: backend.get_many(keys))
        took = time.perf_counter_ns() - started
        rising: list[_Rising] = []
        if objs is None or len(objs) != len(keys):
            return
        with h.lock:
            edge.lookups += len(keys)
            edge.read_latency.add(took)
            for (text, (i, load)), obj in zip(mine.items(), objs, strict=True):
                if load.void or edge.hides(text):
                    load.void = True
                    continue
                if obj is None and text in h.index:  # a copy that was to be asked for again: it is gone there
                    h.forget(text, EventReason.STALE)
                if obj is None or obj.length != nbytes_of(obj.data):
                    continue
                edge.bytes_read += obj.length
                found[i] = load.result = self._reader.shared(obj)
                if self._promotes and contexts[i].promote and (entry := self._entry(text, obj, contexts[i])):
                    rising.append(_Rising(text, obj, load, entry, 0, contexts[i]))
        for _, (_, load) in mine.items():
            load.finish()  # those who wait need not wait for what follows
        if rising:
            self._rise(rising)

    def _ask(self, call: Callable[[], T]) -> T | None:
        """What the backend answers in time; None where it does not, or fails."""
        h, edge = self._h, self._edge
        try:
            block = self.backend.within(self._deadline)
            if block is None:
                answer = self.askers.ask(call, self._deadline)
            else:
                with block:
                    answer = call()
        except DeadlineExceededError:
            with h.lock:
                edge.round_trips += 1
                edge.hung()
            return None
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            with h.lock:
                edge.round_trips += 1
                edge.failed("", error)
            return None
        if edge.breaker.failures:
            with h.lock:
                edge.worked()
        edge.round_trips += 1
        return answer

    def contains(self, keys: Sequence[CacheEngineKey], texts: Sequence[str]) -> list[bool]:
        """Which keys the tier holds and this store may read there, by one call; False where it cannot be asked."""
        h, edge, backend = self._h, self._edge, self.backend
        held = [False] * len(texts)
        with h.lock:
            asked = self._unhidden(range(len(texts)), texts, held)
            if not asked or not edge.may_ask():
                return held
            edge.lookups += len(asked)
        wanted = [keys[i] for i in asked]
        answers = self._ask(lambda: backend.contains_many(wanted) if len(wanted) > 1 else [backend.contains(wanted[0])])
        if answers is not None and len(answers) == len(asked):
            for i, answer in zip(asked, answers, strict=True):
                held[i] = bool(answer)
        reads: list[tuple[int, Asked]] = []
        with h.lock:
            for i in self._unhidden(asked, texts, held):
                if not held[i]:
                    # What the engine has let go of may be on its way up: a read had found it.
                    held[i] = self._risen(texts[i])
                    load = edge.asked.get(texts[i])
                    if load is not None and not held[i]:
                        reads.append((i, load))
        for i, load in reads:
            if load.wait(self._deadline, h.lock):
                held[i] = self._risen(texts[i]) if load.void else load.result is not None
        return held

    def _risen(self, text: str) -> bool:
        """Whether the private tiers hold a copy that need not be asked for again."""
        return text in self._h.index and not self._edge.outdated(text)

    def _unhidden(self, asked: Iterable[int], texts: Sequence[str], held: list[bool]) -> list[int]:
        """Those that may be read there. The index tells of the others: one may be put by now. The lock is held."""
        rest = []
        for i in asked:
            if self._edge.hides(texts[i]):
                held[i] = texts[i] in self._h.index
            else:
                rest.append(i)
        return rest

    # -- upwards -----------------------------------------------------------------------------------------------------

    def _entry(self, text: str, obj: LMSMemoryObj, context: AccessContext) -> Entry | None:
        """A chunk that was read as this store would keep it; None where it says of itself what no metadata can."""
        h = self._h
        try:
            meta = ChunkMeta.of_obj(text, obj)
        except InvalidChunkError:
            return None
        return Entry(meta, h.fit(obj.length).unfit, h.nowhere, context.parent, context.position)

    def _rise(self, rising: list[_Rising]) -> None:
        """Copy what was read into the highest private tier that takes it, where that is possible at once."""
        h = self._h
        by_tier: dict[int, list[_Rising]] = {}
        for it in rising:
            needs = h.fit(it.obj.length).needs
            for tier in h.tiers:
                need = needs[tier.position]
                if need is not None and h.up & tier.bit:
                    by_tier.setdefault(tier.position, []).append(
                        _Rising(it.text, it.obj, it.load, it.entry, need, it.context)
                    )
                    break
        for position, run in by_tier.items():
            tier = h.tiers[position]
            for batch in _batches(run, tier.budget // 8):
                self._into(tier, batch)

    def _wanted(self, tier: Tier, it: _Rising) -> bool:
        """Whether a chunk is still what the shared tier holds, and may be written to `tier`. The lock is held."""
        h, edge = self._h, self._edge
        if it.load.void or edge.hides(it.text) or h.closing:
            return False
        old = h.index.get(it.text)
        return old is None or (edge.revalidate is not None and old is not it.entry)

    def _into(self, tier: Tier, run: list[_Rising]) -> None:
        h, room = self._h, self._room
        with h.lock:
            run = [
                it for it in run
                if self._wanted(tier, it) and it.text not in tier.busy and h.admits(tier, it.text, it.need, it.context)
            ]  # fmt: skip
            if not run:
                return
            total = sum(it.need for it in run)
            leaving = room.take(tier, total)
        if leaving is not None and not room.make_room(tier, total, "", 0.0, leaving, force=False, moving=True):
            tier.skipped += len(run)
            return
        with h.lock:
            ready = []
            for it in run:
                if self._wanted(tier, it) and h.acquire(tier, it.text, it.need, it.entry):
                    ready.append(it)
                else:
                    room.give_back(tier, it.need)
        if ready:
            self._write(tier, ready)

    def _write(self, tier: Tier, ready: list[_Rising]) -> None:
        h = self._h
        error: BaseException | None = None
        charges: list[int] = []
        items = [(it.entry.meta.message(CacheEngineKey.from_string(it.text)), it.obj.data) for it in ready]
        try:
            with tier.inside_below():
                tier.begun.add(get_ident())
                if len(items) == 1:
                    tier.backend.put(*items[0])
                else:
                    tier.backend.put_many(items)
                charges = [stored_bytes(tier, meta.key, it.need) for (meta, _), it in zip(items, ready, strict=True)]
        except (KeyboardInterrupt, SystemExit):
            raise  # nobody knows where it came from: see audit.py
        except BaseException as caught:
            error = caught
        with h.lock:
            if error is not None:
                h.failed(tier, ready[0].text, error)
            for it, charge in zip(ready, charges or [0] * len(ready), strict=True):
                if error is not None:
                    h.doubt(tier, it.text, it.need)
                else:
                    self._arrived(tier, it, charge)
                h.release(tier, it.text)

    def _arrived(self, tier: Tier, it: _Rising, charge: int) -> None:
        """A chunk was written: publish it, unless this store has changed it meanwhile. The lock is held."""
        h = self._h
        tier.settle(it.need, charge)
        tier.bytes_written += it.obj.length
        if not self._wanted(tier, it):
            old = h.index.get(it.text)
            if old is None or not old.tiers & tier.bit:
                tier.used -= tier.garbage.pop(it.text, 0)  # overwritten
                tier.garbage[it.text] = charge
            return
        h.adopt(tier, it.text, it.entry, charge, it.context)
        self._edge.confirm(it.text, h.index)
        tier.promoted += 1
        if h.log.on:
            h.log.add(EventKind.PROMOTED, EventReason.REQUEST, tier.name, it.text, charge)

    # -- everything --------------------------------------------------------------------------------------------------

    def listed(self) -> Iterator[CacheEngineKey]:
        """What the tier lists, but for what this store may not read there."""
        for key in self.backend.list_keys():
            if not self._edge.hides(key.to_string()):
                yield key


def _batches(run: list[_Rising], most: int) -> Iterator[list[_Rising]]:
    """Runs of at most `most` bytes, or of one chunk."""
    batch: list[_Rising] = []
    nbytes = 0
    for it in run:
        if batch and nbytes + it.need > most:
            yield batch
            batch, nbytes = [], 0
        batch.append(it)
        nbytes += it.need
    if batch:
        yield batch
