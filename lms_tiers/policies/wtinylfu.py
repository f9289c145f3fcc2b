"""W-TinyLFU: a small LRU window before a segmented LRU, and a frequency sketch that decides who of the two may stay.

G. Einziger et al., "TinyLFU: A Highly Efficient Cache Admission Policy", ACM ToS 13(4), 2017.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator
from itertools import chain
from typing import ClassVar, Final

from lms_tiers.policies.base import AccessContext, RemoveReason
from lms_tiers.policies.queue import Node
from lms_tiers.policies.queued import QueuePolicy
from lms_tiers.policies.sketch import Sketch

_WINDOW: Final = 0.01
_PROTECTED: Final = 0.8


class WTinyLfu(QueuePolicy[Node]):
    """Evicts the loser of a duel of frequencies between the window's and the main part's oldest."""

    name: ClassVar[str] = "wtinylfu"

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._trial = self._made("trial")
        self._proven = self._made("proven")
        self._window = self._made("window")
        self._sketch = Sketch()

    def on_insert(self, key: str, size: int, context: AccessContext) -> None:  # noqa: D102
        self._link(Node(key, size), self._window)
        self._sketch.fit(len(self._nodes))
        self._sketch.add(key)
        while self._window.nbytes > self._window_bytes and self._window.count > 1:
            oldest = next(iter(self._window))
            if self._main_bytes + oldest.size > self.capacity - self._window_bytes:
                break  # main is full: the next eviction decides by a duel
            self._window.unlink(oldest)
            self._trial.append(oldest)

    @property
    def _window_bytes(self) -> int:
        return int(self.capacity * _WINDOW)

    @property
    def _main_bytes(self) -> int:
        return self._trial.nbytes + self._proven.nbytes

    def on_hit(self, key: str, context: AccessContext) -> None:  # noqa: D102
        self._sketch.add(key)
        node = self._nodes[key]
        node.queue.unlink(node)
        (self._window if node.queue is self._window else self._proven).append(node)
        limit = (self.capacity - self._window_bytes) * _PROTECTED
        while self._proven.nbytes > limit and self._proven.count > 1:
            oldest = next(iter(self._proven))
            self._proven.unlink(oldest)
            self._trial.append(oldest)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._nodes.pop(key)
        node.queue.unlink(node)
        if reason is RemoveReason.EVICTED and node.queue is not self._window:
            winner = next(iter(self._window), None)  # the one that won the duel moves up
            if winner is not None and self._window.nbytes >= self._window_bytes:
                self._window.unlink(winner)
                self._trial.append(winner)

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """Play the duels through on the side: `promoted` holds the window's winners."""
        window, main = iter(self._window), chain(self._trial, self._proven)
        promoted: deque[Node] = deque()
        nbytes = self._window.nbytes
        candidate, resident = next(window, None), next(main, None)
        while bytes_needed > 0:
            if resident is None and promoted:
                resident = promoted.popleft()
            if candidate is not None and (resident is None or nbytes >= self._window_bytes):
                nbytes -= candidate.size
                if resident is not None and self._sketch.count(candidate.key) > self._sketch.count(resident.key):
                    loser, resident = resident, next(main, None)
                    promoted.append(candidate)
                else:
                    loser = candidate
                candidate = next(window, None)
            elif resident is not None:
                loser, resident = resident, next(main, None)
            else:
                return
            if loser.key not in protected:
                bytes_needed -= loser.size
                yield loser.key

    def _number(self, node: Node) -> int:
        return self._sketch.count(node.key)

    def _restore(self, node: Node, queue: str, number: int) -> None:
        super()._restore(node, queue, number)
        for _ in range(self._sketch.count(node.key), number):
            self._sketch.add(node.key)
