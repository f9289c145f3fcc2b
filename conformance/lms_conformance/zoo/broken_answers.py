"""Mutants that answer questions about what is stored wrong, or declare what is not so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lms_conformance.zoo.mutant import Wrapper, mutant, text_of
from lms_tiers.buffers import own_bytes
from lms_tiers.errors import LmsTiersError
from lms_tiers.interface import BackendStats, Capabilities, ChunkInfo, LMSBackendInterface
from lms_tiers.messages import (
    CacheEngineKey,
    ChunkMeta,
    ClientMetaMessage,
    MemoryFormat,
)

Item = tuple[ClientMetaMessage, bytearray]
EMPTY = ChunkMeta(0, MemoryFormat.BINARY, None, ())


# -- asking ----------------------------------------------------------------------------------------------------------


@mutant("answers-numbers-for-truths", "OPT-02")
class AnswersNumbers(Wrapper):
    """Answers contains_many with ones and noughts."""

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """As the medium tells it."""
        return [int(found) for found in self.inner.contains_many(keys)]  # type: ignore[misc]


@mutant("scans-what-batches-overwrote-twice", "OPT-02")
class ScansTwice(Wrapper):
    """Scans a chunk once more for each batch that overwrote it."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._twice: set[str] = set()

    def put_many(self, items: Sequence[Item]) -> None:
        """And note what it overwrote."""
        held = [text_of(m.key) for m, _ in items if text_of(m.key) and self.inner.contains(m.key)]
        self.inner.put_many(items)
        self._twice.update(held)

    def scan(self) -> Iterator[ChunkInfo]:
        """With the copies."""
        for info in self.inner.scan():
            yield info
            if info.key.to_string() in self._twice:
                yield info


@mutant("counts-what-a-batch-overwrites", "OPT-02")
class CountsOverwritten(Wrapper):
    """Counts each item of a batch as a key more."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._more = 0

    def put_many(self, items: Sequence[Item]) -> None:
        """And count it."""
        held = sum(bool(text_of(m.key)) and self.inner.contains(m.key) for m, _ in items)
        self.inner.put_many(items)
        self._more += held

    def stats(self) -> BackendStats:
        """With those."""
        found = self.inner.stats()
        return replace(found, keys=None if found.keys is None else found.keys + self._more)


@mutant("takes-nothing-for-what-is-absent", "OPT-02")
class TakesNothing(Wrapper):
    """Answers stored_bytes of an absent key with 0."""

    def stored_bytes(self, key: CacheEngineKey) -> int | None:
        """Or nothing."""
        return self.inner.stored_bytes(key) or 0


@mutant("counts-since-it-was-asked", "OPT-02")
class CountsSinceAsked(Wrapper):
    """Begins its counters anew each time that they are read."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._written = 0

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And count."""
        self.inner.put(client_meta, kv_chunk_bytes)
        self._written += client_meta.length + 1

    def stats(self) -> BackendStats:
        """And begin anew."""
        written, self._written = self._written, 0
        return replace(self.inner.stats(), bytes_written=written)


@mutant("counts-misses-as-failures", "OPT-02")
class CountsMisses(Wrapper):
    """Counts each key that was asked for in vain as a failure of the medium."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._failed = 0

    def contains_many(self, keys: Sequence[CacheEngineKey]) -> list[bool]:
        """And count."""
        found = self.inner.contains_many(keys)
        self._failed += found.count(False)
        return found

    def stats(self) -> BackendStats:
        """With the misses."""
        found = self.inner.stats()
        return replace(found, failures=found.failures + self._failed)


@mutant("tells-of-shrunk-chunks-that-are-gone", "OPT-06")
class TellsOfGone(Wrapper):
    """Tells of chunks as shrunk that were removed meanwhile."""

    def __init__(self, inner: LMSBackendInterface) -> None:
        super().__init__(inner)
        self._shrunk: dict[str, int] = {}

    def remove(self, key: CacheEngineKey) -> None:
        """And note it."""
        if self.inner.contains(key):
            self._shrunk[text_of(key)] = 0
        self.inner.remove(key)

    def shrunk(self) -> dict[str, int]:
        """Of what is gone."""
        return self._shrunk


@mutant("asks-for-a-prefix-as-a-truth", "OPT-02")
class PrefixTruth(Wrapper):
    """Answers contains_prefix of one key with True or False."""

    def contains_prefix(self, keys: Sequence[CacheEngineKey]) -> int:
        """Of one key."""
        found = self.inner.contains_prefix(keys)
        return bool(found) if len(keys) == 1 else found


# -- declaring -------------------------------------------------------------------------------------------------------


@mutant("declares-less-after-an-error", "OPT-13")
class DeclaresLess(Wrapper):
    """Declares fewer capabilities once a put was refused."""

    _refused = False

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # the wrapped backend's, at first
        """Without forkable, then."""
        found = self.inner.capabilities
        return replace(found, policy="lru" if found.policy is None else None) if self._refused else found

    def put(self, client_meta: ClientMetaMessage, kv_chunk_bytes: bytearray) -> None:
        """And note a refusal."""
        try:
            self.inner.put(client_meta, own_bytes(kv_chunk_bytes))
        except LmsTiersError:
            self._refused = True
            raise


@mutant("reserves-less-for-more", "OPT-13")
class ReservesLess(Wrapper):
    """Reserves whole pages for short chunks, and the bare length for long ones."""

    def reserve_bytes(self, length: int) -> int:
        """Of long ones, the length."""
        return max(self.inner.reserve_bytes(length), 1 << 21 if length < 1 << 20 else 0)
