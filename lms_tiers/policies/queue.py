"""An intrusive doubly linked queue: the order of held keys that most policies keep, O(1) at both ends and within.

A node is its own handle: a policy maps keys to nodes and needs no second look-up. 80 bytes a node beside the key.
Which end a policy evicts from is its own business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar


class Node:
    """One held key. Linked into at most one queue at a time, `queue`: the one that it was linked into last."""

    __slots__ = ("key", "newer", "older", "queue", "size")

    key: str
    size: int
    older: Node
    newer: Node
    queue: Queue[Any]

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.size = size


N = TypeVar("N", bound=Node)


class Queue(Generic[N]):
    """Nodes from oldest to newest, with the bytes they take.

    Examples
    --------
    >>> queue = Queue[Node]()
    >>> for key in "abc":
    ...     queue.append(Node(key, 1))
    >>> [node.key for node in queue], queue.nbytes
    (['a', 'b', 'c'], 3)
    """

    __slots__ = ("count", "end", "nbytes")

    def __init__(self) -> None:
        # The sentinel closes the ring: `end.newer` is the oldest node, `end.older` the newest.
        self.end = Node("", 0)
        self.end.older = self.end.newer = self.end
        self.count = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return self.count

    def append(self, node: N) -> None:
        """Link `node` as the newest."""
        end = self.end
        last = end.older
        node.older = last
        node.newer = end
        last.newer = end.older = node
        node.queue = self
        self.count += 1
        self.nbytes += node.size

    def insert_before(self, node: N, newer: Node) -> None:
        """Link `node` just older than `newer`, a node of this queue."""
        before = newer.older
        node.older = before
        node.newer = newer
        before.newer = newer.older = node
        node.queue = self
        self.count += 1
        self.nbytes += node.size

    def unlink(self, node: N) -> None:
        """Take `node` out."""
        older, newer = node.older, node.newer
        older.newer = newer
        newer.older = older
        self.count -= 1
        self.nbytes -= node.size

    def resize(self, node: N, size: int) -> None:
        """`node` takes `size` bytes, and stays where it is."""
        self.nbytes += size - node.size
        node.size = size

    def __iter__(self) -> Iterator[N]:
        """Nodes from oldest to newest; the queue may not change meanwhile."""
        node = self.end.newer
        while node is not self.end:
            yield node  # type: ignore[misc]  # only nodes of type N are ever linked
            node = node.newer

    def __reversed__(self) -> Iterator[N]:
        """Nodes from newest to oldest; the queue may not change meanwhile."""
        node = self.end.older
        while node is not self.end:
            yield node  # type: ignore[misc]  # only nodes of type N are ever linked
            node = node.older
