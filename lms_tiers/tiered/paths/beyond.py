"""The way beyond the private tiers: a tier that is shared with others, read here and written by `Sender`.

One round trip for all that the private tiers lack, in time or not at all. What is found is handed to the mover of a
private tier: until it is there, whoever asks for it is answered by the read that found it. A reader that was overtaken
by a put or removal of its own store answers what that one left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from lms_tiers.changes import Deadline
from lms_tiers.errors import DeadlineExceededError, InvalidChunkError, OutcomeUnknownError
from lms_tiers.interface import ChunkInfo
from lms_tiers.messages import CacheEngineKey, ChunkMeta, LMSMemoryObj
from lms_tiers.policies.base import AccessContext
from lms_tiers.tiered.paths.reads import Reader
from lms_tiers.tiered.paths.room import Room
from lms_tiers.tiered.paths.sender import Sender
from lms_tiers.tiered.state.edge import Asked, Edge, Unsent
from lms_tiers.tiered.state.health import Askers, Limits
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import Entry
from lms_tiers.tiered.state.tier import Tier, TierConfig
from lms_tiers.tiered.watch.events import EventReason

T = TypeVar("T")

#: How often a key that this store changes while it is read is looked for anew.
_ROUNDS: Final = 16

#: What was read: the key, its read, the chunk as this store would keep it, its bytes.
_Rising = tuple[str, Asked, Entry, LMSMemoryObj]


class Beyond:
    """The shared tier of `hierarchy`, which knows its edge from here on.

    Parameters
    ----------
    limits : Limits
        When it is left alone.
    """

    def __init__(self, hierarchy: Hierarchy, room: Room, config: TierConfig, limits: Limits) -> None:
        self.edge: Final = Edge(
            config.name, hierarchy.clock, hierarchy.log, limits,
            through=config.write != "back", revalidate=config.revalidate,
        )  # fmt: skip
        hierarchy.edge = self.edge
        self._h: Final = hierarchy
        self.backend: Final = config.backend
        self._deadline: Final = config.deadline
        self._promotes: Final = config.promote != "never"
        self._askers: Final = Askers(f"lms-tiers-ask-{config.name}")
        self.sender: Final = Sender(hierarchy, room, self.edge, config.backend)

    def read_by(self, reader: Reader, offer: Callable[[Tier, str, Entry, LMSMemoryObj], bool]) -> None:
        """Serve what `reader` finds in no private tier; `offer` hands it to the mover of one, if that has room."""
        self._reader = reader
        self._offer = offer

    def lacks(self, text: str) -> bool:
        """Whether the private tiers do not hold `text`, or hold a copy that is to be asked for again. Takes no lock."""
        return text not in self._h.index or self.edge.outdated(text)

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(
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
            self.edge.hits += got
            self.edge.misses += len(found) - got
        return found

    def _round(
        self, asked: Sequence[int], keys: Sequence[CacheEngineKey], texts: Sequence[str],
        contexts: Sequence[AccessContext], found: list[LMSMemoryObj | None],
    ) -> list[int]:  # fmt: skip
        """Look for the `asked` ones once; answers those that this store changed meanwhile, to be looked for anew."""
        h, edge = self._h, self.edge
        here: list[int] = []
        mine: dict[str, tuple[int, Asked]] = {}
        others: list[tuple[int, Asked]] = []
        try:
            with h.lock:
                for i in asked:
                    text = texts[i]
                    if not self.lacks(text):
                        here.append(i)
                    elif edge.hides(text):
                        continue
                    elif (load := edge.reading(text)) is not None:
                        others.append((i, load))
                    else:
                        load = Asked(h.clock())
                        mine[text] = i, load
                        edge.asked[text] = load
                asking = bool(mine) and edge.may_ask()
            if asking:
                self._read([keys[i] for i, _ in mine.values()], mine, contexts, found)
        finally:
            with h.lock:
                for text, (_, load) in mine.items():
                    edge.end(text, load)
        again = [i for i, load in mine.values() if load.void]
        for i, load in others:
            if load.wait(self._deadline, h.lock) and load.result is not None and not load.void:
                found[i] = load.result
            elif load.void:
                again.append(i)
        for i in here:
            found[i] = self._reader.get_one(keys[i], texts[i], contexts[i])
            if found[i] is None:
                again.append(i)
        return again

    def _read(
        self, keys: list[CacheEngineKey], mine: dict[str, tuple[int, Asked]], contexts: Sequence[AccessContext],
        found: list[LMSMemoryObj | None],
    ) -> None:  # fmt: skip
        h, edge, backend = self._h, self.edge, self.backend
        started = time.perf_counter_ns()
        objs: Sequence[LMSMemoryObj | None] | None
        if len(keys) == 1:
            objs = self._ask(lambda: [backend.get(keys[0])])
        else:
            objs = self._ask(lambda: backend.get_many(keys))
        took = time.perf_counter_ns() - started
        if objs is None or len(objs) != len(keys):
            return
        rising: list[_Rising] = []
        for (text, (i, load)), obj in zip(mine.items(), objs, strict=True):
            if obj is not None and self._promotes and contexts[i].promote:
                entry = self._entry(text, obj, contexts[i])
                rising += [(text, load, entry, obj)] if entry is not None else []
        with h.lock:
            edge.lookups += len(keys)
            edge.read_latency.add(took)
            for (text, (i, load)), obj in zip(mine.items(), objs, strict=True):
                if load.void or edge.hides(text):
                    load.void = True
                    continue
                if obj is None and text in h.index:  # a copy that was to be asked for again: it is gone there
                    h.forget(text, EventReason.STALE)
                if obj is None or obj.length != memoryview(obj.data).nbytes:
                    continue
                edge.bytes_read += obj.length
                found[i] = load.result = self._reader.shared(obj)
            for _, load in mine.values():
                load.finish()  # those who wait need not wait for what follows
        self._rise(rising)

    def _ask(self, call: Callable[[], T]) -> T | None:
        """What the backend answers in time; None where it does not, or fails."""
        h, edge = self._h, self.edge
        try:
            block = self.backend.within(self._deadline)
            if block is None:
                answer = self._askers.ask(call, self._deadline)
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
        if edge.failing:
            with h.lock:
                edge.worked()
        edge.round_trips += 1
        return answer

    def _entry(self, text: str, obj: LMSMemoryObj, context: AccessContext) -> Entry | None:
        """A chunk that was read as this store would keep it; None where it says of itself what no metadata can."""
        h = self._h
        try:
            meta = ChunkMeta.of_obj(text, obj)
        except InvalidChunkError:
            return None
        return Entry(meta, h.fit(obj.length).unfit, h.nowhere, context.parent, context.position)

    def _rise(self, rising: Sequence[_Rising]) -> None:
        """Offer what was read to the highest tier that it fits; where too much waits there, wait for it as well."""
        h, edge = self._h, self.edge
        until = time.monotonic() + self._deadline
        while rising:
            left: list[_Rising] = []
            late = time.monotonic() >= until
            with h.lock:
                for text, load, entry, obj in rising:
                    tier = next((t for t in h.tiers if h.up & t.bit and not entry.tiers & t.unfit), None)
                    if tier is None or load.result is None or edge.asked.get(text) is not load:
                        continue
                    if self._offer(tier, text, entry, obj):
                        load.entry = entry
                    elif late:
                        tier.skipped += 1
                    else:
                        left.append((text, load, entry, obj))
                change = h.change()
            rising = left
            if rising:
                h.wait(change, max(0.0, until - time.monotonic()))

    # -- which there are ---------------------------------------------------------------------------------------------

    def contains(self, keys: Sequence[CacheEngineKey], texts: Sequence[str]) -> list[bool]:
        """Which keys the tier holds and this store may read there, by one call; False where it cannot be asked."""
        h, edge, backend = self._h, self.edge, self.backend
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
                    held[i] = not self.lacks(texts[i])
                    load = edge.reading(texts[i])
                    if load is not None and not held[i]:
                        reads.append((i, load))
        for i, load in reads:
            if load.wait(self._deadline, h.lock):
                held[i] = not self.lacks(texts[i]) if load.void else load.result is not None
        return held

    def _unhidden(self, asked: Iterable[int], texts: Sequence[str], held: list[bool]) -> list[int]:
        """Those that may be read there. The index tells of the others: one may be put by now. The lock is held."""
        rest = []
        for i in asked:
            if self.edge.hides(texts[i]):
                held[i] = texts[i] in self._h.index
            else:
                rest.append(i)
        return rest

    def listed(self) -> Iterator[CacheEngineKey]:
        """What the tier lists, but for what this store may not read there."""
        return (key for key in self.backend.list_keys() if not self.edge.hides(key.to_string()))

    def scan(self) -> Iterator[ChunkInfo]:
        """As `listed`, with metadata."""
        return (info for info in self.backend.scan() if not self.edge.hides(info.key.to_string()))

    # -- writing -----------------------------------------------------------------------------------------------------

    def store(self, text: str, entry: Entry, data: Any) -> None:
        """Store a chunk that no private tier takes; see `Sender.store`."""
        self.sender.store(text, entry, data, self._deadline)

    def remove(self, changes: Sequence[tuple[str, Unsent | None]]) -> None:
        """Return when it has forgotten the keys of `changes`, or they were put anew.

        Raises
        ------
        OutcomeUnknownError
            Not in time. This store has forgotten them for good, and goes on trying.
        """
        removals = [(text, change) for text, change in changes if change is not None]
        if not self.sender.wait(removals, Deadline("remove", self._deadline), lambda: not self.edge.up):
            raise OutcomeUnknownError(
                self.edge.name, "remove", "it did not answer; what is forgotten here is removed there when it does."
            )

    def flush(self, deadline: Deadline) -> None:
        """Return when it has all that was put and removed before, as firmly as it promises."""
        self.sender.flush(deadline)
        self.backend.flush(deadline.left())

    def close(self, until: float) -> bool:
        """End the threads; False where one does not come back from the backend."""
        with self._h.lock:
            self.sender.stop()
        ended = self.sender.join(max(0.0, until - time.monotonic()))
        return self._askers.close(max(0.0, until - time.monotonic())) and ended
