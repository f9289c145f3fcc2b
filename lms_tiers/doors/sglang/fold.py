"""How far a prefix can be restored where several pools have to have it: what `batch_exists_v2` answers of what is held.

The specification is what SGLang's own file backend answers, as of 0.5.23. Nothing here knows stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Beside:
    """A pool beside the keys' own.

    Attributes
    ----------
    name : object
        What its hits are counted under.
    held : sequence of bool
        Of each key, whether the pool's page is there.
    window : int or None
        Of a prefix, the last so many pages have to be there; None: all of them.
    """

    name: object
    held: Sequence[bool]
    window: int | None


def leading(held: Sequence[bool]) -> int:
    """How many are held without a gap.

    Examples
    --------
    >>> leading([True, True, False, True])
    2
    """
    return (*held, False).index(False)


def fold(own: object, held: Sequence[bool], beside: Sequence[Beside]) -> tuple[int, dict[object, int], list[int]]:
    """Pages that can be restored, each pool's own longest prefix, and all lengths that can be restored.

    A pool behind one that leaves nothing to restore is not looked at, and has no verdict.

    Examples
    --------
    >>> fold("kv", [True] * 4, [Beside("mamba", [False, True, False, True], window=1)])
    (4, {'kv': 4, 'mamba': 4}, [2, 4])
    >>> fold("kv", [True] * 4, [Beside("indexer", [True, True, False, True], window=None)])
    (2, {'kv': 4, 'indexer': 2}, [1, 2])
    """
    pages = leading(held)
    hits: dict[object, int] = {own: pages} if pages else {}
    lengths = list(range(1, pages + 1))
    for pool in beside:
        if not lengths:
            break
        if pool.window is None:
            good = set(range(1, leading(pool.held[:pages]) + 1))
        else:
            good = {n for n in range(1, pages + 1) if all(pool.held[max(0, n - pool.window) : n])}
        if good:
            hits[pool.name] = max(good)
        lengths = [length for length in lengths if length in good]
    return (lengths[-1] if lengths else 0), hits, lengths
