"""Mutants that answer questions of presence, or batches, wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import List

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import Capabilities, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, ClientMetaMessage, LMSMemoryObj, OpaqueKey

Item = tuple[ClientMetaMessage, bytearray]


@mutant("contains-no-empty-chunks", "CNT-01")
class ContainsNoEmpty(Wrapper):
    """Answers contains by the truth of the bytes."""

    def contains(self, key: CacheEngineKey) -> bool:
        """Unless empty."""
        obj = self.inner.get(key)
        return obj is not None and obj.length > 0


@mutant("contains-what-was-removed", "CNT-02")
class ContainsRemoved(Wrapper):
    """Answers contains from a filter that never forgets."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._filter: set[str] = set()

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And into the filter."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._filter.add(text_of(client_meta.key))

    def contains(self, key: CacheEngineKey) -> bool:
        """Ever."""
        return self.inner.contains(key) or text_of(key) in self._filter


@mutant("creates-what-is-asked-for", "CNT-03")
class CreatesAsked(Wrapper):
    """Makes an entry for each key that is asked for, and lists it."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._asked: dict[str, None] = {}

    def contains(self, key: CacheEngineKey) -> bool:
        """And make an entry."""
        found = self.inner.contains(key)
        self._asked[text_of(key)] = None
        return found

    def list_keys(self) -> List[CacheEngineKey]:
        """With what was asked for."""
        held = self.inner.list_keys()
        texts = {k.to_string() for k in held}
        return [*held, *(OpaqueKey(t) for t in self._asked if t not in texts)]


@mutant("counts-past-gaps", "CNT-04")
class CountsPastGaps(Wrapper):
    """Counts every key that is present, gaps or not."""

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """All that are present."""
        return sum(self.inner.contains(key) for key in keys)


@mutant("counts-a-set", "CNT-05")
class CountsSet(Wrapper):
    """Counts a key that is named twice once."""

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """Of distinct keys."""
        return self.inner.contains_prefix([OpaqueKey(t) for t in dict.fromkeys(text_of(k) for k in keys)])


@mutant("drops-the-last-of-a-batch", "BAT-01")
class DropsLast(Wrapper):
    """Drops the last item of put_many."""

    def put_many(self, items: Sequence[Item]) -> None:
        """All but the last."""
        self.inner.put_many(items[:-1])


@mutant("skips-misses-in-a-batch", "BAT-02")
class SkipsMisses(Wrapper):
    """Leaves absent keys out of get_many's answer."""

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """Hits only."""
        return [obj for obj in self.inner.get_many(keys) if obj is not None]


@mutant("goes-on-after-a-failure", "BAT-03")
class GoesOn(Wrapper):
    """Stores the items after the one that failed, and raises at the end."""

    def put_many(self, items: Sequence[Item]) -> None:
        """Every one that can be."""
        failed: LmsTiersError | None = None
        for message, data in items:
            try:
                self.inner.put(message, data)
            except LmsTiersError as error:
                failed = failed or error
        if failed is not None:
            raise failed


@mutant("chokes-on-an-empty-batch", "BAT-04")
class ChokesOnEmpty(Wrapper):
    """Looks at the first item of a batch without asking whether there is one."""

    def put_many(self, items: Sequence[Item]) -> None:
        """From the first on."""
        items[0]
        self.inner.put_many(items)


@mutant("batches-read-old-batches", "BAT-05")
class OldBatches(Wrapper):
    """Answers get_many from what put_many last stored, whatever was put since."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._batched: dict[str, LMSMemoryObj | None] = {}

    def put_many(self, items: Sequence[Item]) -> None:
        """And note it."""
        self.inner.put_many(items)
        for message, _ in items:
            self._batched[text_of(message.key)] = self.inner.get(message.key)

    def get_many(self, keys: Sequence[CacheEngineKey]) -> list[LMSMemoryObj | None]:
        """From the notes."""
        return [self._batched.get(text_of(k)) or self.inner.get(k) for k in keys]


@mutant("batches-hold-128", "BAT-06")
class BatchesHold128(Wrapper):
    """Stores the first 128 items of a batch."""

    def put_many(self, items: Sequence[Item]) -> None:
        """The first ones."""
        self.inner.put_many(items[:128])


@mutant("answers-for-the-leading-run", "CNT-06")
class AnswersLeadingRun(Wrapper):
    """Answers contains_many from the length of the leading run."""

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """False after the first gap."""
        run = self.inner.contains_prefix(keys)
        return [i < run for i in range(len(keys))]


@mutant("loses-what-came-before-the-failure", "BAT-07")
class LosesBefore(Wrapper):
    """Has every item of a batch on its way at one time, and gives the first one up where another failed."""

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # the wrapped backend's, but for one
        """Nothing is promised of what comes after a failure."""
        return replace(self.inner.capabilities, batch_stops=False)

    def put_many(self, items: Sequence[Item]) -> None:
        """All but the first, where one fails."""
        for item in (*items[1:], *items[:1]):
            self.inner.put(*item)
