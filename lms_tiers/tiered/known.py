"""What a store answers from its index, without a call of a backend: which keys it holds, where, and until when.

While the lowest tier is being loaded, a key that is not in the index yet is looked up first; keys of a tier shared with
others are in no index, and are asked for. Nothing here reads or writes a chunk.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final, List

from lms_tiers.changes import mending
from lms_tiers.errors import ConfigError
from lms_tiers.interface import ChunkInfo, LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, key_text
from lms_tiers.tiered.paths.beyond import Beyond
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import known_text
from lms_tiers.tiered.watch.stats import StoredChunk

#: Chunks described, and leases given or taken back, in one go: it takes the lock.
_STEP: Final = 256
_LEASES: Final = 1024


class Known(LMSBackendInterface):
    """The calls of `TieredStore` that need its index only."""

    _h: Hierarchy
    _beyond: Beyond | None

    @property
    def loading(self) -> bool:
        """Whether the lowest tier is still being taken into the index; the store serves all the same."""
        return self._h.loading is not None

    @mending
    def tiers_of(self, key: CacheEngineKey) -> tuple[str, ...]:
        """Names of the tiers that hold `key` now, fastest first; none where it is absent. Once loaded, by the index."""
        self._h.check_open()
        text = known_text(self._h.index, key)
        self._h.settle(text)
        entry = self._h.index.get(text)
        return () if entry is None else tuple(tier.name for tier in self._h.tiers if entry.tiers & tier.bit)

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key some tier holds."""
        return list(self.iter_keys())

    def iter_keys(self) -> Iterator[CacheEngineKey]:
        """As `list_keys`, each key made when its turn comes."""
        self._h.check_open()
        loading, listed = self._h.loading, list(self._h.index)
        rest = () if loading is None else loading.unlisted(frozenset(listed))
        mine = map(CacheEngineKey.from_string, itertools.chain(listed, rest))
        if self._beyond is None:
            return mine
        known = frozenset(listed)
        return itertools.chain(mine, (key for key in self._beyond.listed() if key.to_string() not in known))

    @mending
    def info(self, key: CacheEngineKey) -> StoredChunk | None:
        """Metadata, tiers, bytes and lease of a chunk; None where no private tier holds it. No use, and no backend."""
        self._h.check_open()
        text = known_text(self._h.index, key)
        self._h.settle(text)
        with self._h.lock:
            return self._described(text)

    def reserve_bytes(self, length: int) -> int:
        """Upper bound of the physical bytes that a chunk of `length` bytes takes in all tiers together."""
        most = sum(need for need in self._h.fit(length).needs if need is not None)
        return most if self._beyond is None else most + self._beyond.backend.reserve_bytes(length)

    def scan(self) -> Iterator[ChunkInfo]:
        """Every chunk: a `StoredChunk` for each in the index, in its order; then what else a shared tier lists.

        A chunk that rises from the shared tier meanwhile, or is left there only, is told once.

        Raises
        ------
        StorageUnavailableError
            A tier that has to be asked cannot list its chunks.
        """
        self._h.check_open()
        if self._beyond is None:
            yield from self._descriptions()
            return
        told = set()
        for chunk in self._descriptions():
            told.add(chunk.key.to_string())
            yield chunk
        yield from (chunk for chunk in self._beyond.scan() if chunk.key.to_string() not in told)

    def _descriptions(self) -> Iterator[StoredChunk]:
        h = self._h
        loading, listed = h.loading, list(h.index)
        known = frozenset() if loading is None else frozenset(listed)
        for at in range(0, len(listed), _STEP):
            with h.lock:
                found = [self._described(text) for text in listed[at : at + _STEP]]
            yield from (chunk for chunk in found if chunk is not None)
        for text in () if loading is None else loading.unlisted(known):
            self._h.settle(text)
            with h.lock:
                chunk = self._described(text)
            if chunk is not None:
                yield chunk

    def _described(self, text: str) -> StoredChunk | None:
        h = self._h
        entry = h.index.get(text)
        if entry is None:
            return None
        tiers = {tier.name: entry.charges[tier.position] for tier in h.tiers if entry.tiers & tier.bit}
        until = h.pins.until(text)
        if until is not None and until <= h.clock():
            until = None
        return StoredChunk(CacheEngineKey.from_string(text), entry.meta, sum(tiers.values()), tiers, until)

    @mending
    def pin(self, keys: Sequence[CacheEngineKey], seconds: float) -> int:
        """Keep the leading `keys` that are present where they are for `seconds`; answers how many that were.

        A pinned chunk is not evicted from any tier that holds it. It can be overwritten and removed. A later pin of a
        key replaces an earlier one; 0 seconds unpin. Leases of `pin_each` stay as they are.
        """
        self._h.check_open()
        texts = [key_text(key) for key in keys]
        self._settle_all(texts)
        h = self._h
        until = h.clock() + seconds
        with h.lock:
            for i, text in enumerate(texts):
                if not self._present(text):
                    return i
                if seconds > 0:
                    h.pins.pin(text, until)
                else:
                    h.pins.unpin(text)
            h.wake()
        return len(texts)

    @mending
    def pin_each(self, keys: Sequence[CacheEngineKey], seconds: float, *, holder: str | int = "") -> list[bool]:
        """Give `holder` a lease of each of `keys` that is present, for `seconds`.

        A chunk is not evicted from the tiers that hold it as long as anybody has a lease of it. Leases are counted: who
        pins a key twice unpins it twice. Each ends by itself when its time is over.

        Parameters
        ----------
        holder : str or int
            Whose leases they are, such as a request's id: nobody gives back those of another. Without one, they are of
            all who name none.

        Returns
        -------
        list of bool
            Which keys are pinned now. False for one that is absent, or that only a tier shared with others holds, and
            where there are a million leases already.

        Raises
        ------
        ConfigError
            `seconds` is not a positive number.
        """
        self._h.check_open()
        if not 0 < seconds < math.inf:
            raise ConfigError(f"a lease lasts a positive number of seconds, not {seconds!r}.")
        texts = [key_text(key) for key in keys]
        self._settle_all(texts)
        h = self._h
        now = h.clock()
        pinned: list[bool] = []
        for at in range(0, len(texts), _LEASES):
            with h.lock:
                h.pins.expire(now)
                for text in texts[at : at + _LEASES]:
                    pinned.append(self._present(text) and h.pins.lease(text, now + seconds, str(holder)))
        return pinned

    @mending
    def unpin_each(self, keys: Sequence[CacheEngineKey], *, holder: str | int = "") -> list[bool]:
        """Give back one lease of each of `keys`: of those of `holder`, the one that ends first.

        Returns
        -------
        list of bool
            Of which keys it had one.
        """
        self._h.check_open()
        h, texts = self._h, [key_text(key) for key in keys]
        given: list[bool] = []
        for at in range(0, len(texts), _LEASES):
            with h.lock:
                h.pins.expire(h.clock())
                given += [h.pins.give_back(text, str(holder)) for text in texts[at : at + _LEASES]]
                h.wake()
        return given

    def _present(self, text: str) -> bool:
        entry = self._h.index.get(text)
        return entry is not None and bool(entry.tiers & self._h.up)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _mend(self, error: BaseException) -> None:
        """Make the store whole after a call that `error` ended."""
        self._h.mend(error)

    def _settle_all(self, texts: Sequence[str], change: bool = False) -> None:
        for text in texts if self._h.loading is not None else ():
            self._h.settle(text, change)

    def _held(self, keys: Sequence[CacheEngineKey], texts: Sequence[str]) -> list[bool]:
        """Which keys are present."""
        beyond = self._beyond
        held = [self._contains(text) and not (beyond is not None and beyond.edge.outdated(text)) for text in texts]
        if beyond is not None and not all(held):
            far = [i for i, present in enumerate(held) if not present]
            answers = beyond.contains([keys[i] for i in far], [texts[i] for i in far])
            for i, answer in zip(far, answers, strict=True):
                held[i] = answer
        return held

    def _contains(self, text: str) -> bool:
        h = self._h
        loading = h.loading  # it may end between two looks
        if loading is not None and loading.holds(text):
            return True
        while True:
            entry = h.index.get(text)
            if entry is None:
                return False
            if entry.tiers & h.up:
                return True
            if h.index.get(text) is entry:
                # In switched-off tiers only: present as soon as a get would try one of them again.
                return any(entry.tiers & tier.bit and tier.due() for tier in h.tiers)
