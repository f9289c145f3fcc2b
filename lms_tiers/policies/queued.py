"""What the policies have in common that keep each held key as a node in one of their queues."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Generic

from lms_tiers.policies.base import EvictionPolicy, RemoveReason
from lms_tiers.policies.queue import N, Queue
from lms_tiers.policies.saved import MAX_SAVED_KEYS, hashes, key_hash, pack, unpack


class QueuePolicy(EvictionPolicy, Generic[N]):
    """A subclass makes its queues by `_made`, links nodes in `on_insert` and `on_hit`, and says what is saved of them.

    Saved are the order of the newest keys of each queue, and a number of each; ghosts and hands are not.
    """

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__(capacity, clock)
        self._nodes: dict[str, N] = {}
        self._queues: dict[str, Queue[N]] = {}

    def _made(self, name: str) -> Queue[N]:
        """A queue, saved as `name`. A held key that was not saved goes into the first one."""
        queue = self._queues[name] = Queue[N]()
        return queue

    def _link(self, node: N, queue: Queue[N]) -> None:
        self._nodes[node.key] = node
        queue.append(node)

    def on_shrink(self, key: str, size: int) -> None:  # noqa: D102
        node = self._nodes[key]
        node.queue.resize(node, size)

    def on_remove(self, key: str, reason: RemoveReason) -> None:  # noqa: D102
        node = self._nodes.pop(key)
        node.queue.unlink(node)

    def victims(self, bytes_needed: int, protected: Container[str]) -> Iterator[str]:
        """The oldest first, one queue after the other."""
        for node in chain.from_iterable(self._queues.values()):
            if bytes_needed <= 0:
                return
            if node.key not in protected:
                bytes_needed -= node.size
                yield node.key

    def __len__(self) -> int:
        return len(self._nodes)

    def _number(self, node: N) -> int:
        """What is saved of a node beside its place."""
        return 0

    def _numbers(self) -> Iterable[int]:
        """What is saved of the policy itself."""
        return ()

    def state(self) -> bytes:
        """The order of the newest keys."""
        queues = {name: reversed(queue) for name, queue in self._queues.items()}
        return pack_nodes(f"{self.name}/1", self._number, self._numbers(), **queues)

    def restore(self, state: bytes) -> None:
        """Put the held keys back in their order; those not saved rank newest."""
        held = chain.from_iterable(self._queues.values())
        for node, queue, number in unpack_nodes(f"{self.name}/1", state, held):
            node.queue.unlink(node)
            self._restore(node, queue, number)

    def _restore(self, node: N, queue: str, number: int) -> None:
        """Link a node anew that stood in the queue of that name, ``""`` where it was not saved."""
        self._queues.get(queue, next(iter(self._queues.values()))).append(node)


def pack_nodes(policy: str, number: Callable[[Any], int], numbers: Iterable[int] = (), **queues: Iterable[N]) -> bytes:
    """Save the order of some queues, each handed newest first, with one number a node and some of the policy's own."""
    sections: dict[str, array[Any]] = {"numbers": array("q", numbers)}
    for name, queue in queues.items():
        newest = list(islice(queue, MAX_SAVED_KEYS))
        sections[name] = hashes(node.key for node in newest)
        sections[name + ".value"] = array("q", map(number, newest))
    return pack(policy, sections)


def unpack_nodes(policy: str, state: bytes, held: Iterable[N]) -> list[tuple[N, str, int]]:
    """The held nodes in the order to append them in: (node, name of its queue, its number).

    Nodes not saved come last in their present order, with the queue ``""``; first where the save was cut off at its
    limit, because then they are the oldest. Nothing where the state is unusable.
    """
    sections = unpack(policy, state)
    if sections is None:
        return []
    by_hash = {key_hash(node.key): node for node in held}
    known: list[tuple[N, str, int]] = []
    full = False
    for name, section in sections.items():
        if name == "numbers" or name.endswith(".value"):
            continue
        full = full or len(section) == MAX_SAVED_KEYS
        saved = zip(reversed(section), reversed(sections[name + ".value"]), strict=True)
        known.extend((by_hash.pop(h), name, number) for h, number in saved if h in by_hash)
    others = [(node, "", 0) for node in by_hash.values()]
    return others + known if full else known + others
