"""What a store answers from its index, without a call of a backend: which keys it holds, where, and until when.

While the lowest tier is being loaded, a key that is not in the index yet is looked up first; keys of a tier shared with
others are in no index, and are asked for. Nothing here reads or writes a chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from os import getpid
from typing import List

from lms_tiers.errors import BackendClosedError, ForkedProcessError
from lms_tiers.interface import LMSBackendInterface
from lms_tiers.messages import CacheEngineKey, key_text
from lms_tiers.tiered.life.audit import mending
from lms_tiers.tiered.paths.beyond import Beyond
from lms_tiers.tiered.state.hierarchy import Hierarchy
from lms_tiers.tiered.state.index import known_text
from lms_tiers.tiered.state.pinning import pin


class Known(LMSBackendInterface):
    """The calls of `TieredStore` that need its index only."""

    _h: Hierarchy
    _beyond: Beyond | None
    _pid: int
    _name: str

    @property
    def loading(self) -> bool:
        """Whether the lowest tier is still being taken into the index; the store serves all the same."""
        return self._h.loading is not None

    @mending
    def tiers_of(self, key: CacheEngineKey) -> tuple[str, ...]:
        """Names of the tiers that hold `key` now, fastest first; none where it is absent. Once loaded, by the index."""
        self._check_open()
        text = known_text(self._h.index, key)
        self._settle(text)
        entry = self._h.index.get(text)
        return () if entry is None else tuple(tier.name for tier in self._h.tiers if entry.tiers & tier.bit)

    def list_keys(self) -> List[CacheEngineKey]:
        """Every key some tier holds."""
        return list(self.iter_keys())

    def iter_keys(self) -> Iterator[CacheEngineKey]:
        """As `list_keys`, each key made when its turn comes."""
        self._check_open()
        loading, listed = self._h.loading, list(self._h.index)
        rest = () if loading is None else loading.unlisted(frozenset(listed))
        mine = map(CacheEngineKey.from_string, itertools.chain(listed, rest))
        if self._beyond is None:
            return mine
        known = frozenset(listed)
        return itertools.chain(mine, (key for key in self._beyond.listed() if key.to_string() not in known))

    @mending
    def pin(self, keys: Sequence[CacheEngineKey], seconds: float) -> int:
        """Keep the leading `keys` that are present where they are for `seconds`; answers how many that were.

        A pinned chunk is not evicted from any tier that holds it. It can be overwritten and removed. A later pin of a
        key replaces an earlier one; 0 seconds unpin.
        """
        self._check_open()
        texts = [key_text(key) for key in keys]
        for text in texts:
            self._settle(text)
        return pin(self._h, texts, seconds)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _check_process(self) -> None:
        if getpid() != self._pid:
            raise ForkedProcessError(f"the store {self._name}")

    def _check_open(self) -> None:
        if getpid() != self._pid:
            raise ForkedProcessError(f"the store {self._name}")
        if self._h.closing:
            raise BackendClosedError(f"the store {self._name}")

    def _settle(self, text: str, change: bool = False) -> None:
        """While the lowest tier is being loaded: let the index tell the truth about `text`."""
        loading = self._h.loading
        if loading is not None:
            loading.settle(text, change)

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
        if h.loading is not None:
            self._settle(text)
        while True:
            entry = h.index.get(text)
            if entry is None:
                return False
            if entry.tiers & h.up:
                return True
            if h.index.get(text) is entry:
                # In switched-off tiers only: present as soon as a get would try one of them again.
                return any(entry.tiers & tier.bit and tier.breaker.due() for tier in h.tiers)
