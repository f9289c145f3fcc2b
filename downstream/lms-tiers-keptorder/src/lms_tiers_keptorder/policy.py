"""The policy `keptorder`: least recently used. Replace the order by your own."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import ClassVar

from lms_tiers.policies.base import AccessContext, EvictionPolicy, RemoveReason


class KeptorderPolicy(EvictionPolicy):
    """Victims in the order of last use. A tier calls it under its lock: every call costs microseconds."""

    name: ClassVar[str] = "keptorder"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._sizes: dict[str, int] = {}

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:
        """The newest goes to the end."""
        self._sizes[key] = size

    def on_hit(self, key: str, context: AccessContext) -> None:
        """What was used goes to the end."""
        self._sizes[key] = self._sizes.pop(key)

    def on_remove(self, key: str, reason: RemoveReason) -> None:
        """Forget it."""
        del self._sizes[key]

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Propose from the front; nothing changes by proposing."""
        chosen: list[str] = []
        for key, size in self._sizes.items():
            if bytes_needed <= 0:
                break
            if key not in protected:
                bytes_needed -= size
                chosen.append(key)
        return iter(chosen)

    def __len__(self) -> int:
        return len(self._sizes)

    def state(self) -> bytes:
        """The order, for a warm restart."""
        return "\0".join(self._sizes).encode()

    def restore(self, state: bytes) -> None:
        """Take the saved order over; what it does not name keeps its place."""
        for key in state.decode(errors="replace").split("\0"):
            if key in self._sizes:
                self._sizes[key] = self._sizes.pop(key)
