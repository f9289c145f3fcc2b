"""The built-in eviction policies, registered through the same hook as a third party's.

One file per policy. A policy sees keys, sizes and times; it knows no backend and no thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lms_tiers.hookspecs import PolicySpec, hookimpl

_BUILT_INS: Final = (
    ("lru", "lru:Lru", "least recently used, the tail of a chain first (default)"),
    ("leaf_lru", "leaf_lru:LeafLru", "LRU over leaves: children pin parents, partial tails are not kept"),
    ("hazard", "hazard:Hazard", "learns when chunks return, by use and by shape of their request"),
    ("fifo", "fifo:Fifo", "first in, first out"),
    ("lfu", "lfu:Lfu", "least frequently used, with ageing"),
    ("sieve", "sieve:Sieve", "SIEVE: a queue, a bit and a hand"),
    ("s3fifo", "s3fifo:S3Fifo", "S3-FIFO: a trial queue, a main queue and ghosts"),
    ("arc", "arc:Arc", "ARC: balances recency and frequency by ghosts"),
    ("twoq", "twoq:TwoQ", "2Q: newcomers by FIFO, returners by LRU"),
    ("gdsf", "gdsf:Gdsf", "GreedyDual-Size-Frequency: size-aware LFU with ageing"),
    ("wtinylfu", "wtinylfu:WTinyLfu", "W-TinyLFU: a window, a segmented LRU and a frequency sketch"),
)


@hookimpl
def register_policies(register: Callable[[PolicySpec], None]) -> None:
    """Register every built-in policy."""
    for name, where, summary in _BUILT_INS:
        register(PolicySpec(name=name, factory=f"lms_tiers.policies.{where}", summary=summary))
    register(
        PolicySpec(
            name="opt",
            factory="lms_tiers.policies.opt:Opt",
            summary="Belady's optimum, which knows the future",
            simulation_only=True,
        )
    )
