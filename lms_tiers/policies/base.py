"""The interface of eviction and admission policies: keys, sizes and times; never values, I/O or threads.

A tier calls its policy under its lock, from one thread at a time, so each call costs microseconds and raises nothing.
A policy proposes victims and changes nothing by proposing; `on_remove` tells it what has really left.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Container, Iterator
from typing import ClassVar, NamedTuple


class AccessContext(NamedTuple):
    """What is known of one access. A tuple: each key of each call gets one, and frozen dataclasses take thrice as long.

    Attributes
    ----------
    now : float
        Seconds of the injected clock.
    request_id : int, str or None
        Accesses of one request share it.
    parent : str or None
        Key of the chunk before this one in its prefix chain; None for a chain's first chunk, or where unknown.
    position : int
        Place in the chain, 0 for the first chunk, −1 where unknown.
    partial : bool or None
        Whether this is a request's partly filled last chunk (almost never reused); None where unknown.
    length : int
        Chunks of the request's chain as far as the caller knows it, −1 where unknown.
    demoted : bool
        Whether the chunk comes down from a tier above; then nobody has used it now.
    promote : bool
        Whether the store may move the chunk up for this access.
    """

    now: float
    request_id: int | str | None = None
    parent: str | None = None
    position: int = -1
    partial: bool | None = None
    length: int = -1
    demoted: bool = False
    promote: bool = True


class RemoveReason(enum.Enum):
    """Why a key left a tier."""

    EVICTED = "evicted"
    REMOVED = "removed"
    REPLACED = "replaced"


class EvictionPolicy(abc.ABC):
    """Which chunks a tier keeps.

    Parameters
    ----------
    capacity : int
        Bytes the tier may hold.
    clock : callable
        Seconds, monotonic; a policy never reads another clock.
    """

    name: ClassVar[str]

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self.capacity = capacity
        self.clock = clock

    def admit(self, key: str, size: int, context: AccessContext) -> bool:
        """Whether a chunk not held should be stored at all. Asked before `on_insert`; changes nothing."""
        return True

    @abc.abstractmethod
    def on_insert(self, key: str, size: int, context: AccessContext) -> None:
        """`key`, not held before, is now held and takes `size` bytes."""

    @abc.abstractmethod
    def on_hit(self, key: str, context: AccessContext) -> None:
        """`key`, held, was used."""

    def on_shrink(self, key: str, size: int) -> None:
        """`key`, held, takes `size` bytes from now on, fewer than before, and was not used for that.

        A policy that does not take this call is asked for victims without an end, until the tier has enough.
        """

    @abc.abstractmethod
    def on_remove(self, key: str, reason: RemoveReason) -> None:
        """`key`, held before, is gone."""

    @abc.abstractmethod
    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Held keys in the order they should leave, until at least `bytes_needed` bytes are covered.

        Distinct, held, none of `protected`; fewer bytes only when nothing else is left. Nothing changes: the caller
        may stop early, drop some, all or none of them, and tells by `on_remove`. Consumed before any other call.
        """

    @abc.abstractmethod
    def __len__(self) -> int:
        """Keys held."""

    def on_resize(self, capacity: int) -> None:
        """The tier's capacity changed."""
        self.capacity = capacity

    def state(self) -> bytes:
        """What the policy would like to remember over a restart (order, counts, ghosts); no pickle."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take over a `state` saved earlier, once, after the held keys were inserted; unusable bytes are ignored."""
