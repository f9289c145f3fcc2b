"""What the store knows of each chunk: one small object per generation. No bytes, no policy, no locks.

The index (canonical key text → `Entry`) is the truth: a backend that holds a key the index does not grant is invisible.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Final, NamedTuple

from lms_tiers.messages import CacheEngineKey, ChunkMeta, key_text

#: Distinct tuples of charges kept for sharing; chunks of one model take few different sizes.
_SHARED_CHARGES: Final = 1 << 16


class Entry:
    """One generation of one chunk. Its identity is the generation: ``index[text] is entry`` means "still the newest".

    Attributes
    ----------
    meta : ChunkMeta
    tiers : int
        Bit i: tier i is granted, it holds the bytes of this generation. Bit (number of tiers + i): tier i cannot hold
        a chunk of this size. The bit above them: it was hit below the top since it was there last. A live entry (one
        in the index) is granted in one tier at least; the grants of a dead one are frozen, so that a reader without
        the lock never sees a stored key in no tier.
    charges : tuple of int
        Physical bytes charged in each tier, 0 where not granted.
    parent : str or None
    position : int
        Where the chunk stands in its prefix chain, as far as its put told: lower tiers' policies want it later.
    """

    __slots__ = ("charges", "meta", "parent", "position", "tiers")

    def __init__(
        self, meta: ChunkMeta, tiers: int, charges: tuple[int, ...], parent: str | None = None, position: int = -1
    ) -> None:
        self.meta = meta
        self.tiers = tiers
        self.charges = charges
        self.parent = parent
        self.position = position


class Fit(NamedTuple):
    """What a chunk of one length needs.

    Attributes
    ----------
    needs : tuple of int or None
        Bytes to reserve in each tier, None where it never fits.
    unfit : int
        The bits of an `Entry` for the latter.
    """

    needs: tuple[int | None, ...]
    unfit: int


class Charges:
    """Tuples of charges, shared between entries: 8 bytes an entry instead of 70."""

    __slots__ = ("_first", "_shared", "nowhere")

    def __init__(self, tiers: int) -> None:
        self.nowhere: Final = (0,) * tiers
        self._shared: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._first: dict[tuple[int, int], tuple[int, ...]] = {}

    def first(self, position: int, nbytes: int) -> tuple[int, ...]:
        """The charges of an entry that one tier holds."""
        found = self._first.get((position, nbytes))
        if found is None:
            found = self.changed(self.nowhere, position, nbytes)
            if len(self._first) < _SHARED_CHARGES:
                self._first[position, nbytes] = found
        return found

    def changed(self, charges: tuple[int, ...], position: int, nbytes: int) -> tuple[int, ...]:
        """`charges` with another value at `position`."""
        new = (*charges[:position], nbytes, *charges[position + 1 :])
        if len(self._shared) < _SHARED_CHARGES:
            return self._shared.setdefault(new, new)
        return self._shared.get(new, new)


def known_text(index: Container[Any], key: CacheEngineKey) -> str:
    """The key's text. One that is in the index needs no checking: it was checked when it was put."""
    try:
        text = key.to_string()
        if text in index:
            return text
    except (AttributeError, TypeError):
        pass  # said better by the check
    return key_text(key)


def known_texts(index: Container[Any], keys: Sequence[CacheEngineKey]) -> list[str]:
    """The texts of `keys`, checked where one of them is not in the index."""
    try:
        texts = [key.to_string() for key in keys]
        if all(map(index.__contains__, texts)):
            return texts
    except (AttributeError, TypeError):
        pass  # said better by the check
    return [key_text(key) for key in keys]
